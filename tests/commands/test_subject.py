"""``mlguard subject``, on a real Redis, a real key file and real logs."""

import asyncio
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import mlguard.store
from mlguard import (
    FeedbackQuarantine,
    Principal,
    QueryBudget,
    RedisStore,
    SubjectErasedError,
    SubjectKeyFile,
    SubjectKeys,
)
from mlguard.__main__ import main
from mlguard.monitoring.quarantined_rows import Held
from tests.redis_server import RedisServer, redis_server

SECRET = secrets.token_urlsafe(32)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def keys(tmp_path: Path) -> SubjectKeys:
    """A key file and its secret, and a log with a sealed line."""
    keys = SubjectKeys(SubjectKeyFile(tmp_path / "subjects.db"), keys={"1": SECRET})
    (tmp_path / "secret").write_text(SECRET + "\n")
    sealed = keys.seal("alice", "alice@example.org", context="email")
    (tmp_path / "log.jsonl").write_text(
        f'{{"email": "{sealed}"}}\n{{"user": "alice"}}\n{{"subject": "al"}}\n{{"user": "bob"}}\n'
    )
    return keys


@pytest.fixture
def run(redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``mlguard subject`` with these arguments, and with the key file."""
    monkeypatch.setenv("MLGUARD_STORE_URL", redis.url)

    def run(*arguments: str, keys: bool = True) -> tuple[int, str, str]:
        monkeypatch.setattr(mlguard.store, "_default", None)
        more = ["--keys", str(tmp_path / "subjects.db"), "--secret", f"1={tmp_path / 'secret'}"] if keys else []
        code = main(["subject", *arguments, *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def spend(redis: RedisServer) -> None:
    """Five units by alice's key, three by her token, one from her address."""

    async def spend() -> None:
        budget = QueryBudget("100/month", name="iris", store=RedisStore(redis.url, timeout=30))
        await budget._charge(Principal("alice", method="api-key"), 5)
        await budget._charge(Principal("alice", method="jwt", issuer="https://id.example.org"), 3)
        await budget._charge("203.0.113.7", 1)

    asyncio.run(spend())


def test_rows_in_quarantine_are_exported_and_erased(run: Run, tmp_path: Path) -> None:
    """Of the file that is named. One that is not there is not made."""
    path = tmp_path / "feedback.db"
    asked = ("alice", "--api-key", "alice", "--quarantine", str(path))
    assert run("export", *asked, keys=False)[0] == 3
    assert not path.exists()
    quarantine = FeedbackQuarantine(path)
    quarantine.bind(shape=[2], dtype="float64", labels=["a"])
    quarantine.add([Held(("api-key", "", who), "far", "a", np.array([1.0, 2.0])) for who in ("alice", "bob")])
    code, out, _ = run("export", *asked, keys=False)
    assert (code, [row["features"] for row in json.loads(out)["feedback"]]) == (0, [[1.0, 2.0]])
    code, out, _ = run("erase", *asked, "--yes", keys=False)
    assert (code, json.loads(out)["feedback_removed"]) == (0, 1)
    assert [row.caller for row in quarantine.rows()] == ["bob"]


CALLERS = ("--api-key", "alice", "--token", "https://id.example.org", "alice", "--name", "203.0.113.7")


def test_export_and_erase(run: Run, redis: RedisServer, keys: SubjectKeys, tmp_path: Path) -> None:
    """What is held is written, and then it is gone, and then there is nothing more to erase."""
    spend(redis)
    log = tmp_path / "log.jsonl"
    sealed = json.loads(log.read_text().splitlines()[0])["email"]
    code, out, _ = run(
        "export", "alice", *CALLERS, "--log", str(log), "--alias", "al", "--field", "user", "--field", "subject"
    )
    export = json.loads(out)
    assert code == 0
    assert export["records"] == [{"email": "alice@example.org"}, {"user": "alice"}, {"subject": "al"}]
    assert [use["status"]["used"] for use in export["budgets"]] == [5, 3, 1]

    code, out, _ = run("erase", "alice", *CALLERS, "--token-lifetime", "900", "--yes")
    assert code == 0
    assert json.loads(out)["budgets_reset"] == ["iris"] * 3
    with pytest.raises(SubjectErasedError):
        keys.open(sealed, context="email")

    code, out, err = run("erase", "alice", "--signature", "alice", "--yes")
    assert (code, json.loads(out)["key_shredded"]) == (1, False)
    assert "nothing to erase" in err
    code, out, _ = run("export", "alice", "--log", str(log), keys=False)
    assert (code, json.loads(out)["records"]) == (0, [])


def test_mistakes_erase_nothing(run: Run, keys: SubjectKeys, tmp_path: Path) -> None:
    """Without --yes, without the secret, with a file of keys or a secret that is not there, without a lifetime."""
    sealed = keys.seal("alice", "value", context="log")
    missing = str(tmp_path / "none")
    pipe, binary = tmp_path / "pipe", tmp_path / "binary"
    os.mkfifo(pipe)
    binary.write_bytes(b"\xff" * 32)
    database = str(tmp_path / "subjects.db")
    for arguments, told in (
        (("erase", "alice", *("--keys", database, "--secret", f"1={tmp_path / 'secret'}")), "--yes"),
        (("erase", "alice", "--yes", "--keys", database), "keys="),
        (("erase", "alice", "--yes", "--keys", database, "--secret", f"1={missing}"), "there is no such file"),
        (("erase", "alice", "--yes", "--keys", database, "--secret", "1"), "ID=FILE"),
        (("erase", "alice", "--yes", "--keys", database, *["--secret", f"1={tmp_path / 'secret'}"] * 2), "ID=FILE"),
        (("erase", "alice", "--yes", "--keys", database, "--secret", f"1={pipe}"), "no regular file"),
        (("erase", "alice", "--yes", "--keys", database, "--secret", f"1={binary}"), "not UTF-8"),
        (("erase", "alice", "--yes", "--keys", missing, "--secret", f"1={tmp_path / 'secret'}"), "no such file"),
        (("erase", "alice", "--yes", "--token", "a", "alice"), "token_lifetime"),
    ):
        code, _, err = run(*arguments, keys=False)
        assert (code, told in err) == (3, True), err
        assert SECRET not in err
    assert not Path(missing).exists()
    assert keys.open(sealed, context="log") == "value"


def test_the_memory_of_this_command_is_not_the_services(
    run: Run, keys: SubjectKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not say that tokens were revoked which still hold. The key can be shredded all the same."""
    monkeypatch.delenv("MLGUARD_STORE_URL")
    sealed = keys.seal("alice", "value", context="log")
    code, out, err = run("erase", "alice", "--token", "iss", "alice", "--token-lifetime", "900", "--yes")
    assert (code, out) == (3, "")
    assert "MLGUARD_STORE_URL is memory://" in err
    assert keys.open(sealed, context="log") == "value"
    code, out, _ = run("erase", "alice", "--yes")
    assert (code, json.loads(out)["key_shredded"]) == (0, True)


def test_a_store_that_is_away(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said that not all is done."""
    with redis_server() as server:
        monkeypatch.setenv("MLGUARD_STORE_URL", server.url)
        server.kill()
        code, _, err = run("erase", "alice", "--api-key", "alice", "--yes", keys=False)
    assert code == 3
    assert "not all is done" in err
