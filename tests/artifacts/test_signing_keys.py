"""The keys that may sign models, in every form; and everything else that somebody could pass instead."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from mlguard import ConfigurationError
from mlguard.artifacts._signing_keys import key_id, private_key, public_keys
from tests.artifacts.models import KEY, OTHER, PUBLIC, private_pem, public_pem

P384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65_537, 2_048)


def pem_of(key: Any) -> bytes:
    pem: bytes = public_pem(key.public_key())
    return pem


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the public key."""
    path = tmp_path / "key.pub"
    path.write_bytes(public_pem(PUBLIC))
    return path


def test_a_public_key_comes_in_every_form(path: Path) -> None:
    """PEM as text and as bytes, the path of a file, an object; alone or in a list."""
    pem = public_pem(PUBLIC)
    for key in (pem, pem.decode(), path, str(path), PUBLIC):
        assert public_keys(key) == {key_id(PUBLIC): PUBLIC}
    assert public_keys([pem, PUBLIC, OTHER.public_key()]) == {key_id(k): k for k in (PUBLIC, OTHER.public_key())}
    assert public_keys((path,)).keys() == {key_id(PUBLIC)}


def test_a_private_key_comes_in_every_form(tmp_path: Path) -> None:
    """PEM as text and as bytes, the path of a file, an object."""
    pem = private_pem(KEY)
    path = tmp_path / "key.pem"
    path.write_bytes(pem)
    for key in (pem, pem.decode(), path, str(path), KEY):
        assert private_key(key, None).private_numbers() == KEY.private_numbers()


def test_a_private_key_may_have_a_password() -> None:
    """As text or as bytes; another one does not open it, and no error quotes either."""
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"correct horse"))
    for password in ("correct horse", b"correct horse"):
        assert private_key(pem, password).private_numbers() == KEY.private_numbers()
    for wrong in ("battery staple", None):
        with pytest.raises(ConfigurationError, match="password does not open it") as caught:
            private_key(pem, wrong)
        assert caught.value.__cause__ is None
        assert "staple" not in str(caught.value)
    for impossible in ("", b"", 5):
        with pytest.raises(ConfigurationError, match="password is a text"):
            private_key(pem, impossible)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="password does not open it"):
        private_key(private_pem(KEY), "a password that it has not")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_key_of_openssl_is_read(tmp_path: Path) -> None:
    """With the parameters before it that openssl writes unless it is told not to; its id is what sha256sum says."""
    pem = subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey"], check=True, capture_output=True
    ).stdout
    assert pem.count(b"BEGIN") == 2
    key = private_key(pem, None)
    out = subprocess.run(["openssl", "ec", "-pubout"], check=True, capture_output=True, input=pem).stdout
    assert public_keys(out).keys() == {key_id(key.public_key())} == {hashlib.sha256(out).hexdigest()}


@pytest.mark.parametrize(
    ("key", "match"),
    [
        (KEY, "is a private key"),
        (private_pem(KEY), "is a private key"),
        (P384.public_key(), "curve P-256"),
        (pem_of(P384), "curve P-256"),
        (ED.public_key(), "curve P-256"),
        (pem_of(ED), "curve P-256"),
        (pem_of(RSA), "curve P-256"),
        (b"", "no public key in PEM"),
        (b"\0" * 99, "no public key in PEM"),
        (public_pem(PUBLIC)[:-40], "no public key in PEM"),
        (public_pem(PUBLIC) + pem_of(OTHER), "several keys in one PEM"),
        ("-----BEGIN PUBLIC KEY-----\nA\u00e9\ud800\n", "no public key in PEM"),
        ("no/such/file", "neither PEM nor the path"),
        ("a\0b", "neither PEM nor the path"),
        (Path("/"), "neither PEM nor the path"),
        (None, "curve P-256"),
        (5, "curve P-256"),
        ([], "list of 1 to 32"),
        ([PUBLIC] * 33, "list of 1 to 32"),
        ([PUBLIC, KEY], "entry 2, is a private key"),
        ([PUBLIC, None], "entry 2, must be"),
        ({key_id(PUBLIC): PUBLIC}, "curve P-256"),
    ],
)
def test_what_is_no_public_p256_key_is_refused(key: Any, match: str) -> None:
    """The error says what is wrong, and quotes nothing."""
    with pytest.raises(ConfigurationError, match=match) as caught:
        public_keys(key)
    assert caught.value.__cause__ is None
    assert "no/such" not in str(caught.value)


@pytest.mark.parametrize("key", [PUBLIC, public_pem(PUBLIC), P384, private_pem(P384), ED, None, 5, b"", [KEY]])
def test_what_is_no_private_p256_key_is_refused(key: Any) -> None:
    """The error says how to make one."""
    with pytest.raises(ConfigurationError, match="openssl ecparam -name prime256v1"):
        private_key(key, None)


@pytest.mark.parametrize("name", ["secp256k1", "brainpoolP256r1"])
def test_another_curve_of_the_same_size_is_refused(name: str) -> None:
    """It would sign with as many bytes."""
    curve = ec.SECP256K1() if name == "secp256k1" else ec.BrainpoolP256R1()
    try:
        other = ec.generate_private_key(curve)
    except Exception:
        pytest.skip("this OpenSSL does not have the curve")
    with pytest.raises(ConfigurationError, match="curve P-256"):
        public_keys(other.public_key())
