"""A model to sign, and a key."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = KEY.public_key()
OTHER = ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """As ``openssl ecparam -genkey`` writes it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """As ``openssl ec -pubout`` writes it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def make_model(root: Path) -> Path:
    """A folder with three files, one of them empty."""
    (root / "weights").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "weights" / "one.bin").write_bytes(b"1" * 5_000)
    (root / "weights" / "empty").touch()
    return root
