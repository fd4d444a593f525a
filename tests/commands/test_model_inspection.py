"""``mlguard model inspect``: what a model file would import."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sklearn.linear_model import LinearRegression

from mlguard.__main__ import main
from tests.artifacts.estimators import CLASSES, ROWS, joblib_bytes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``mlguard model inspect`` with these arguments."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main(["model", "inspect", *map(str, arguments)])
        except SystemExit as wrong:
            code = int(wrong.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_every_global_is_listed(run: Run, tmp_path: Path) -> None:
    """With the sets that have it, the format, the compression and the digest."""
    path = tmp_path / "model.joblib"
    path.write_bytes(joblib_bytes(LinearRegression().fit(ROWS, CLASSES), compress=3))
    code, out, err = run(path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:3] == [
        "format: pickle, compressed by zlib",
        f"sha256: {hashlib.sha256(path.read_bytes()).hexdigest()}",
        "globals: 5",
    ]
    assert {" ".join(line.split()) for line in lines[3:]} == {
        "sklearn.linear_model._base.LinearRegression SKLEARN_LINEAR",
        "joblib.numpy_pickle.NumpyArrayWrapper NUMPY_ARRAYS",
        "numpy.ndarray NUMPY_ARRAYS",
        "numpy.dtype NUMPY_ARRAYS",
        "numpy._core.multiarray.scalar NUMPY_ARRAYS",
    }


def test_what_would_run_is_listed_and_does_not_run(run: Run, tmp_path: Path) -> None:
    """The exit code says that it is not in a ready set, and control characters do not reach the terminal."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"cthis\ns\n(X\x01\x00\x00\x00atRcos\x1b[2J\nsystem\n\x82\x01N")
    code, out, err = run(path)
    assert (code, err) == (1, "")
    assert "this.s" in out
    assert "in no ready set" in out
    assert "\\x1b[2J" in out
    assert "problem: an extension code" in out
    assert "problem: the pickle is broken" in out
    assert out.replace("\n", "").isprintable()
    assert "this" not in sys.modules


def test_what_cannot_be_inspected_is_told(run: Run, tmp_path: Path) -> None:
    """Another content than the name says, a name that says nothing, and no file."""
    path = tmp_path / "model.npy"
    path.write_bytes(b"N.")
    assert run(path) == (1, "", "mlguard: the content is pickle, and the name says npy\n")
    path = path.rename(tmp_path / "model")
    assert run(path)[0] == 3
    assert run(path, "--format", "pickle")[:1] == (0,)
    assert "globals: none" in run(path, "--format", "pickle")[1]
    assert run(path, "--format", "torch")[0] == 2
    assert run(path, "--format", "pickle", "--max-size", 1)[0] == 1
    assert run(path, "--format", "pickle", "--max-size", 0)[0] == 3
    assert "max_instructions" in run(path, "--format", "pickle", "--max-instructions", 1)[1]
    assert run(tmp_path / "nothing.pkl")[0] == 3
