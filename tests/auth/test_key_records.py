"""Records of keys: when they hold, what they carry, and how they are written."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from hypothesis import example, given
from hypothesis import strategies as st

from mlguard import APIKey, APIKeyAuth, APIKeys, ConfigurationError
from tests.asgi import call

NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)
ALICE = "Vq3tYxw0ZkLr8HcNfUe5Rj_bPa2GsT7dMi"


def status(record: APIKey, secret: str, now: datetime = NOON) -> int:
    """What a request gets at this time."""
    app = FastAPI()

    @app.get("/", dependencies=[Depends(APIKeyAuth(APIKeys([record]), clock=now.timestamp))])
    async def ready() -> None: ...

    return call(app, "/", method="GET", headers=[(b"x-api-key", secret.encode())]).status


def test_a_key_begins_to_hold_to_the_instant() -> None:
    """Refused until just before, accepted from then on."""
    record, secret = APIKey.generate("alice", not_before=NOON)
    offsets = (-3600.0, -0.001, 0.0, 0.001)
    assert [status(record, secret, NOON + timedelta(seconds=offset)) for offset in offsets] == [401, 401, 200, 200]


def test_a_disabled_key_is_refused() -> None:
    """Whatever the time."""
    _, secret = APIKey.generate("alice")
    record = APIKey.parse(f"alice={secret};disabled=true")
    assert record.disabled
    assert status(record, secret) == 401


@pytest.mark.parametrize(
    ("option", "state"),
    [
        ("", "live"),
        (";disabled=true", "disabled"),
        (";expires=2027-01-31T12:00:00Z", "expired"),
        (";not_before=2027-01-31T12:00:01Z", "not yet valid"),
        (";not_before=2027-01-31T12:00:00Z;expires=2027-01-31T12:00:01Z", "live"),
        (";disabled=true;expires=2020-01-01T00:00:00Z", "disabled"),
    ],
)
def test_state_says_why(option: str, state: str) -> None:
    """In words for lists and logs."""
    assert APIKey.parse(f"alice={ALICE}{option}").state(NOON.timestamp()) == state


moments = st.none() | st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2029, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)


@example(not_before=datetime(2020, 2, 29, 23, 59, 59, 999_999, UTC), disabled=True, limits={"600/minute", "9/day"})
@given(moments, st.booleans(), st.sets(st.sampled_from(["600/minute", "5/10 seconds", "9/day"])))
def test_every_field_is_written_and_read(not_before: datetime | None, disabled: bool, limits: set[str]) -> None:
    """An entry that left out "disabled" would open a door."""
    made, _ = APIKey.generate("alice", scopes={"predict"}, limits=[*limits], not_before=not_before, expires_at=LATE)
    record = APIKey(
        made.id, made.digest, made.scopes, LATE, not_before=not_before, disabled=disabled, limits=made.limits,
        key_id=made.key_id,
    )  # fmt: skip
    again = APIKey.parse(record.entry)
    assert again == record
    assert again.principal.limits == record.limits


LATE = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "options",
    [
        ";disabled=false", ";disabled=", ";disabled=true;disabled=true", ";disabled", ";key=", ";key=a b",
        ";key=a;key=b", ";not_before=soon", ";not_before=2027-01-31",
        ";not_before=2027-01-31T00:00:00Z;not_before=2027-01-31T00:00:00Z",
        ";not_before=2027-01-31T00:00:00Z;expires=2027-01-31T00:00:00Z", ";limit=60/min", ";limit=", ";limit=0/day",
        ";limit=1/day;limit=2/day", f";limit={ALICE}", f";key={ALICE}", f";not_before={ALICE}",
    ],
)  # fmt: skip
def test_options_that_cannot_work(options: str) -> None:
    """Refused, but for the word "disabled" alone, which is a scope; nothing is quoted."""
    entry = f"bob={ALICE[::-1]}{options}"
    if options == ";disabled":
        assert APIKey.parse(entry).scopes == {"disabled"}
        return
    with pytest.raises(ConfigurationError) as refused:
        APIKey.parse(entry)
    assert ALICE not in str(refused.value)
    assert refused.value.__context__ is None or ALICE not in str(refused.value.__context__)


@pytest.mark.parametrize(
    "make",
    [
        lambda: APIKey("alice", bytes(32), disabled=1),  # type: ignore[arg-type]
        lambda: APIKey("alice", bytes(32), disabled="false"),  # type: ignore[arg-type]
        lambda: APIKey("alice", bytes(32), not_before=date(2027, 1, 31)),  # type: ignore[arg-type]
        lambda: APIKey("alice", bytes(32), expires_at=NOON, not_before=NOON),
        lambda: APIKey("alice", bytes(32), limits="600/minute"),  # type: ignore[arg-type]
        lambda: APIKey("alice", bytes(32), limits=[600]),  # type: ignore[arg-type]
        lambda: APIKey("alice", bytes(32), limits={"600/minute"}),  # type: ignore[arg-type]
        lambda: APIKey("alice", bytes(32), key_id="a_b"),
        lambda: APIKey("alice", bytes(32), {"predict": 1}),  # type: ignore[arg-type]
        lambda: APIKey("alice", bytes(32), frozenset({5})),  # type: ignore[arg-type]
    ],
)
def test_fields_that_cannot_work(make: Callable[[], Any]) -> None:
    """Refused when the record is made, from code as from text."""
    with pytest.raises(ConfigurationError):
        make()


def test_limits_have_one_spelling() -> None:
    """Two spellings of a limit are one limit, also for the bucket in which they count."""
    record, _ = APIKey.generate("alice", limits=["600 / minute", "10/60 minutes"])
    assert record.limits == ("600/minute", "10/hour")


def test_keys_without_an_id_get_one() -> None:
    """From the digest, the same each time, so that each key can be named in a list."""
    assert APIKey("alice", bytes(32)).key_id == APIKey("bob", bytes(32)).key_id
    assert APIKey("alice", bytes(32)).key_id != APIKey("alice", bytes(31) + b"1").key_id
    assert "key=" not in APIKey.parse(ALICE).entry


def test_two_keys_with_one_key_id_are_refused() -> None:
    """Nobody could say which one to revoke."""
    with pytest.raises(ConfigurationError, match="same secret or key id"):
        APIKeys([APIKey("alice", bytes(32), key_id="a"), APIKey("bob", bytes(31) + b"1", key_id="a")])
