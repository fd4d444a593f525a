"""``mlguard model save``, ``list``, ``promote`` and ``rollback``: a store on the command line."""

import base64
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest

from mlguard import ModelStore
from mlguard.__main__ import main
from tests.artifacts.models import KEY, OTHER, PUBLIC, private_pem, public_pem

Run = Callable[..., tuple[int, str, str]]
SECRET = base64.b64encode(np.random.default_rng(5).bytes(32)).decode()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs ``mlguard model`` where the keys and a model are: exit code, output, errors."""
    np.save(tmp_path / "iris.npy", np.arange(6.0))
    (tmp_path / "key.pem").write_bytes(private_pem(KEY))
    (tmp_path / "key.pub").write_bytes(public_pem(PUBLIC))
    (tmp_path / "other.pub").write_bytes(public_pem(OTHER.public_key()))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, signs: bool = True, key: str = "key.pub", stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin)))
        signing = ("--signing-key", "-" if stdin else "key.pem") if signs else ()
        try:
            code = main(["model", *arguments, "--verify-key", key, *signing])
        except SystemExit as wrong:
            code = int(wrong.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def store() -> ModelStore:
    return ModelStore("models", key=PUBLIC)


def test_from_the_first_version_to_the_step_back(run: Run) -> None:
    """Each step says which version it was, and the list shows which one is served."""
    for number in (1, 2):
        code, out, err = run("save", "models", "iris", "iris.npy", "--code-version", "3f2c", "--data-version", "nov")
        assert (code, err) == (0, "")
        assert out == f"saved iris {number}, digest {store().find('iris', number).digest}\n"
    assert run("promote", "models", "iris", "1")[0] == 0
    assert run("promote", "models", "iris", "latest", stdin=private_pem(KEY))[1].startswith("promoted iris 2, ")
    code, out, _ = run("list", "models", signs=False)
    first, second = out.splitlines()
    assert code == 0
    assert first.startswith("iris 1: 20")
    assert f"code=3f2c data=nov digest={store().find('iris', 1).digest[:16]}" in first
    assert second.endswith("  promoted")
    assert run("rollback", "models", "iris")[1].startswith("rolled back to iris 1, ")
    assert store().promoted("iris") == 1
    assert run("rollback", "models", "iris")[0] == 3
    assert store().load("iris").tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_an_altered_version_is_listed_as_such(run: Run) -> None:
    """The others are listed all the same, and the exit code says that something is wrong."""
    for _ in range(2):
        run("save", "models", "iris", "iris.npy")
    record = store().find("iris", 1).path.with_name("record.json")
    record.write_bytes(record.read_bytes() + b" ")
    code, out, _ = run("list", "models", "iris", signs=False)
    assert code == 1
    assert out.startswith("iris 1: refused: the record is not the one that was signed\niris 2: 20")
    code, out, err = run("promote", "models", "iris", "1")
    assert (code, out) == (1, "")
    assert "record.json" in err
    assert run("list", "models", signs=False, key="other.pub")[0] == 1


@pytest.mark.parametrize(
    ("name", "content", "code", "told"),
    [
        ("wine.joblib", b"", 1, "the file is empty"),
        ("wine.joblib", b"junk", 1, "of no known format"),
        ("wine.pkl", b"this is none", 1, "the pickle"),
        ("wine.npy", b"PK\x03\x04", 1, "the name says npy"),
        ("wine.bin", b"junk", 3, "say what the file is"),
    ],
)
def test_what_is_no_model_is_not_saved(run: Run, name: str, content: bytes, code: int, told: str) -> None:
    """As ``inspect`` refuses it: signed and promoted, it would stop every service that starts."""
    Path(name).write_bytes(content)
    found, out, err = run("save", "models", "wine", name)
    assert (found, out) == (code, "")
    assert told in err
    assert not Path("models").exists()


def test_a_file_with_another_suffix_is_saved_as_what_it_is_said_to_be(run: Run) -> None:
    """Within the size that it may have."""
    Path("iris.npy").rename("iris.dat")
    assert run("save", "models", "iris", "iris.dat", "--format", "npy")[0] == 0
    code, _, err = run("save", "models", "iris", "iris.dat", "--format", "npy", "--max-size", "9")
    assert code == 1
    assert "max_size=9" in err


def test_a_list_of_nothing_says_so(run: Run) -> None:
    """A folder or a name that is mistyped is no success."""
    for arguments in (("typo",), ("typo", "iris")):
        code, out, err = run("list", *arguments, signs=False)
        assert (code, out) == (1, "")
        assert "in 'typo': is it the folder of the store?" in err
    run("save", "models", "iris", "iris.npy")
    code, out, err = run("list", "models", "irsi", signs=False)
    assert (code, out) == (1, "")
    assert "no version of irsi in 'models'" in err


def test_a_version_that_is_not_there_is_refused(run: Run) -> None:
    """And where to look is told."""
    run("save", "models", "iris", "iris.npy")
    for arguments in (("iris", "2"), ("irsi", "latest")):
        code, out, err = run("promote", "models", *arguments)
        assert (code, out) == (3, "")
        assert "mlguard model list" in err


def test_encrypted_on_the_command_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes from a variable; the list says that the file is encrypted, and shows no key."""
    pytest.importorskip("tink")
    monkeypatch.setenv("MODEL_KEY", SECRET)
    arguments = ("save", "models", "iris", "iris.npy", "--encrypt", "--encryption-key-env", "MODEL_KEY")
    assert run(*arguments)[0] == 0
    out = run("list", "models", signs=False)[1]
    assert "encrypted=yes" in out
    assert SECRET not in out
    assert ModelStore("models", key=PUBLIC, encryption_key=SECRET).load("iris", 1).tolist()[:2] == [0.0, 1.0]
    monkeypatch.delenv("MODEL_KEY")
    assert run(*arguments)[0] == 3


@pytest.mark.parametrize("version", ["0", "-1", "newest", "1.0", "\u0661"])
def test_a_version_is_a_number_or_the_latest(version: str, run: Run) -> None:
    """Anything else is used wrongly."""
    code, _, err = run("promote", "models", "iris", "--", version)
    assert code == 2
    assert "the number of a version, or latest" in err or "more arguments" in err


def test_a_promotion_that_is_refused_hides_no_version(run: Run) -> None:
    """The versions are listed all the same, of the next model too, and the exit code says that something is wrong."""
    for name in ("iris", "wine"):
        run("save", "models", name, "iris.npy")
        run("promote", "models", name, "1")
    Path("models/iris/promotions/1/record.json").unlink()
    code, out, _ = run("list", "models", signs=False)
    told, iris, wine = out.splitlines()
    assert code == 1
    assert told.startswith("iris: no version can be served")
    assert iris.startswith("iris 1: 20")
    assert not iris.endswith("promoted")
    assert wine.endswith("  promoted")
