"""What operators do on the command line is in the audit log, or is not done."""

import secrets
from pathlib import Path

import pytest

from mlguard.__main__ import main
from mlguard.monitoring.events import logger
from tests.monitoring.audit_logs import KEY, records


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the log that the environment names."""
    folder = tmp_path / "log"
    folder.mkdir()
    monkeypatch.setenv("MLGUARD_AUDIT_LOG", str(folder))
    monkeypatch.setenv("MLGUARD_AUDIT_KEY", KEY)
    monkeypatch.setattr(logger, "level", logger.level)  # as it was, afterwards
    return folder


def new_key(tmp_path: Path) -> int:
    return main(["keys", "new", "alice", "--file", str(tmp_path / "keys.toml")])


def test_a_command_is_in_the_log(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which one and by whom, and nothing of what was given to it."""
    assert new_key(tmp_path) == 0
    secret = capsys.readouterr().out.strip()
    opened, command, *_, closed = records(log)
    assert (opened["event"], closed["event"]) == ("audit.opened", "audit.closed")
    assert command["event"] == "operator.command"
    assert command["facts"]["command"] == "keys new"
    assert command["facts"]["user"].startswith("uid ")
    text = b"".join(file.read_bytes() for file in log.iterdir()).decode()
    assert secret not in text


def test_a_command_whose_record_cannot_be_written_does_nothing(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a log that is full, no key is made."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlguard.monitoring._audit_sinks.os.write", full)
    assert new_key(tmp_path) == 3
    assert "so nothing was done" in capsys.readouterr().err
    assert not (tmp_path / "keys.toml").exists()


def test_a_log_that_fails_later_is_told(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done is done, and the operator learns that the log does not have all of it."""
    monkeypatch.setattr("mlguard.commands._auditing.AuditLog.close", lambda log: False)
    assert new_key(tmp_path) == 0
    assert "not all in it" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["MLGUARD_AUDIT_KEY", "MLGUARD_AUDIT_LOG"])
def test_a_log_that_cannot_work_stops_commands(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A key that is too weak, or a folder that is not there: nothing is done unrecorded. The folder is shown."""
    monkeypatch.setenv(variable, "mistyped")
    assert new_key(tmp_path) == 3
    assert not (tmp_path / "keys.toml").exists()
    said = capsys.readouterr().err
    assert said.startswith(f"mlguard: {variable}")
    assert ("'mistyped'" in said) is (variable == "MLGUARD_AUDIT_LOG")
    assert "AuditLog(" not in said


def test_without_a_log_commands_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no log is named, nothing changes."""
    monkeypatch.chdir(tmp_path)
    assert new_key(tmp_path) == 0
    monkeypatch.setenv("MLGUARD_ENV", "development")
    assert main(["keys", "list", "--file", str(tmp_path / "keys.toml")]) == 0


def test_a_log_in_dotenv_is_used_in_development(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everything else that is set there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logger, "level", logger.level)
    (tmp_path / "log").mkdir()
    (tmp_path / ".env").write_text(f"MLGUARD_AUDIT_LOG=log\nMLGUARD_AUDIT_KEY={secrets.token_urlsafe(32)}\n")
    monkeypatch.setenv("MLGUARD_ENV", "development")
    assert new_key(tmp_path) == 0
    assert len(records(tmp_path / "log")) >= 3


def test_reading_the_log_is_not_in_it(log: Path) -> None:
    """Whoever looks into the log does not add to it."""
    assert main(["audit-log", "verify"]) == 1  # there is nothing
    assert [*log.iterdir()] == []
