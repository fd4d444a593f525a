"""``sign_model`` and ``verify_model``: what holds, and every way of it that must not."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mlguard import ModelSignatureError, sign_model, verify_model

KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with three files, one of them empty."""
    root = tmp_path / "iris"
    (root / "weights").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "weights" / "one.bin").write_bytes(b"1" * 5_000)
    (root / "weights" / "empty").touch()
    return root


def test_a_folder_that_was_signed_is_verified(model: Path) -> None:
    """Verification says what was signed, by whom, and the digest of each file."""
    signed = sign_model(model, KEY)
    verified = verify_model(model, KEY.public_key())
    assert verified == signed
    assert verified.name == "iris"
    assert sorted(verified.files) == ["config.json", "weights/empty", "weights/one.bin"]


def test_an_altered_file_is_refused(model: Path) -> None:
    """One byte is enough."""
    sign_model(model, KEY)
    (model / "weights" / "one.bin").write_bytes(b"1" * 4_999 + b"2")
    with pytest.raises(ModelSignatureError, match=r"'weights/one\.bin' is not as it was signed"):
        verify_model(model, KEY.public_key())
