"""``mlguard keys``: what it writes where, and what a running server makes of it."""

import asyncio
import hashlib
import io
import json
import os
import re
import runpy
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomlkit
from fastapi import FastAPI, Security
from tomlkit.exceptions import TOMLKitError

import mlguard.store
from mlguard import APIKey, APIKeyAuth, APIKeys, MemoryStore, harden
from mlguard.__main__ import main
from mlguard.auth._last_used import LastUsed
from mlguard.auth.key_format import read_form
from mlguard.commands._key_editing import KeyFile
from tests.servers import ROOT, serving, wait_until

OLDER = "Vq3tYxw0ZkLr8HcNfUe5Rj_bPa2GsT7dMi"


@dataclass
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def key(self) -> str:
        """The key that it has written: standard output has it, and nothing else."""
        assert self.code == 0, self.err
        (key,) = self.out.splitlines()
        assert key not in self.err
        return key


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``mlguard keys`` with these arguments."""

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            code = main(["keys", *arguments])
        except SystemExit as wrong:
            code = int(wrong.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(params=["keys.toml", "keys.json"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the keys are, as the environment says."""
    path = tmp_path / str(request.param)
    monkeypatch.setenv("MLGUARD_API_KEYS_FILE", str(path))
    return path


def entries(path: Path) -> list[dict[str, Any]]:
    content = path.read_text("utf-8")
    found: list[dict[str, Any]] = (json.loads(content) if path.suffix == ".json" else tomllib.loads(content))["keys"]
    return found


def found(path: Path, secret: str) -> Any:
    return APIKeys.from_file(path).find(secret.encode())


# new, list, rotate, revoke, verify -----------------------------------------------------------------------------------


def test_new_makes_a_key_that_holds(path: Path, run: Run) -> None:
    """The file is made, for its owner's eyes only, and holds no secret."""
    key = run(
        "new", "alice", "--scope", "predict", "--scope", "explain", "--limit", "600/minute", "--expires", "90d",
        "--not-before", "2020-01-31", "--comment", "the night job",
    ).key  # fmt: skip
    record = found(path, key)
    form = read_form(key.encode())
    assert form is not None
    assert (record.id, record.scopes, record.limits) == ("alice", {"predict", "explain"}, ("600/minute",))
    assert record.key_id == form.key_id
    assert abs(record.expires_at - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=5)
    assert record.not_before == datetime(2020, 1, 31, tzinfo=UTC)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key[-49:] not in path.read_text("utf-8")
    assert entries(path)[0]["comment"] == "the night job"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_keys_for_tests_say_so(path: Path, run: Run) -> None:
    """They begin with mlg_test_, the notice says where they are refused, and rotation keeps them what they are."""
    done = run("new", "alice", "--env", "test")
    assert done.key.startswith("mlg_test_")
    assert "MLGUARD_ENV is production" in done.err
    assert run("rotate", "alice", "--overlap", "1h").key.startswith("mlg_test_")


def test_list_shows_everything_but_secrets(path: Path, run: Run) -> None:
    """One line a key, without its digest."""
    key = run("new", "alice", "--scope", "predict", "--limit", "9/day", "--expires", "2020-01-31T12:00:00+01:00").key
    run("new", "bob")
    done = run("list")
    head, alice, bob = done.out.splitlines()
    assert head.split() == ["ID", "KEY", "ID", "STATE", "SCOPES", "LIMITS", "NOT", "BEFORE", "EXPIRES"]
    assert re.fullmatch(r"alice +\w{8}  expired +predict +9/day +2020-01-31 11:00Z", alice)
    assert re.fullmatch(r"bob +\w{8}  live", bob)
    assert key not in done.out
    assert entries(path)[0]["digest"][7:] not in done.out
    assert "in its memory" in done.err


def test_rotation_overlaps(path: Path, run: Run) -> None:
    """Both keys hold until the old one expires; the new one may do what the old one might."""
    old = run("new", "alice", "--scope", "predict", "--limit", "9/day", "--comment", "x").key
    other = run("new", "bob").key
    new = run("rotate", "alice", "--overlap", "7d").key
    before, after = found(path, old), found(path, new)
    assert (after.id, after.scopes, after.limits, after.expires_at) == (before.id, before.scopes, before.limits, None)
    assert timedelta(days=6, hours=23) < before.expires_at - datetime.now(UTC) <= timedelta(days=7)
    assert found(path, other).expires_at is None
    assert entries(path)[-1]["comment"] == "x"
    again = run("rotate", "alice", "--overlap", "9w").key
    assert found(path, old).expires_at == before.expires_at  # not prolonged
    assert found(path, new).expires_at > before.expires_at
    assert found(path, again).expires_at is None
    assert run("rotate", found(path, again).key_id, "--overlap", "0h").code == 0
    assert found(path, again).state(datetime.now(UTC).timestamp()) == "expired"


def test_rotation_of_a_key_that_expires_asks_for_the_next_expiry(path: Path, run: Run) -> None:
    """Neither for ever nor until tomorrow is what somebody meant without saying so."""
    run("new", "alice", "--expires", "9d")
    done = run("rotate", "alice", "--overlap", "1d")
    assert (done.code, done.out) == (3, "")
    assert "--expires" in done.err
    assert found(path, run("rotate", "alice", "--overlap", "1d", "--expires", "30d").key).expires_at is not None
    assert found(path, run("rotate", "alice", "--overlap", "1d", "--expires", "never").key).expires_at is None


def test_rotation_needs_keys_that_are_alike(path: Path, run: Run) -> None:
    """Which scopes the new key should have is nothing to guess about."""
    run("new", "alice", "--scope", "predict")
    admin = run("new", "alice", "--scope", "admin").key
    done = run("rotate", "alice", "--overlap", "1d")
    assert (done.code, done.out) == (3, "")
    key_id = found(path, admin).key_id
    assert found(path, run("rotate", key_id, "--overlap", "1d").key).scopes == {"admin"}
    run("revoke", key_id)
    before = path.read_bytes()
    assert run("rotate", key_id, "--overlap", "1d").code == 1
    assert path.read_bytes() == before


def test_revoking_disables(path: Path, run: Run) -> None:
    """One key by its id, or all of a caller's. The entries stay, so that the file of a last key is not empty."""
    first, second, other = (run("new", name).key for name in ("alice", "alice", "bob"))
    assert run("revoke", found(path, first).key_id).code == 0
    assert [found(path, key).disabled for key in (first, second, other)] == [True, False, False]
    done = run("revoke", "alice")
    assert (done.code, done.out) == (0, "")
    assert [found(path, key).disabled for key in (first, second, other)] == [True, True, False]
    run("revoke", "bob")
    assert len(APIKeys.from_file(path)) == 3
    assert run("revoke", "bob").code == 0
    assert run("revoke", "carol").code == 1


def test_an_id_that_means_two_things_is_refused(path: Path, run: Run) -> None:
    """A caller who is called as another one's key."""
    key_id = found(path, run("new", "alice").key).key_id
    run("new", key_id)
    assert run("revoke", key_id).code == 3


def test_verify_says_whether_a_key_holds(path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its form and checksum first, then what the file says. The exit code is the answer."""
    key = run("new", "alice").key
    done = run("verify", stdin=f"{key}\n".encode())
    key_id = found(path, key).key_id
    assert done.code == 0
    assert done.out.splitlines() == [
        f"form: a live key with the id {key_id}, and its checksum holds",
        f"file: live, key {key_id} of alice",
    ]
    assert key not in done.out
    assert run("verify", stdin=key[:-1].encode()).code == 1
    assert "not whole or mistyped" in run("verify", stdin=key[:-1].encode()).out
    run("revoke", "alice")
    assert run("verify", stdin=key.encode()).code == 1
    test_key = run("new", "tester", "--env", "test").key
    assert run("verify", stdin=test_key.encode()).code == 1
    monkeypatch.setenv("MLGUARD_ENV", "development")
    assert run("verify", stdin=test_key.encode()).code == 0


def test_verify_knows_plain_secrets_by_the_file_only(tmp_path: Path, run: Run) -> None:
    """They have no form to check."""
    path = tmp_path / "keys.json"
    digest = "sha256:" + hashlib.sha256(OLDER.encode()).hexdigest()
    path.write_text(json.dumps({"keys": [{"id": "alice", "digest": digest}]}), "utf-8")
    assert run("verify", "--file", str(path), stdin=OLDER.encode()).code == 0
    assert run("verify", "--file", str(path), stdin=OLDER[:-1].encode()).code == 1
    done = run("verify", stdin=OLDER.encode())
    assert done.code == 1
    assert "plain secret" in done.out


def test_verify_without_a_file_checks_the_form(tmp_path: Path, run: Run) -> None:
    """Offline, where no file is."""
    key = run("new", "alice", "--file", str(tmp_path / "keys.toml")).key
    assert run("verify", stdin=key.encode()).code == 0
    assert run("verify", stdin=key[::-1].encode()).code == 1


def test_a_key_on_the_command_line_is_not_repeated(path: Path, run: Run) -> None:
    """It is in the shell's history already, and need not be in a log as well."""
    key = run("new", "alice").key
    for arguments in (["verify", key], ["revoke", key]):
        done = run(*arguments)
        assert done.code in {1, 2}
        assert key not in done.out + done.err
    assert run("verify", stdin=b" \n").code == 3


def test_a_key_is_asked_for_at_a_terminal(path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without being shown."""
    key = run("new", "alice").key

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda prompt: key)
    assert main(["keys", "verify"]) == 0


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["new"], ["new", "a", "--expires", "soon"], ["new", "a", "--expires", "99999d"],
        ["new", "a", "--env", "prod"],
        ["rotate", "a"], ["rotate", "a", "--overlap", "7"], ["rotate", "a", "--overlap", "-1d"], ["revoke"], ["burn"],
    ],
)  # fmt: skip
def test_wrong_use_is_exit_code_2(arguments: list[str], path: Path, run: Run) -> None:
    """And nothing is written."""
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert not path.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["new", "a b"], ["new", "a", "--scope", "a b"], ["new", "a", "--limit", "60/min"],
        ["new", "a", "--comment", "a\nb"], ["new", "a", "--not-before", "9d", "--expires", "1d"],
        ["list"], ["revoke", "a"], ["rotate", "a", "--overlap", "1d"],
        ["new", "a", "--file", "keys.yaml"], ["new", "a", "--file", "/nowhere/keys.json"], ["list", "--file", "/"],
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_exit_code_3(arguments: list[str], path: Path, run: Run) -> None:
    """A file, or a key that no file may hold."""
    done = run(*arguments)
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("mlguard: ")
    assert not path.exists()


def test_the_module_is_a_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m mlguard``, where the script is not on the path."""
    monkeypatch.setattr(sys, "argv", ["mlguard", "keys", "list"])
    monkeypatch.delitem(sys.modules, "mlguard.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("mlguard", run_name="__main__")
    assert ended.value.code == 3
    assert "which file?" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[[keys]]\nid = 'alice'\n", f"[[keys]]\nid = '{OLDER}", "keys = 7"])
@pytest.mark.parametrize("action", [("list",), ("rotate", "alice", "--overlap", "1d"), ("revoke", "alice")])
def test_a_file_that_cannot_be_used_is_named(run: Run, path: Path, action: tuple[str, ...], content: str) -> None:
    """With what is wrong in it, and nothing of what is."""
    path.write_text(content)
    done = run(*action, "--file", str(path))
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith(f"mlguard: {path}: ")
    assert OLDER not in done.err


def test_a_key_that_is_too_much_is_not_repeated(run: Run) -> None:
    """It was seen by other users already; the usage is that of the action, and says where keys are read."""
    done = run("list", OLDER)
    assert done.code == 2
    assert OLDER not in done.err
    assert done.err.startswith("usage: mlguard keys list ")
    assert "keys are read from standard input" in done.err


def test_a_file_must_be_named(run: Run) -> None:
    """By the option or by the environment."""
    assert "MLGUARD_API_KEYS_FILE" in run("list").err


def test_a_broken_file_is_left_as_it_is(path: Path, run: Run) -> None:
    """What a service could not read is not edited; what is in it is not shown."""
    broken = b'[[keys]]\nid = "alice"\ndigest = "' + OLDER.encode() + b'"\n'
    if path.suffix == ".json":
        broken = json.dumps({"keys": [{"id": "alice", "digest": OLDER}]}).encode()
    path.write_bytes(broken)
    for arguments in (["new", "bob"], ["list"], ["revoke", "alice"], ["rotate", "alice", "--overlap", "1d"]):
        done = run(*arguments)
        assert (done.code, done.out) == (3, "")
        assert OLDER not in done.err
    assert path.read_bytes() == broken


def test_an_empty_file_is_a_new_one(path: Path, run: Run) -> None:
    """Somebody has made it with touch, to give it an owner."""
    path.touch(0o640)
    key = run("new", "alice").key
    assert found(path, key).id == "alice"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_comments_stay(tmp_path: Path, run: Run) -> None:
    """What people wrote into a TOML file is as it was after every change."""
    path = tmp_path / "keys.toml"
    run("new", "alice", "--file", str(path))
    text = path.read_text("utf-8")
    path.write_text(f"# Our keys. Ask Carol.\n\n{text}# the end\n", "utf-8")
    for arguments in (["new", "bob"], ["rotate", "alice", "--overlap", "1d"], ["revoke", "bob"]):
        assert run(*arguments, "--file", str(path)).code == 0
    after = path.read_text("utf-8")
    assert after.startswith(f"# Our keys. Ask Carol.\n\n{text.rstrip()}")
    assert "# the end" in after
    assert len(entries(path)) == 3


def test_inline_tables_can_be_edited(tmp_path: Path, run: Run) -> None:
    """TOML has another way of writing a list of tables."""
    path = tmp_path / "keys.toml"
    path.write_text(f'keys = [{{ id = "alice", digest = "sha256:{"0" * 64}" }}]\n', "utf-8")
    run("new", "bob", "--file", str(path), "--expires", "9d")
    assert run("revoke", "alice", "--file", str(path)).code == 0
    assert [entry["id"] for entry in entries(path)] == ["alice", "bob"]


def test_what_is_linked_is_changed(path: Path, run: Run, tmp_path: Path) -> None:
    """A link stays a link."""
    target = tmp_path / "real" / path.name
    target.parent.mkdir()
    path.symlink_to(target)
    assert found(target, run("new", "alice").key).id == "alice"
    assert path.is_symlink()


@pytest.mark.parametrize("step", ["fsync", "fchmod", "replace"])
def test_a_write_that_fails_leaves_the_file(step: str, path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space, no permission: the keys are as they were, nothing lies about, and no secret was shown."""
    run("new", "alice")
    before = path.read_bytes()

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    if step == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(os, step, fail)
    done = run("new", "bob")
    assert (done.code, done.out) == (3, "")
    assert "No space left" in done.err
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_key_that_could_not_be_shown_is_named(path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the file, and nobody has it: the notice says how to take it out."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(sys, "stdout", Full())
        done = run("new", "alice")
    assert done.code == 3
    assert f"mlguard keys revoke {entries(path)[0]['key_id']}" in done.err


def test_toml_that_only_the_service_can_read_is_not_edited(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the two parsers differ, a person decides."""
    path = tmp_path / "keys.toml"
    run("new", "alice", "--file", str(path))

    def refuse(text: str) -> None:
        raise TOMLKitError(text)

    monkeypatch.setattr(tomlkit, "parse", refuse)
    done = run("new", "bob", "--file", str(path))
    assert done.code == 3
    assert "edited here" in done.err


class SharedStore(MemoryStore):
    """Stands for one that other processes see."""

    suspends = True

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self._fails = fails

    async def get(self, *keys: bytes) -> tuple[bytes | None, ...]:
        if self._fails:
            raise ConnectionError(OLDER)
        return await super().get(*keys)


def test_list_shows_when_keys_were_last_used_where_it_is_known(
    path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a store that is shared; one that does not answer costs that column only."""
    key = found(path, run("new", "alice").key)
    store = SharedStore()
    monkeypatch.setattr(mlguard.store, "_default", store)

    async def note() -> None:
        await LastUsed(store)._write(key, datetime(2026, 1, 31, tzinfo=UTC).timestamp())

    asyncio.run(note())
    assert "LAST USED" in run("list").out
    assert "2026-01-31 00:00Z" in run("list").out
    monkeypatch.setattr(mlguard.store, "_default", SharedStore(fails=True))
    done = run("list")
    assert (done.code, "LAST USED" in done.out) == (0, False)
    assert "ConnectionError" in done.err
    assert OLDER not in done.err


# Several at once, and a running server --------------------------------------------------------------------------------

RACE = """
import sys
from mlguard.__main__ import main
for number in range(3):
    assert main(["keys", "new", f"{sys.argv[2]}-{number}", "--file", sys.argv[1]]) == 0
    assert main(["keys", "revoke", f"{sys.argv[2]}-{number}", "--file", sys.argv[1]]) == 0
"""


def test_edits_at_once_lose_nothing(path: Path) -> None:
    """Four processes make and revoke keys in one file; every key and every revocation is there in the end."""
    command = [sys.executable, "-c", RACE, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    running = [
        subprocess.Popen([*command, f"p{number}"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for number in range(4)
    ]
    secrets = [line for process in running for line in process.communicate(timeout=60)[0].decode().split()]
    assert [process.returncode for process in running] == [0] * 4
    assert len(secrets) == 12
    keys = APIKeys.from_file(path)
    records = [keys.find(secret.encode()) for secret in secrets]
    assert {record.id for record in records if record and record.disabled} == {
        f"p{process}-{number}" for process in range(4) for number in range(3)
    }


def test_a_reader_never_sees_half_a_file(path: Path) -> None:
    """While one writes, whoever reads has a whole file at any moment."""
    file = KeyFile(str(path))
    main(["keys", "new", "first", "--file", str(path)])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with file.editing():
                file.save()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            assert len(APIKeys.from_file(path)) == 1
    finally:
        stop.set()
        writer.join()


def test_a_key_revoked_on_the_command_line_is_refused_by_a_running_server(path: Path, run: Run) -> None:
    """Without a restart; the new key of a rotation is accepted in the same way."""
    key = run("new", "alice", "--scope", "predict").key
    app = FastAPI()
    harden(app)
    caller = APIKeyAuth(APIKeys.from_file(path))

    @app.get("/", dependencies=[Security(caller, scopes=["predict"])])
    async def ready() -> None: ...

    with serving(app) as url, httpx.Client(base_url=url, trust_env=False) as client:

        def status(secret: str) -> int:
            status = client.get("/", headers={"X-API-Key": secret}).status_code
            assert status in {200, 401}
            return status

        assert status(key) == 200
        command = [sys.executable, "-m", "mlguard", "keys"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        rotate = [*command, "rotate", "alice", "--overlap", "1h"]
        new = subprocess.run(rotate, env=environment, capture_output=True, text=True, check=True).stdout.strip()
        wait_until(lambda: status(new) == 200, seconds=10)
        assert status(key) == 200
        key_id = found(path, key).key_id
        subprocess.run([*command, "revoke", key_id], env=environment, capture_output=True, check=True)
        wait_until(lambda: status(key) == 401, seconds=10)
        assert status(new) == 200


def test_a_key_in_the_wrong_place_is_not_repeated(run: Run) -> None:
    """Somebody who writes a key behind the command has shown it to the machine's other users already, not to a log."""
    _, secret = APIKey.generate("alice")
    done = run("list", secret)
    assert (done.code, done.out) == (2, "")
    assert secret not in done.err
