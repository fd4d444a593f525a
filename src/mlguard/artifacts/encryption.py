"""Encrypted model files: streamed by Tink, bound to a name and a version, under keys that can be rotated.

The body is Tink's AES256-GCM-HKDF streaming encryption (the online authenticated encryption of Hoang, Reyhanitabar,
Rogaway and Vizár, 2015) with a data key of its own. The data key is wrapped by a key-encryption key and stands in the
header, so that rotation need not touch the body.
"""

import contextlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeAlias

from mlguard._files import making_directory, open_regular, replacing
from mlguard.artifacts._encrypted_header import Header, Identity
from mlguard.artifacts._packed_directories import pack, unpack
from mlguard.artifacts._tink import DecryptingReader, EncryptingWriter, new_data_key
from mlguard.artifacts.key_wrapping import KeySource, ModelKey, model_keys
from mlguard.errors import ConfigurationError, ModelDecryptionError
from mlguard.monitoring.events import record_event

StrPath: TypeAlias = str | os.PathLike[str]

_BLOCK = 1024 * 1024  # bytes, as many as Tink encrypts at a time
_CIPHERTEXT_MODE = 0o644
_PLAINTEXT_MODE = 0o600
_SUFFIX = ".enc"


def encrypt_model(source: StrPath | bytes, target: StrPath, key: KeySource, *, name: str, version: str | int) -> None:
    """Encrypt a model file, for one name and one version.

    Guards a model at rest against who can read or change the storage, and has not the key. Not against who can read the
    service's memory or its secrets. Who has the key can also make a file that decrypts: to know who has made a model,
    sign it, and then encrypt it. The header shows the name, the version, the id of the key and the size.

    Takes memory for a few segments of 1 MiB, however large the file is. Blocks: call it in a thread of its own from
    ``async`` code.

    Args:
        source: The model: a path, or its content as bytes. A directory is packed, so that no file in it can be left
            out or exchanged; it must hold files and directories only, no links.
        target: Where the encrypted file goes. It appears whole, in one step, or not at all.
        key: 32 random bytes, a base64 text of them, a ``ModelKey``; a sequence of these, of which the first encrypts;
            or a function that returns them.
        name: What the model is called, 1 to 255 bytes of printable text.
        version: Which version it is, likewise, or a whole number. 3 and ``"3"`` are the same.

    Raises:
        ConfigurationError: An argument that cannot work, a weak key, or the extra ``tink`` is not installed.
        OSError: A file cannot be read or written. What was at ``target`` is as it was.
    """
    identity = Identity.checked(name, version)
    kek = model_keys(key)[0]
    target = _replaceable(target)
    source = source if isinstance(source, bytes) else Path(source)
    packed = isinstance(source, Path) and source.is_dir()
    if isinstance(source, Path) and packed and target.resolve().is_relative_to(source.resolve()):
        raise ConfigurationError(f"{str(target)!r} is in the directory that is encrypted: put it elsewhere")
    data_key = new_data_key()
    header = Header(kek.id, identity, packed)
    with replacing(target, new_mode=_CIPHERTEXT_MODE) as file:
        start = file.write(bytes(header.wrapping(data_key, kek)))  # keeps the place
        with EncryptingWriter(file, data_key, header.body_bound) as writer:
            if isinstance(source, Path) and packed:
                pack(source, writer)
            else:
                _copy(source, writer)
        header = replace(header, length=file.tell() - start)
        file.seek(0)
        file.write(bytes(header.wrapping(data_key, kek)))
    record_event("model.encrypted", name=identity.name, version=identity.version, key=kek.id)


def decrypt_model(source: StrPath, target: StrPath, key: KeySource, *, name: str, version: str | int) -> None:
    """Decrypt a model file into another, which appears only when the whole of it is known to be right.

    Until then the plaintext is in a file that has no name and ends with the process (on Linux, where the file system
    can), or in one with mode 0600 that is removed on every failure, and left behind only by a process that is killed.

    To load a model, ``decrypted_model`` and ``read_encrypted_model`` leave no plaintext behind.

    Args:
        source: The encrypted file.
        target: Where the model goes. A new file gets mode 0600; one that is replaced keeps its own. For a directory
            there must be nothing yet.
        key: As for ``encrypt_model``; any of several decrypts.
        name: What the model must be called.
        version: Which version it must be.

    Raises:
        ConfigurationError: As for ``encrypt_model``.
        ModelDecryptionError: Encrypted under a key that is not given, another name or version, cut short, altered, or
            no encrypted model. Nothing is at ``target`` that was not there before.
        OSError: A file cannot be read or written.
    """
    target = _replaceable(target)
    with _decrypting(source, key, name, version) as model:
        if not model.packed:
            with replacing(target, new_mode=_PLAINTEXT_MODE) as file:
                shutil.copyfileobj(model.reader, file, _BLOCK)
        elif target.exists():
            raise ConfigurationError(f"{str(target)!r} is there already, and the model is a directory")
        else:
            with making_directory(target) as folder:
                unpack(model.reader, folder)


def read_encrypted_model(source: StrPath, key: KeySource, *, name: str, version: str | int) -> bytes:
    """Decrypt a model file into memory: nothing of it is written anywhere.

    Memory for the model is taken as its segments are found to be right: an altered file cannot make it take more than
    the one that was encrypted.

    Args:
        source: The encrypted file.
        key: As for ``decrypt_model``.
        name: As for ``decrypt_model``.
        version: As for ``decrypt_model``.

    Returns:
        The model, whole.

    Raises:
        ConfigurationError: As for ``encrypt_model``.
        ModelDecryptionError: As for ``decrypt_model``.
        OSError: The file cannot be read.
    """
    content = io.BytesIO()
    with _decrypting(source, key, name, version) as model:
        if model.packed:
            raise ConfigurationError(
                "the model is a directory, which has no bytes: use decrypted_model or decrypt_model"
            )
        shutil.copyfileobj(model.reader, content, _BLOCK)
    return content.getvalue()


@contextlib.contextmanager
def decrypted_model(
    source: StrPath, key: KeySource, *, name: str, version: str | int, folder: StrPath | None = None
) -> Iterator[Path]:
    """Decrypt a model file into a directory of its own, mode 0700, which is removed when the block ends.

    For libraries that load from a path. Only a process that is killed leaves the directory behind: in ``/dev/shm`` it
    is memory, and gone with the machine's next start at the latest.

    Args:
        source: The encrypted file.
        key: As for ``decrypt_model``.
        name: As for ``decrypt_model``.
        version: As for ``decrypt_model``.
        folder: Where the directory is made. None: where temporary files go, which ``TMPDIR`` says.

    Yields:
        The path of the model, named like ``source`` without ``.enc``.

    Raises:
        ConfigurationError: As for ``encrypt_model``.
        ModelDecryptionError: As for ``decrypt_model``.
        OSError: A file cannot be read or written.
    """
    with tempfile.TemporaryDirectory(prefix="mlguard-", dir=folder) as directory:
        path = Path(directory, Path(source).name.removesuffix(_SUFFIX) or "model")
        with _decrypting(source, key, name, version) as model:
            if model.packed:
                path.mkdir()
                unpack(model.reader, path)
            else:
                with path.open("xb") as file:
                    shutil.copyfileobj(model.reader, file, _BLOCK)
        yield path


def rewrap_model(path: StrPath, key: KeySource) -> bool:
    """Put an encrypted file under the first of several keys, without decrypting the model.

    Only the data key is decrypted, and encrypted again. The file is replaced in one step, so its bytes are copied once.
    Who had the old key and the old file can still decrypt the old file. If the old key is in wrong hands, encrypt the
    model anew.

    Args:
        path: The encrypted file.
        key: As for ``encrypt_model``: the new key first, then the old ones.

    Returns:
        Whether there was anything to do: False if the file is under the first key already.

    Raises:
        ConfigurationError: As for ``encrypt_model``; or another file was put there meanwhile, or it was written to.
        ModelDecryptionError: Encrypted under a key that is not given, cut short, an altered header, or no encrypted
            model. The file is as it was. Whether the model itself was altered shows when it is decrypted.
        OSError: The file cannot be read or written.
    """
    keys = model_keys(key)
    path = _replaceable(path)
    with open_regular(path) as file:
        found = _state(os.fstat(file.fileno()))
        with _recording_refusal(file=path.name):
            header, data_key = _unwrap(file, keys)
        if header.key_id == keys[0].id:
            return False
        with replacing(path, new_mode=_CIPHERTEXT_MODE) as target:
            target.write(bytes(header.wrapping(data_key, keys[0])))
            shutil.copyfileobj(file, target, _BLOCK)
            if _state(path.stat()) != found:  # or the older model would take the place of the newer one
                raise ConfigurationError(f"{str(path)!r} was changed while it was put under another key: try again")
    identity = header.identity
    record_event(
        "model.rewrapped", name=identity.name, version=identity.version, key=keys[0].id, previous=header.key_id
    )
    return True


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _copy(source: Path | bytes, writer: EncryptingWriter) -> None:
    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        shutil.copyfileobj(file, writer, _BLOCK)


@dataclass(frozen=True, slots=True)
class _Model:
    """An encrypted model whose header is right.

    Attributes:
        reader: Reads what is decrypted.
        packed: Whether that is a directory.
    """

    reader: DecryptingReader
    packed: bool


@contextlib.contextmanager
def _decrypting(source: StrPath, key: KeySource, name: str, version: str | int) -> Iterator[_Model]:
    """A model to read."""
    identity = Identity.checked(name, version)
    keys = model_keys(key)
    with open_regular(source) as file, _recording_refusal(name=identity.name, version=identity.version):
        header, data_key = _unwrap(file, keys)
        if header.identity != identity:
            raise ModelDecryptionError(f"the file is {header.identity}, and {identity} was asked for")
        yield _Model(DecryptingReader(file, data_key, header.body_bound), header.packed)
    record_event("model.decrypted", name=identity.name, version=identity.version, key=header.key_id)


def _unwrap(file: BinaryIO, keys: list[ModelKey]) -> tuple[Header, bytes]:
    """The header of a file and the data key in it. From then on the header is known to be right, and so is the size."""
    header = Header.read(file)
    matching = [key for key in keys if key.id == header.key_id]
    if not matching:
        raise ModelDecryptionError(
            f"the file is encrypted under the key {header.key_id!a}, "
            f"and the keys that are given are {', '.join(key.id for key in keys)}"
        )
    data_key = header.unwrap(matching[0])
    if data_key is None:
        raise ModelDecryptionError("the header is altered: its key does not open it")
    there = os.fstat(file.fileno()).st_size - file.tell()
    if there < header.length:
        raise ModelDecryptionError(f"the file is cut short: {header.length - there} bytes are missing at its end")
    if there > header.length:
        raise ModelDecryptionError(f"the file is altered: {there - header.length} bytes are behind its end")
    return header, data_key


@contextlib.contextmanager
def _recording_refusal(**facts: str) -> Iterator[None]:
    try:
        yield
    except ModelDecryptionError as error:
        record_event("model.refused", **facts, reason=str(error))
        raise


def _replaceable(path: StrPath) -> Path:
    """A place where a file may go: where there is none, or a regular one."""
    path = Path(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return path
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{str(path)!r} is there already, and is no regular file")
    return path
