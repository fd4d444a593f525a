"""Folders that are numbered from 1: each gets its number when all of it is on the disk and signed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlguard._files import locked, making_directory, remove_unfinished, replacing
from mlguard.artifacts._signing_keys import PrivateKey
from mlguard.artifacts.model_versions import RECORD, PromotionRecord, VersionRecord, write_record
from mlguard.artifacts.signing import VerifiedModel, sign_model
from mlguard.errors import ConfigurationError


def entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing if there is none."""
    return [*folder.iterdir()] if folder.is_dir() else []


def numbers(folder: Path) -> list[int]:
    """The numbers that there are; temporary folders have none."""
    names = [entry.name for entry in entries(folder)]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and name == str(int(name)))


@contextmanager
def next_folder(folder: Path, key: PrivateKey | None) -> Iterator[tuple[int, Path, PrivateKey]]:
    """A folder to fill and to sign, which gets the next number when the block ends without an exception.

    Args:
        folder: Where the others are. It is made if there is none.
        key: What signs it.

    Raises:
        ConfigurationError: There is no key.
        OSError: It cannot be made.
    """
    if key is None:
        raise ConfigurationError("ModelStore(signing_key=...) signs what is saved and promoted: there is none")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        remove_unfinished(folder)
        number = max(numbers(folder), default=0) + 1
        with making_directory(folder / str(number)) as made:
            yield number, made, key


def sign_record(made: Path, record: VersionRecord | PromotionRecord, key: PrivateKey, name: str) -> VerifiedModel:
    """Write the record of a folder, and sign all that is in it under a name."""
    with replacing(made / RECORD, new_mode=0o644) as file:
        file.write(write_record(record))
    made.chmod(0o755)  # only encryption keeps a secret; the service may be another user
    return sign_model(made, key, name=name)
