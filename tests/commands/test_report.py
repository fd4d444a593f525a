"""``mlguard report``, on real files, and with the verification of a real log where there is one."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlguard.__main__ import main
from tests.monitoring.audit_logs import KEY, events, write
from tests.monitoring.audit_pages import findings, heading, log_of, request, section

Run = Callable[..., tuple[int, str, str]]
_CHAIN = "0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log of three requests, one two hours old, one a day, one a week."""
    folder = tmp_path / "log"
    folder.mkdir()
    now = datetime.now(UTC)
    ages = [timedelta(hours=2), timedelta(days=1), timedelta(days=7)]
    records = [request(f"{now - age:%Y-%m-%dT%H:%M:%S}.000000Z") for age in ages]
    log_of(folder / f"audit-{_CHAIN}-000001.jsonl", records)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``mlguard report`` with these arguments."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["report", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def chained(tmp_path: Path) -> Path:
    """A log as a service has written it."""
    folder = tmp_path / "chained"
    folder.mkdir(mode=0o700)
    write(folder, events(3))
    return folder


def test_a_page_in_a_file(run: Run, folder: Path, tmp_path: Path) -> None:
    """It is written for its owner only, in one step, in the place of an older one."""
    page = tmp_path / "report.html"
    assert run(folder, "--output", page) == (0, "", "")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert "3 lines" in heading(page.read_text("utf-8"), "reading")
    assert run(folder, "--output", page, "--title", "November <1>") == (0, "", "")
    assert "<h1>November &lt;1&gt;</h1>" in page.read_text("utf-8")


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_is_not_replaced(run: Run, folder: Path, tmp_path: Path, kind: str) -> None:
    """A device of the name, such as /dev/null, stays what it is, and the command says what to give."""
    place = tmp_path / "report.html"
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(place)
    before = place.lstat()
    code, _, said = run(folder, "--output", place)
    assert code == 3
    assert "is a folder, a link or a device: name a file, or leave it out" in said
    assert os.path.samestat(place.lstat(), before)


def test_a_page_on_standard_output(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Without a file it goes to standard output, in UTF-8."""
    code = main(["report", str(folder)])
    assert code == 0
    assert capfdbinary.readouterr().out.decode("utf-8").startswith("<!DOCTYPE html>")


def test_only_some_time(run: Run, folder: Path, tmp_path: Path) -> None:
    """From a time ago or a date on, and before another."""
    page = tmp_path / "report.html"
    yesterday = f"{datetime.now(UTC) - timedelta(days=1, hours=2):%Y-%m-%dT%H:%M}"
    assert run(folder, "--since", yesterday, "--until", "3h", "--output", page)[0] == 0
    assert "1 record of 1 chain" in section(page.read_text("utf-8"), "reading")
    assert "2 records before or after" in section(page.read_text("utf-8"), "reading")


@pytest.mark.parametrize("when", ["soon", "1y", "999999w", "2026-13-01"])
def test_a_time_that_is_none(run: Run, folder: Path, when: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no time is said to be none."""
    with pytest.raises(SystemExit) as caught:
        run(folder, "--since", when)
    assert caught.value.code == 2
    assert "a time ago" in capsys.readouterr().err


def test_what_is_not_there(run: Run, folder: Path, tmp_path: Path) -> None:
    """A log, a folder of logs, and a place to write to."""
    code, _, said = run(tmp_path / "gone", "--output", tmp_path / "report.html")
    assert code == 3
    assert "there is no such audit log" in said
    code, _, said = run(folder, "--output", tmp_path / "nowhere" / "report.html")
    assert code == 3
    assert "No such file or directory" in said


def test_a_log_that_was_verified(run: Run, chained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the key in the environment, the page says that the chain holds; the log may be named there, too."""
    page = tmp_path / "report.html"
    monkeypatch.setenv("MLGUARD_AUDIT_KEY", KEY)
    assert run(chained, "--output", page) == (0, "", "")
    assert findings(page.read_text("utf-8"))[0] == "The chain holds: 5 records as they were written"
    code, _, said = run("--output", page)
    assert (code, "set MLGUARD_AUDIT_LOG" in said) == (3, True)
    monkeypatch.setenv("MLGUARD_AUDIT_LOG", str(chained))
    assert run("--output", page) == (0, "", "")


def test_a_record_that_was_appended(run: Run, chained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without an end of line is torn to the verification, which then holds: the page does not show it."""
    (file,) = chained.iterdir()
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))  # as of a process that runs
    forged = request(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.000000Z", route="/forged")
    with file.open("a") as log:
        log.write(json.dumps(forged))
    page = tmp_path / "report.html"
    monkeypatch.setenv("MLGUARD_AUDIT_KEY", KEY)
    assert run(chained, "--output", page) == (0, "", "")
    assert findings(page.read_text("utf-8"))[0] == "The chain holds: 4 records as they were written"
    assert "/forged" not in page.read_text("utf-8")


def test_a_log_that_was_forged(run: Run, chained: Path, tmp_path: Path) -> None:
    """One of two logs does not hold: the page is made and says so, and so does the exit code."""
    forged = tmp_path / "forged"
    shutil.copytree(chained, forged)
    (file,) = forged.iterdir()
    file.write_bytes(file.read_bytes().replace(b'"status":200', b'"status":404', 1))
    key, page = tmp_path / "key", tmp_path / "report.html"
    key.write_text(f"{KEY}\n")
    code, _, said = run(chained, forged, "--key-file", key, "--output", page)
    assert code == 1
    assert "NOT INTACT" in said
    assert findings(page.read_text("utf-8"))[0].startswith("The log was tampered with, or is damaged: ")


def test_a_single_file_cannot_be_verified(
    run: Run, chained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to verify one, the command says what to give; with a key in the environment only, the page says it."""
    (file,) = chained.iterdir()
    page = tmp_path / "report.html"
    code, _, said = run(file, "--heads", tmp_path, "--output", page)
    assert code == 3
    assert "only a whole log can be verified" in said
    assert not page.exists()
    monkeypatch.setenv("MLGUARD_AUDIT_KEY", KEY)
    assert run(file, "--output", page)[0] == 0
    assert heading(page.read_text("utf-8"), "integrity") == "The log was not verified"
