"""``mlguard feedback``, on a file that a service writes to."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlguard import FeedbackQuarantine
from mlguard.__main__ import main
from mlguard.monitoring.quarantined_rows import Held

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def file(tmp_path: Path) -> FeedbackQuarantine:
    """Five rows: three of alice, one of a token, one of somebody with an odd name."""
    quarantine = FeedbackQuarantine(tmp_path / "feedback.db")
    quarantine.bind(shape=(1, 2), dtype="float64", labels=["a", "b"])
    whose = [("api-key", "", "alice")] * 3 + [("jwt", "https://issuer.test", "bob"), ("name", "", "x\x1b[2J\ny")]
    reasons = ["model", "share", "model", "far", "model"]
    quarantine.add([Held(who, why, "a", np.array([[1.5, np.nan]])) for who, why in zip(whose, reasons, strict=True)])
    return quarantine


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], file: FeedbackQuarantine) -> Run:
    """Runs ``mlguard feedback ACTION FILE`` with more arguments."""

    def run(action: str, *arguments: str, path: Path = file.path) -> tuple[int, str, str]:
        try:
            code = main(["feedback", action, str(path), *arguments])
        except SystemExit as wrong:
            code = int(wrong.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_rows_are_listed_without_values(run: Run) -> None:
    """Who, when, the label and why, one line each, and nothing that a terminal would obey."""
    code, out, _ = run("list")
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 5)
    assert lines[0].startswith("1  20")
    assert lines[0].endswith('  api-key alice  label "a"  because of model')
    assert lines[3].endswith('  jwt https://issuer.test bob  label "a"  because of far')
    assert lines[4].endswith('  name "x\\u001b[2J\\ny"  label "a"  because of model')
    assert "1.5" not in out


def test_a_list_has_an_end(run: Run) -> None:
    """Beyond the limit it says that there is more."""
    assert run("list", "--limit", "2")[1].splitlines()[2:] == ["There are more: see --limit."]
    assert len(run("list", "--limit", "5")[1].splitlines()) == 5
    assert run("list", "--caller", "nobody")[1] == "Nothing waits here.\n"


def test_rows_are_chosen(run: Run) -> None:
    """By caller and by reason."""
    assert [line[0] for line in run("list", "--caller", "alice")[1].splitlines()] == ["1", "2", "3"]
    assert [line[0] for line in run("list", "--caller", "alice", "--reason", "model")[1].splitlines()] == ["1", "3"]


def test_a_row_is_shown_with_its_values(run: Run) -> None:
    """As JSON; what is missing is null."""
    code, out, _ = run("show", "4")
    shown = json.loads(out)
    assert (code, shown["features"], shown["shape"], shown["caller"]) == (0, [1.5, None], [1, 2], "bob")
    assert run("show", "99")[0] == 1


def test_rows_are_released_and_rejected(run: Run, file: FeedbackQuarantine) -> None:
    """By number, by caller, by reason, or all; what is not there is an exit code of 1."""
    assert run("release", "1", "3", "99") == (0, "2 rows released.\n", "")
    assert [line[0] for line in run("list", "--released")[1].splitlines()] == ["1", "3"]
    assert run("reject", "1") == (1, "0 rows rejected.\n", "")
    assert run("reject", "--caller", "alice", "--reason", "share") == (0, "1 rows rejected.\n", "")
    assert run("release", "--reason", "far")[0] == 0
    assert run("reject", "--all")[0] == 0
    assert (file.count(), file.count("released")) == (0, 3)


def test_a_release_is_taken_back(run: Run, file: FeedbackQuarantine) -> None:
    """By number or by caller, and only what was released."""
    run("release", "--all")
    assert run("withdraw", "--caller", "alice") == (0, "3 rows withdrawn.\n", "")
    assert run("withdraw", "1") == (1, "0 rows withdrawn.\n", "")
    assert (file.count(), file.count("released")) == (3, 2)


@pytest.mark.parametrize("action", ["release", "reject"])
def test_a_caller_with_the_id_of_another_is_not_decided_with_them(
    run: Run, file: FeedbackQuarantine, action: str
) -> None:
    """Whoever takes the name of somebody trusted at another issuer is not released with them."""
    file.add([Held(("jwt", "https://other.test", "alice"), "model", "b", np.zeros((1, 2)))])
    code, _, problem = run(action, "--caller", "alice")
    assert (code, file.count()) == (3, 6)
    assert "several callers have this id (api-key, jwt https://other.test)" in problem
    assert run(action, "--caller", "alice", "--method", "api-key")[1].startswith("3 rows")
    assert [row.issuer for row in file.rows(caller="alice")] == ["https://other.test"]
    assert run(action, "--issuer", "https://other.test")[1].startswith("1 rows")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["release"], 3), (["reject"], 3), (["reject", "1", "--all"], 3), (["release", "0"], 2), (["reject", "x"], 2),
     (["show", "9" * 19], 2), (["show"], 2), (["list", "--limit", "0"], 2), (["list", "--all"], 2)],
)  # fmt: skip
def test_what_is_used_wrongly(run: Run, file: FeedbackQuarantine, arguments: list[str], code: int) -> None:
    """Nothing is decided without a word about which rows."""
    assert run(*arguments)[0] == code
    assert file.count() == 5


def test_other_files(run: Run, tmp_path: Path) -> None:
    """None is made, and another kind of file is no quarantine."""
    code, _, problem = run("list", path=tmp_path / "none.db")
    assert (code, problem) == (3, f"mlguard: {tmp_path / 'none.db'}: there is no such file of a quarantine\n")
    assert not (tmp_path / "none.db").exists()
    other = tmp_path / "other.db"
    other.touch(0o600)
    other.write_text("text" * 500)
    assert run("list", path=other)[0] == 3


def test_what_is_too_old_is_removed(run: Run, file: FeedbackQuarantine) -> None:
    """A look at the list is enough, if no more feedback comes."""
    file._clock = lambda: 0.0
    file.add([Held(("api-key", "", "someone-old"), "model", "a", np.array([[1.0, 2.0]]))])
    assert b"someone-old" in file.path.read_bytes()
    assert "someone-old" not in run("list")[1]
    assert b"someone-old" not in file.path.read_bytes()


def test_a_file_that_cannot_be_read_now(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said what is wrong, without a traceback."""
    monkeypatch.setattr(FeedbackQuarantine, "purge", _break)
    code, _, problem = run("list")
    assert (code, problem) == (3, "mlguard: the quarantine of feedback cannot be used: OperationalError SQLITE_ERROR\n")


def _break(quarantine: FeedbackQuarantine) -> int:
    return quarantine._change(lambda connection: connection.execute("SELECT * FROM none").rowcount)
