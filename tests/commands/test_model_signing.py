"""``mlguard model sign`` and ``verify``: what they write, and the exit code of each end."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from mlguard import verify_model
from mlguard.__main__ import main
from tests.artifacts.models import KEY, OTHER, PUBLIC, make_model, private_pem, public_pem


@dataclass
class Done:
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs ``mlguard model`` with these arguments, where the keys and the model are."""
    make_model(tmp_path / "iris")
    (tmp_path / "key.pem").write_bytes(private_pem(KEY))
    (tmp_path / "key.pub").write_bytes(public_pem(PUBLIC))
    (tmp_path / "other.pub").write_bytes(public_pem(OTHER.public_key()))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            code = main(["model", *arguments])
        except SystemExit as wrong:
            code = int(wrong.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def test_a_model_is_signed_and_verified(run: Run) -> None:
    """Both say what it is called, how many files it has, its digest and the key."""
    signed = run("sign", "iris", "--key", "key.pem")
    verified = run("verify", "iris", "--key", "key.pub")
    assert (signed.code, verified.code, signed.err, verified.err) == (0, 0, "", "")
    expected = verify_model("iris", PUBLIC)
    rest = f"iris\nfiles: 3\ndigest: sha256:{expected.digest}\nkey: {expected.key_id}\n"
    assert (signed.out, verified.out) == (f"signed: {rest}", f"verified: {rest}")


def test_a_refusal_is_exit_code_1(run: Run) -> None:
    """Altered, of another key, without a signature, under another name: one line says why."""
    assert run("sign", "iris", "--key", "key.pem", "--name", "v1").code == 0
    for arguments, match in (
        (("iris", "--key", "other.pub"), "another key"),
        (("iris", "--key", "key.pub", "--name", "v2"), "another name"),
        (("iris", "--key", "key.pub", "--signature", "nowhere"), "no signature"),
        (("iris", "--key", "key.pub", "--max-files", "2"), "more than 2 files"),
    ):
        done = run("verify", *arguments)
        assert (done.code, done.out) == (1, "")
        assert match in done.err
    Path("iris/config.json").write_text("[]")
    assert run("verify", "iris", "--key", "key.pub").err == "mlguard: 'config.json' is not as it was signed\n"
    Path("iris/link").symlink_to("/")
    assert run("sign", "iris", "--key", "key.pem").code == 1


def test_what_cannot_be_used_is_exit_code_3(run: Run) -> None:
    """A key of the wrong kind, a model or a key that is not there, a place where nothing can be written."""
    for arguments in (
        ("verify", "iris", "--key", "key.pem"),
        ("sign", "iris", "--key", "key.pub"),
        ("sign", "nowhere", "--key", "key.pem"),
        ("verify", "iris", "--key", "nowhere"),
        ("sign", "iris", "--key", "key.pem", "--signature", "nowhere/model.sig"),
        ("sign", "iris", "--key", "key.pem", "--password-file", "nowhere"),
        ("sign", "iris", "--key", "key.pem", "--max-files", "0"),
    ):
        done = run(*arguments)
        assert (done.code, done.out) == (3, ""), arguments
        assert done.err.startswith("mlguard: ")


def test_wrong_use_is_exit_code_2(run: Run) -> None:
    """No key is no use."""
    assert run("verify", "iris").code == 2
    assert run("sign", "iris", "--key", "key.pem", "--max-files", "many").code == 2


def test_a_key_is_never_taken_from_the_command_line(run: Run) -> None:
    """One that stands there is taken for a path, and not quoted."""
    done = run("sign", "iris", "--key", private_pem(KEY).decode())
    assert (done.code, done.out) == (3, "")
    assert "neither PEM nor the path" in done.err
    assert "BEGIN" not in done.err


def test_a_key_comes_from_standard_input(run: Run) -> None:
    """So it need not lie on the disk where models are built."""
    assert run("sign", "iris", "--key", "-", stdin=private_pem(KEY)).code == 0
    assert run("verify", "iris", "--key", "key.pub").code == 0
    assert run("sign", "iris", "--key", "-").code == 3


def test_a_key_may_have_a_password(run: Run) -> None:
    """In a file, whose last line may end."""
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"correct horse"))
    Path("locked.pem").write_bytes(pem)
    Path("password").write_text("correct horse\n")
    assert run("sign", "iris", "--key", "locked.pem").code == 3
    assert run("sign", "iris", "--key", "locked.pem", "--password-file", "password").code == 0
    assert run("verify", "iris", "--key", "other.pub", "--key", "key.pub").code == 0


def test_paths_can_be_left_out_and_the_signature_be_elsewhere(run: Run) -> None:
    """Who verifies says so too."""
    Path("iris/.git").mkdir()
    Path("iris/.git/HEAD").touch()
    assert run("sign", "iris", "--key", "key.pem", "--ignore", ".git", "--signature", "iris.sig").code == 0
    assert not Path("iris/model.sig").exists()
    assert run("verify", "iris", "--key", "key.pub", "--signature", "iris.sig").code == 1
    assert run("verify", "iris", "--key", "key.pub", "--signature", "iris.sig", "--ignore", ".git").code == 0
