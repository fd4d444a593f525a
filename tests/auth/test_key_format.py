"""What keys look like: found by scanners, and told from typing errors without a look-up."""

import hashlib
import re
import string
import zlib

import pytest
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st

from mlguard import APIKey, APIKeyAuth, APIKeys, ConfigurationError
from mlguard.auth.key_format import PATTERN, claims_form, find_keys, make_key, read_form
from tests.asgi import call

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
KEY_ID, LIVE = make_key("live")
_, TEST = make_key("test")


def status(keys: APIKeys, secret: bytes) -> int:
    """What a request with this key gets."""
    app = FastAPI()

    @app.get("/", dependencies=[Depends(APIKeyAuth(keys))])
    async def ready() -> None: ...

    return call(app, "/", method="GET", headers=[(b"x-api-key", secret)]).status


def digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def test_keys_are_made_as_documented() -> None:
    """Prefix, environment, key id, 43 characters of secret, and a checksum over all before it, as GitHub has it."""
    match = re.fullmatch(r"mlg_live_(\w{8})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})", LIVE)
    assert match is not None
    assert match[1] == KEY_ID
    value = 0
    for digit in match[3]:
        value = value * 62 + ALPHABET.index(digit)
    assert value == zlib.crc32(LIVE[:-6].encode())
    assert TEST.startswith("mlg_test_")
    assert 62**43 > 2**256
    assert re.fullmatch(PATTERN, LIVE)
    assert re.fullmatch(PATTERN, TEST)


def test_generated_keys_carry_their_id() -> None:
    """The record knows the id that is in the key, and the id does not name the caller."""
    record, secret = APIKey.generate("alice", env="test")
    form = read_form(secret.encode())
    assert form is not None
    assert (form.environment, form.key_id) == ("test", record.key_id)
    assert "alice" not in secret


def test_another_environment_is_refused() -> None:
    """A third word would be a key that nothing recognises."""
    with pytest.raises(ConfigurationError, match="'live' or 'test'"):
        APIKey.generate("alice", env="prod")  # type: ignore[arg-type]


@given(st.integers(0, len(LIVE) - 1), st.sampled_from(ALPHABET + "_-é \0"))
def test_one_wrong_character_is_seen(position: int, character: str) -> None:
    """A mistyped key has no form that holds, and is no other key."""
    mistyped = LIVE[:position] + character + LIVE[position + 1 :]
    assert (read_form(mistyped.encode()) is not None) == (mistyped == LIVE)


@given(st.binary(max_size=80) | st.binary(max_size=70).map(lambda tail: b"mlg_live_" + tail))
def test_any_bytes_have_a_form_or_none(key: bytes) -> None:
    """Nothing but a whole key has the form, and nothing raises."""
    form = read_form(key)
    assert form is None or re.fullmatch(PATTERN.encode(), key)
    claims_form(key)
    find_keys(key)


@pytest.mark.parametrize(
    "malformed",
    [LIVE[:-1], LIVE + "x", LIVE[:-6] + "000000", "mlg_live_", LIVE.replace("live", "test"),
     LIVE.replace(KEY_ID, "AAAAAAAA"), "mlg_live_" + "x" * 43],
)  # fmt: skip
def test_malformed_keys_are_refused_whatever_the_records_say(malformed: str) -> None:
    """Even a record with the digest of a malformed key does not make it hold: it is never looked up."""
    secret = malformed.encode()
    keys = APIKeys([APIKey("alice", digest(secret))])
    assert keys.find(secret) is None
    assert status(keys, secret) == 401
    with pytest.raises(ConfigurationError, match="copy all of it") as refused:
        APIKeys([malformed])
    assert malformed not in str(refused.value)


@pytest.mark.parametrize(
    "older", ["mlg_" + LIVE[-43:], "mlg_live_" + "-aB3_" * 7 + "xyz", "mlg_" + "a-B_3" * 8 + "abc"]
)
def test_older_and_plain_secrets_go_on_working(older: str) -> None:
    """What generate made before has 43 URL-safe characters behind the prefix, which may look like the newer one."""
    assert len(older) == 47
    assert status(APIKeys([APIKey("alice", digest(older.encode()))]), older.encode()) == 200
    assert status(APIKeys([APIKey("alice", digest(b"a plain one"))]), b"a plain one") == 200


def test_test_keys_are_refused_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """Production is the default. Elsewhere live keys hold too."""
    records = [APIKey(name, digest(key.encode())) for name, key in (("alice", LIVE), ("bob", TEST))]
    assert [status(APIKeys(records), key.encode()) for key in (LIVE, TEST)] == [200, 401]
    monkeypatch.setenv("MLGUARD_ENV", "development")
    assert [status(APIKeys(records), key.encode()) for key in (LIVE, TEST)] == [200, 200]


def test_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    """The operator learns what the caller does not."""
    keys = APIKeys([APIKey("alice", digest(b"a plain one"))])
    assert keys.why_unknown(LIVE.encode()) == "unknown API key"
    assert keys.why_unknown(LIVE[:-1].encode()) == "malformed API key"
    assert keys.why_unknown(TEST.encode()) == "test key in production"


def test_keys_are_found_in_text() -> None:
    """Whole keys only: an example of the form is none."""
    text = f"a = '{LIVE}'\nb={TEST}; c={LIVE[:-6]}000000".encode()
    assert [text[at : at + 8] for at in find_keys(text)] == [b"mlg_live", b"mlg_test"]
