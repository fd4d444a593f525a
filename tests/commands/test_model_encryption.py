"""``mlguard model encrypt``, ``decrypt`` and ``rewrap``: where keys come from, and what is said."""

import base64
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from mlguard.__main__ import main
from mlguard.artifacts.key_wrapping import ModelKey

pytest.importorskip("tink")

MODEL = secrets.token_bytes(10_000)
IRIS = ("--name", "iris", "--version", "3")

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs ``mlguard model`` with these arguments in a folder with a model: its exit code, and what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLGUARD_MODEL_KEY", secrets.token_urlsafe(32))
    Path("model").write_bytes(MODEL)

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["model", *arguments])
        said = capsys.readouterr()
        assert said.out == ""
        return code, said.err

    return run


def test_a_model_is_encrypted_and_decrypted(run: Run) -> None:
    """With the key of the environment."""
    assert run("encrypt", "model", "model.enc", *IRIS) == (0, "")
    assert MODEL[:100] not in Path("model.enc").read_bytes()
    assert run("decrypt", "model.enc", "copy", *IRIS) == (0, "")
    assert Path("copy").read_bytes() == MODEL


def test_a_refused_model_is_exit_code_1(run: Run) -> None:
    """One line says why, and nothing is written."""
    run("encrypt", "model", "model.enc", *IRIS)
    code, said = run("decrypt", "model.enc", "copy", "--name", "iris", "--version", "4")
    assert (code, said) == (1, "mlguard: the file is 'iris' version '3', and 'iris' version '4' was asked for\n")
    assert not Path("copy").exists()


@pytest.mark.parametrize("form", ["text", "line", "bytes"])
def test_a_key_can_be_in_a_file(run: Run, form: str) -> None:
    """As base64, with the line feed of an editor, or as 32 bytes."""
    raw = secrets.token_bytes(32)
    text = base64.b64encode(raw)
    Path("key").write_bytes({"text": text, "line": text + b"\n", "bytes": raw}[form])
    assert run("encrypt", "model", "model.enc", *IRIS, "--key-file", "key")[0] == 0
    assert ModelKey(raw).id.encode() in Path("model.enc").read_bytes()


def test_keys_are_rotated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first key that is named takes over from the others; a second time there is nothing to do."""
    new = secrets.token_urlsafe(32)
    monkeypatch.setenv("NEW", new)
    for name in ("a.enc", "b.enc"):
        run("encrypt", "model", name, *IRIS)
    both = ("--key-env", "NEW", "--key-env", "MLGUARD_MODEL_KEY")
    code, said = run("rewrap", "a.enc", "b.enc", *both)
    assert (code, said.splitlines()) == (
        0,
        [f"{name}: now under the key {ModelKey(new).id}" for name in ("a.enc", "b.enc")],
    )
    assert run("rewrap", "a.enc", *both) == (0, f"a.enc: already under the key {ModelKey(new).id}\n")
    assert run("decrypt", "a.enc", "copy", *IRIS)[0] == 1
    assert run("decrypt", "a.enc", "copy", *IRIS, "--key-env", "NEW")[0] == 0


@pytest.mark.parametrize("place", ["env", "file"])
def test_a_fernet_file_is_migrated(run: Run, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plaintext is on no disk on the way."""
    key = Fernet.generate_key()
    Path("old").write_bytes(Fernet(key).encrypt(MODEL))
    Path("fernet.key").write_bytes(key + b"\n")
    monkeypatch.setenv("FERNET_KEY", key.decode())
    named = {"env": "FERNET_KEY", "file": "fernet.key"}[place]
    assert run("encrypt", "old", "new", *IRIS, f"--fernet-key-{place}", named) == (0, "")
    assert sorted(path.name for path in Path().iterdir()) == ["fernet.key", "model", "new", "old"]
    assert run("decrypt", "new", "copy", *IRIS)[0] == 0
    assert Path("copy").read_bytes() == MODEL


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--key-env", "UNSET_VARIABLE"), "'UNSET_VARIABLE' has no key"),
        (("--key-file", "none"), "none: No such file"),
        (("--key-file", "model"), "'model' has no key in it"),
        (("--key-env", "HOME"), "the key for models"),
    ],
)
def test_a_place_without_a_key_is_exit_code_3(run: Run, arguments: tuple[str, ...], said: str) -> None:
    """The line names the place and quotes nothing that is there."""
    Path("model").write_bytes(b"\xff" * 100)
    code, told = run("encrypt", "model", "model.enc", *IRIS, *arguments)
    assert code == 3
    assert said in told
    assert os.environ["HOME"] not in told
    assert not Path("model.enc").exists()


def test_a_key_on_the_command_line_is_not_taken(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Other users would see it: it is taken for the name of a variable, or refused, and not repeated."""
    for size in (32, 64):
        key = secrets.token_urlsafe(size)
        code, said = run("encrypt", "model", "model.enc", *IRIS, f"--key-env={key}")
        assert code == 3
        assert key not in said
    with pytest.raises(SystemExit):
        main(["model", "encrypt", "model", "model.enc", *IRIS, key.lstrip("-")])
    said = capsys.readouterr().err
    assert key.lstrip("-") not in said
    assert "--key-env NAME or --key-file FILE" in said


def test_without_any_key_the_error_says_where_it_goes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, and the options."""
    monkeypatch.delenv("MLGUARD_MODEL_KEY")
    code, said = run("encrypt", "model", "model.enc", *IRIS)
    assert code == 3
    assert "MLGUARD_MODEL_KEY" in said
