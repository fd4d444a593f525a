"""Export and erasure: all that can be looked up by who somebody is, and the truth about what cannot."""

import asyncio
import json
import secrets
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from mlguard import (
    BudgetUse,
    ConfigurationError,
    EpsilonLedger,
    FeedbackQuarantine,
    MemoryStore,
    Principal,
    Pseudonymiser,
    QueryBudget,
    RedisStore,
    Revocations,
    Store,
    SubjectErasedError,
    SubjectKeyFile,
    SubjectKeys,
    UnavailableError,
    erase_subject,
    export_subject,
)
from mlguard.monitoring.quarantined_rows import Held
from mlguard.traffic.ledger import EVERYBODY
from tests.clock import Clock
from tests.redis_server import RedisServer, redis_server

T = TypeVar("T")

SECRET = secrets.token_urlsafe(32)
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
CLOCK = Clock(NOW.timestamp())
KEY, TOKEN = Principal("alice", method="api-key"), Principal("alice", method="jwt", issuer="https://id.example.org")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def keys(tmp_path: Path) -> SubjectKeys:
    return SubjectKeys(SubjectKeyFile(tmp_path / "subjects.db"), keys={"1": SECRET})


def run(question: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(question)


async def spend(store: Store) -> tuple[QueryBudget, EpsilonLedger]:
    """What alice and bob have spent, by key, by token and by address."""
    budget = QueryBudget("100/month", name="iris", total="1000/month", store=store, clock=CLOCK)
    ledger = EpsilonLedger("2/ever", name="votes", store=store, clock=CLOCK)
    for caller, units in ((KEY, 3), (TOKEN, 4), (Principal("bob", method="api-key"), 5), ("203.0.113.7", 6)):
        await budget._charge(caller, units)
        await ledger.spend(caller, 0.5)
    return budget, ledger


# What the store holds -------------------------------------------------------------------------------------------------


def test_what_was_spent_is_found_of_each_way_of_calling(redis: RedisServer) -> None:
    """And of nobody else. What cannot be looked up is said."""

    async def ask() -> Any:
        store = RedisStore(redis.url, timeout=30)
        await spend(store)
        return await export_subject("alice", callers=[KEY, TOKEN, "203.0.113.7", "nobody"], store=store, clock=CLOCK)

    export = run(ask())
    assert [(use.budget, use.caller, use.status.used) for use in export.budgets] == [
        ("iris", "alice", 3),
        ("iris", "alice", 4),
        ("iris", "203.0.113.7", 6),
        ("epsilon votes", "alice", 500_000),
        ("epsilon votes", "alice", 500_000),
        ("epsilon votes", "203.0.113.7", 500_000),
    ]
    missing = " ".join(export.not_looked_up)
    for kind in ("rate limits", "sessions", "nonces", "repeat_cache", "failed logins", "API keys", "sealed"):
        assert kind in missing
    assert "in its memory" not in missing
    document = json.loads(export.as_json())
    assert document["budgets"][0]["status"] == {
        "limit": 100,
        "used": 3,
        "remaining": 97,
        "resets_at": "2026-12-01T00:00:00+00:00",
    }


def test_erasure_resets_budgets_and_not_epsilon(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Of the erased alone; who was told something about others cannot have it anew. The log names nobody."""
    caplog.set_level("DEBUG")

    async def erase() -> None:
        store = RedisStore(redis.url, timeout=30)
        budget, ledger = await spend(store)
        caplog.clear()
        bob = Principal("bob", method="api-key")
        total = await budget._accounts[1][0].status(store, EVERYBODY, CLOCK())
        before = await budget.status_of(bob)
        erasure = await erase_subject("alice", callers=[KEY, TOKEN], store=store, token_lifetime=900, clock=CLOCK)
        assert (erasure.tokens_revoked, erasure.budgets_reset) == (1, ["iris", "iris"])
        assert sum("what was told is not untold" in kept for kept in erasure.kept) == 2
        assert [(await budget.status_of(one)).used for one in (KEY, TOKEN)] == [0, 0]
        assert (await ledger.status_of(KEY)).spent >= 0.5
        assert await budget.status_of(bob) == before
        assert await budget._accounts[1][0].status(store, EVERYBODY, CLOCK()) == total

        again = await erase_subject("alice", callers=[KEY, TOKEN], store=store, token_lifetime=900, clock=CLOCK)
        assert again.budgets_reset == []

    run(erase())
    assert "alice" not in caplog.text
    assert "subject.erasure_done" in caplog.text


def test_rows_in_quarantine_are_theirs_too(tmp_path: Path) -> None:
    """Those that wait and those that were released, of just these callers: another's token may have the same name."""
    quarantine = FeedbackQuarantine(tmp_path / "feedback.db")
    quarantine.bind(shape=[2], dtype="float64", labels=["a", "b"])
    others = [("jwt", "https://elsewhere.test", "alice"), ("api-key", "", "bob")]
    mine = [("api-key", "", "alice"), ("jwt", "https://id.example.org", "alice"), ("name", "", "203.0.113.7")]
    for number, who in enumerate([*others, *mine, *[mine[0]] * 150]):
        quarantine.add([Held(who, "model", "a", np.array([number, np.nan]))])
    assert quarantine.release([3]) == 1

    async def rights() -> None:
        asked: Any = {"callers": [KEY, TOKEN, "203.0.113.7"], "store": MemoryStore(), "quarantine": quarantine}
        export = await export_subject("alice", **asked)
        assert [row.id for row in export.feedback] == [*range(3, 156)]
        assert [row.state for row in export.feedback[:2]] == ["released", "held"]
        written = json.loads(export.as_json())["feedback"]
        assert (written[0]["features"], written[0]["label"], written[0]["issuer"]) == ([2.0, None], "a", "")
        assert not any("quarantine" in missing for missing in export.not_looked_up)
        erasure = await erase_subject("alice", **asked, token_lifetime=900)
        assert erasure.feedback_removed == 153
        assert not any("quarantine" in kept for kept in erasure.kept)

    run(rights())
    assert [(row.method, row.issuer, row.caller) for row in quarantine.rows()] == others
    assert quarantine.count("released") == 0


def test_a_quarantine_that_is_not_given_is_told() -> None:
    """Nobody is to believe that it was looked into."""
    export = run(export_subject("alice", store=MemoryStore()))
    erasure = run(erase_subject("alice", store=MemoryStore()))
    assert any("no quarantine=" in missing for missing in export.not_looked_up)
    assert any("no quarantine=" in kept for kept in erasure.kept)
    assert (export.feedback, erasure.feedback_removed) == ([], 0)


def test_tokens_of_the_erased_hold_no_more() -> None:
    """Until the last of them has expired; the export tells it."""

    async def erase() -> None:
        store = MemoryStore()
        revocations = Revocations(store=store, clock=CLOCK)
        asked = {"subject": "alice", "issuer": TOKEN.issuer, "issued_at": CLOCK() - 60}
        assert not await revocations.covers("1", **asked)  # type: ignore[arg-type]
        assert (await export_subject("alice", callers=[TOKEN], store=store, clock=CLOCK)).tokens_revoked_until == {}
        await erase_subject("alice", callers=[KEY, TOKEN], store=store, token_lifetime=900, clock=CLOCK)
        assert await revocations.covers("1", **asked)  # type: ignore[arg-type]
        export = await export_subject("alice", callers=[TOKEN], store=store, clock=CLOCK)
        assert export.tokens_revoked_until == {"https://id.example.org": NOW}
        assert any("in its memory" in missing for missing in export.not_looked_up)

    run(erase())


def test_a_store_that_is_away_erases_nothing_quietly(keys: SubjectKeys) -> None:
    """It is a 503, and done again later it does what is left."""
    with redis_server() as server:
        store = RedisStore(server.url, timeout=0.25)
        server.kill()
        for question in (export_subject, erase_subject):
            with pytest.raises(UnavailableError):
                run(question("alice", callers=[KEY], store=store, keys=keys))


# What the logs hold ---------------------------------------------------------------------------------------------------


def test_records_about_somebody_are_found_and_opened(keys: SubjectKeys, tmp_path: Path) -> None:
    """By name, by number, by pseudonym, and by what is sealed for them, at any depth; nobody else's is opened."""
    pseudonym = Pseudonymiser({"1": SECRET}).pseudonym("alice", purpose="logs")
    email, bobs = (keys.seal(name, f"{name}@example.org", context="email") for name in ("alice", "bob"))
    path = tmp_path / "audit.jsonl"
    lines: list[Any] = [
        {"event": "login", "subject": "alice"},
        {"event": "login", "subject": "bob", "note": "alice"},
        {"event": "mail", "to": [{"email": [email, bobs]}]},
        {"event": "mail", "text": {"email": f"sent to {email} again"}},
        {"event": "seen", "facts": {"principal": pseudonym}},
        {"event": "seen", "principal": 42},
        {"event": "seen", "principal": True},
        {"event": "seen", "email": bobs},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    question = export_subject(
        "alice",
        store=MemoryStore(),
        keys=keys,
        logs=[path, {"subject": "alice", "": (email, None)}],
        names=[pseudonym, "42", "True"],
    )
    export = run(question)
    assert export.records == [
        {"event": "login", "subject": "alice"},
        {"event": "mail", "to": [{"email": ["alice@example.org", bobs]}]},
        {"event": "mail", "text": {"email": "sent to alice@example.org again"}},
        {"event": "seen", "facts": {"principal": pseudonym}},
        {"event": "seen", "principal": 42},
        {"subject": "alice", "": [email, None]},
    ]
    assert export.unread == ["1 sealed texts: altered, or sealed for another context"]
    assert json.loads(export.as_json())["records"][0] == lines[0]


def test_after_an_erasure_what_was_sealed_is_found_no_more(keys: SubjectKeys, tmp_path: Path) -> None:
    """And opens no more; what was in clear is there still, and the result says that it may be."""
    sealed = keys.seal("alice", "alice@example.org", context="email")
    logs = [{"email": sealed}, {"subject": "alice"}]
    assert len(run(export_subject("alice", store=MemoryStore(), keys=keys, logs=logs)).records) == 2
    erasure = run(erase_subject("alice", store=MemoryStore(), keys=keys))
    assert erasure.key_shredded
    assert any("in clear" in kept for kept in erasure.kept)
    assert run(export_subject("alice", store=MemoryStore(), keys=keys, logs=logs)).records == [{"subject": "alice"}]
    with pytest.raises(SubjectErasedError):
        keys.open(sealed, context="email")
    assert not run(erase_subject("alice", store=MemoryStore(), keys=keys)).key_shredded


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Broken lines, records of a thousand levels, files that are not there. The rest is read."""
    path, deep = tmp_path / "audit.jsonl", {"subject": "alice"}
    for _ in range(150):
        deep = {"a": deep}  # type: ignore[dict-item]
    path.write_text('{"subject": "alice"}\nno JSON\n[]\n' + json.dumps(deep) + '\n{"subject": "alice"')
    export = run(export_subject("alice", store=MemoryStore(), logs=[path, tmp_path / "none", tmp_path, deep]))
    assert export.records == [{"subject": "alice"}]
    assert export.unread == [
        "audit.jsonl: 4 are no JSON objects, too long or too deep; the first is number 2",
        "none: it could not be read to its end (FileNotFoundError)",
        f"{tmp_path.name}: it could not be read to its end (NotAFileError)",
        "a record: 1 are no JSON objects, too long or too deep; the first is number 1",
    ]


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"subject": ""},
        {"subject": None},
        {"callers": KEY},
        {"callers": "alice"},
        {"callers": [{"id": "alice"}]},
        {"callers": [TOKEN]},
        {"callers": [TOKEN], "token_lifetime": 0},
        {"callers": [TOKEN], "token_lifetime": float("inf")},
        {"callers": [TOKEN], "token_lifetime": "900"},
    ],
    ids=str,
)
def test_settings_that_cannot_work_erase_nothing(options: dict[str, Any], keys: SubjectKeys) -> None:
    """They are refused before anything is done."""
    sealed = keys.seal("alice", "value", context="log")
    with pytest.raises(ConfigurationError):
        run(erase_subject(**{"subject": "alice", "store": MemoryStore(), "keys": keys, **options}))
    assert keys.open(sealed, context="log") == "value"


def test_without_a_store_it_is_the_one_that_all_guards_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``MLGUARD_STORE_URL`` says."""
    monkeypatch.setattr("mlguard.store._default", MemoryStore())
    assert run(export_subject("alice", callers=[KEY])).budgets == []
    assert run(erase_subject("alice", callers=[KEY])).budgets_reset == []
    assert BudgetUse.__doc__
