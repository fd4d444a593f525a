"""Models that were encrypted with Fernet."""

import logging
import os
import secrets
import traceback
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mlguard.artifacts.fernet_files import read_fernet_model
from mlguard.errors import ConfigurationError, ModelDecryptionError

KEY, OLDER = Fernet.generate_key(), Fernet.generate_key()
MODEL = secrets.token_bytes(10_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model as the usual snippet encrypts it."""
    path = tmp_path / "model.fernet"
    path.write_bytes(Fernet(KEY).encrypt(MODEL))
    return path


@pytest.mark.parametrize("key", [KEY, KEY.decode(), SecretStr(KEY.decode()), [OLDER, KEY], (KEY, OLDER)])
def test_an_old_file_is_read(path: Path, key: Any) -> None:
    """With its key in every form that a secret has, alone or among others."""
    assert read_fernet_model(path, key) == MODEL
    path.write_bytes(path.read_bytes() + b"\n")  # as an editor leaves it
    assert read_fernet_model(path, key) == MODEL


@given(st.integers(0, 13_000), st.sampled_from(["cut", "changed"]))
def test_what_is_not_whole_is_refused(tmp_path_factory: pytest.TempPathFactory, at: int, how: str) -> None:
    """Cut short or changed, anywhere."""
    token = Fernet(KEY).encrypt(MODEL)
    at %= len(token) - 4  # at the end are bits that base64 does not use
    other = b"A" if token[at : at + 1] != b"A" else b"B"
    path = tmp_path_factory.getbasetemp() / "fernet"
    path.write_bytes(token[:at] + (other + token[at + 1 :] if how == "changed" else b""))
    with pytest.raises(ModelDecryptionError):
        read_fernet_model(path, KEY)


def test_a_refusal_is_an_event_and_tells_no_key(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each access is recorded, with the name of the file; neither key nor token is in the error."""
    with caplog.at_level(logging.INFO, logger="mlguard.audit"):
        read_fernet_model(path, KEY)
        with pytest.raises(ModelDecryptionError, match="another key than Fernet's") as refusal:
            read_fernet_model(path, OLDER)
    told = "".join(traceback.format_exception(refusal.value)) + caplog.text
    assert OLDER.decode() not in told
    assert path.read_text()[:20] not in told
    assert [(r.__dict__["event"], r.__dict__["facts"]["file"]) for r in caplog.records] == [
        ("model.decrypted", "model.fernet"),
        ("model.refused", "model.fernet"),
    ]


@pytest.mark.parametrize("key", [None, "", b"", "changeme", [], [None], [KEY, "x"], 3, KEY[:-4], b"\xff" * 44, [[KEY]]])
def test_what_is_no_key_of_fernet_is_refused(path: Path, key: Any) -> None:
    """As a mistake of the one who calls, without quoting it."""
    with pytest.raises(ConfigurationError, match="a key of Fernet is") as refusal:
        read_fernet_model(path, key)
    assert refusal.value.__context__ is None
    assert "changeme" not in str(refusal.value)


def test_a_file_that_would_take_too_much_memory_is_refused(path: Path) -> None:
    """The limit can be raised, and the error says how."""
    size = path.stat().st_size
    with pytest.raises(ConfigurationError, match="max_bytes"):
        read_fernet_model(path, KEY, max_bytes=size - 1)
    assert read_fernet_model(path, KEY, max_bytes=size) == MODEL
    with pytest.raises(ConfigurationError, match="whole number"):
        read_fernet_model(path, KEY, max_bytes=0)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    """It is refused at once."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="no regular file"):
        read_fernet_model(tmp_path / "pipe", KEY)
