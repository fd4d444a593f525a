"""The key of models changes in its source while a service runs: new files are under the new one, old ones are read."""

import secrets
from pathlib import Path

import pytest

from mlguard import ModelDecryptionError, Rotating, encrypt_model, read_encrypted_model, rewrap_model
from mlguard._lookout import Lookout
from tests.clock import Clock
from tests.secrets.vaults import Vault

OLD, NEW = secrets.token_urlsafe(32), secrets.token_urlsafe(32)


def test_a_rotated_key_decrypts_what_the_old_one_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """During the overlap both are used; then a file that was not put under the new key is refused."""
    pytest.importorskip("tink")
    monkeypatch.setattr(Lookout, "send", lambda lookout: setattr(lookout, "is_out", True))
    clock, vault = Clock(1_000.0), Vault(key=OLD)
    key = Rotating(vault, "key", ttl=300, overlap=3_600, clock=clock)
    for name in ("left", "moved"):
        encrypt_model(b"weights", tmp_path / name, key.values, name="iris", version=1)

    vault.values["key"] = NEW
    clock.now += 301
    key.look()
    encrypt_model(b"weights", tmp_path / "new", key.values, name="iris", version=1)
    assert rewrap_model(tmp_path / "moved", key.values)
    for name in ("left", "moved", "new"):
        assert read_encrypted_model(tmp_path / name, key.values, name="iris", version=1) == b"weights"

    clock.now += 3_600
    key.look()
    for name in ("moved", "new"):
        assert read_encrypted_model(tmp_path / name, NEW, name="iris", version=1) == b"weights"
        assert read_encrypted_model(tmp_path / name, key.values, name="iris", version=1) == b"weights"
    with pytest.raises(ModelDecryptionError, match="under the key"):
        read_encrypted_model(tmp_path / "left", key.values, name="iris", version=1)
