"""Logins, tokens, keys and limits are told to audits, once each, by names alone."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from mlguard import APIKeys, MemoryStore, Passwords, QueryBudget, TokenIssuer, User, Users, harden, token_router
from mlguard.__main__ import main
from mlguard._guard import Principal
from tests.asgi import call
from tests.clock import Clock

SECRET = "Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jdq"
FORM = [(b"content-type", b"application/x-www-form-urlencoded")]
PASSWORD = "correct horse battery staple"


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Any:
    """What has been recorded: names with facts."""
    caplog.set_level(logging.INFO, logger="mlguard.audit")

    def read() -> list[tuple[str, dict[str, Any]]]:
        found = [(vars(r)["event"], vars(r)["facts"]) for r in caplog.records if r.name == "mlguard.audit"]
        caplog.clear()
        return [(event, facts) for event, facts in found if not event.startswith("secret.")]

    return read


def issuer() -> TokenIssuer:
    return TokenIssuer(SECRET, algorithm="HS256", issuer="https://us", audience="iris", store=MemoryStore())


def test_logins_are_recorded_without_what_was_typed(events: Any) -> None:
    """A name that nobody has may be a password in the wrong field."""
    passwords = Passwords()
    hashed = asyncio.run(passwords.hash(PASSWORD))
    users = Users(
        {
            "alice": User(id="u1", password_hash=hashed, scopes=["predict"]),
            "bob": User(id="u2", password_hash=hashed, disabled=True),
        }
    )
    app = FastAPI()
    harden(app)
    app.include_router(token_router(users, issuer(), passwords=passwords))

    def log_in(name: str, password: str) -> Any:
        form = f"username={name}&password={password.replace(' ', '+')}".encode()
        return call(app, "/token", headers=FORM, chunks=[form])

    answer = log_in("alice", PASSWORD)
    accepted, issued = events()
    assert accepted == ("login.accepted", {"user": "u1", "request_id": answer.headers["x-request-id"]})
    assert (issued[0], issued[1]["subject"], issued[1]["refresh"]) == ("token.issued", "u1", 0)
    assert answer.json["access_token"] not in str(issued)
    for name, password, user, why in (
        ("alice", "typo", "u1", "password"),
        ("hunter2", "x", None, "unknown"),
        ("bob", PASSWORD, "u2", "disabled"),
    ):
        log_in(name, password)
        ((event, facts),) = events()
        assert (event, facts["user"], facts["why"]) == ("login.refused", user, why)
        assert "hunter2" not in str(facts)


def test_tokens_are_recorded_when_they_are_issued_and_taken_back(events: Any) -> None:
    """By their ids, once each."""
    mine = issuer()

    async def use() -> Any:
        await mine.access_token("job")
        tokens = await mine.open_session("alice")
        renewed = await mine.refresh(tokens.refresh_token)
        await mine.revoke_token(renewed.refresh_token)
        await mine.revoke_all("alice")
        await mine.revocations.revoke("old", issuer=None, expires_at=0)  # has expired: nothing to revoke
        return tokens

    tokens = asyncio.run(use())
    found = events()
    assert [event for event, _ in found] == ["token.issued"] * 3 + ["token.revoked"] * 2
    assert [facts.get("refresh") for _, facts in found[:3]] == [None, 0, 1]
    assert found[3][1]["jti"] == found[1][1]["jti"].partition(".")[0]
    assert found[4][1]["subject"] == "alice"
    assert tokens.access_token not in str(found)


def test_keys_in_a_file_are_recorded_when_they_are_added_rotated_and_revoked(
    events: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their ids; and services that read the file again say so, too."""
    path = str(tmp_path / "keys.toml")
    assert main(["keys", "new", "alice", "--file", path]) == 0
    secret = capsys.readouterr().out.strip()
    ((event, facts),) = events()
    assert (event, facts["principal"], facts["file"]) == ("key.added", "alice", "keys.toml")
    first = facts["key"]
    assert main(["keys", "rotate", "alice", "--overlap", "1h", "--file", path]) == 0
    assert {(event, facts["key"] == first) for event, facts in events()} == {
        ("key.rotated", True),
        ("key.added", False),
    }
    keys = APIKeys.from_file(path)
    assert main(["keys", "revoke", "alice", "--file", path]) == 0
    assert [event for event, _ in events()] == ["key.revoked", "key.revoked"]
    assert main(["keys", "revoke", "alice", "--file", path]) == 0
    assert events() == []
    keys.refresh()
    assert events() == [("key.reloaded", {"what": "API keys", "file": "keys.toml"})]
    assert secret not in str(events())


def test_changes_of_budgets_are_recorded(events: Any) -> None:
    """Whose they are, if that is a principal or all together: a name may be an address."""
    budget = QueryBudget("100/month", name="rows", store=MemoryStore(), clock=Clock())
    alice = Principal("alice", method="api-key")

    async def change() -> None:
        await budget.grant(alice, 5)
        await budget.reset(alice)
        await budget.grant("192.0.2.7", 5)

    asyncio.run(change())
    assert events() == [
        ("limit.changed", {"budget": budget._ledger.name, "change": change, "units": units, "caller": caller})
        for change, units, caller in (
            ("granted", 5, "api-key:alice"),
            ("reset", -5, "api-key:alice"),
            ("granted", 5, None),
        )
    ]
