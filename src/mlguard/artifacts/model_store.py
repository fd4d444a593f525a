"""Versions of models in a folder: each signed with its record, one of them promoted, and none of them ever changed.

::

    root/iris/versions/3/model.joblib    the model, perhaps encrypted (model.joblib.enc)
    root/iris/versions/3/record.json     what it is, and where it comes from
    root/iris/versions/3/model.sig       over both, under the name iris@3
    root/iris/promotions/2/record.json   which version is to be served since when, by whom
    root/iris/promotions/2/model.sig     under the name iris@promotion-2

A folder gets its name when all of it is on the disk, so a crash leaves no half version. Numbers are given out while the
model's folder is locked.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlguard._files import open_regular, replacing
from mlguard._guard import Principal
from mlguard.artifacts._numbered_folders import entries, next_folder, numbers, sign_record
from mlguard.artifacts._promotions import in_force, read_promotions
from mlguard.artifacts._signing_keys import PrivateKey, PublicKey
from mlguard.artifacts._symbols import Name
from mlguard.artifacts.encryption import encrypt_model, read_encrypted_model
from mlguard.artifacts.key_wrapping import KeySource
from mlguard.artifacts.loading import MAX_SIZE, load_model
from mlguard.artifacts.model_scopes import OWNER, name_of, require_scope
from mlguard.artifacts.model_versions import (
    NAME,
    RECORD,
    ModelVersion,
    PromotionRecord,
    VersionRecord,
    checked_name,
    checked_suffix,
    lineage_record,
    now,
    read_record,
    version_of,
)
from mlguard.artifacts.signing import VerifiedModel, signed_files, verify_model
from mlguard.errors import ConfigurationError, ModelSignatureError
from mlguard.monitoring.events import record_event

_BLOCK = 1 << 20  # bytes

Version = int | Literal["promoted", "latest"]


class ModelStore:
    """Keeps versions of models, and says which one is to be served.

    It guards against a model that nobody has signed, one that was altered, one that stands in the place of another
    model or version, and against half a version after a crash. It does not guard against who has the signing key; nor
    against who can delete in the folder: without the last promotion, the one before is in force again. Where that
    matters, load a version by its number.

    Every action may name the principal that asks for it (``by=``). Then it needs a scope, ``MODEL_SCOPES``, and the
    record says who it was. Without, whoever may write to the folder and has the key may do it, as on the command line.
    ``by=None`` is nobody, who may do nothing.

    Args:
        root: The folder, on a file system of this machine or one that locks. It is made by the first ``save``.
        key: Who may have signed, as for ``verify_model``.
        signing_key: Signs what is saved and promoted: a private P-256 key, as for ``sign_model``. A service that only
            loads has none.
        encryption_key: Encrypts the models that are saved, and decrypts those that are loaded, as for
            ``encrypt_model`` (extra ``tink``). None: they are not encrypted.

    Raises:
        ConfigurationError: ``root`` is no path.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        key: PublicKey | Sequence[PublicKey],
        signing_key: PrivateKey | None = None,
        encryption_key: KeySource | None = None,
    ) -> None:
        if not isinstance(root, str | os.PathLike) or not str(root):
            raise ConfigurationError("ModelStore(root) is the path of a folder")
        self.root = Path(root)
        self._key = key
        self._signing_key = signing_key
        self._encryption_key = encryption_key

    def __repr__(self) -> str:
        return f"ModelStore({str(self.root)!r})"

    # Versions --------------------------------------------------------------------------------------------------------

    def save(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        code_version: str = "",
        data_version: str = "",
        environment: Mapping[str, str] | None = None,
        by: Principal = OWNER,
    ) -> ModelVersion:
        """Keep a model as the next version. Nobody is served it before it is promoted, but those who load the latest.

        Args:
            name: Of the model: lower-case letters, digits, dots, hyphens and underscores.
            path: The model file, which is copied. Its suffix says what it is, as for ``load_model``.
            code_version: Of the code that trained it, such as a commit.
            data_version: Of the data that it was trained on.
            environment: Versions by package. None: Python's and those of the packages here that models need.
            by: Who asks for it.

        Returns:
            The new version.

        Raises:
            InsufficientScopeError: ``by`` lacks the scope ``models:save`` (403).
            ConfigurationError: There is no signing key, the file is none, its name ends in something odd, it changed
                while it was read, or there is more to record than there is room for.
            OSError: The file cannot be read, or the store cannot be written. Nothing was saved.
        """
        require_scope("save", by)
        folder = self._folder(name) / "versions"
        lineage = lineage_record(code_version, data_version, environment)
        source = Path(path)
        suffix = checked_suffix(source)
        with next_folder(folder, self._signing_key) as (number, made, signing_key):
            file = f"model{suffix}" + (".enc" if self._encryption_key is not None else "")
            sha256, size = self._copy(source, made / file, name, number)
            record = VersionRecord(
                name=name,
                version=number,
                file=file,
                sha256=sha256,
                size=size,
                encrypted=self._encryption_key is not None,
                saved_at=now(),
                saved_by=name_of(by),
                lineage=lineage,
            )
            signed = sign_record(made, record, signing_key, f"{name}@{number}")
        found = version_of(folder / str(number), signed, record)
        record_event("model.saved", model=name, version=number, digest=found.digest, by=name_of(by))
        return found

    def find(self, name: str, version: Version = "promoted") -> ModelVersion:
        """Verify a version, to the last byte of its files.

        Args:
            name: Of the model.
            version: Its number, ``"promoted"``, or ``"latest"``: the last one that was saved.

        Raises:
            ModelSignatureError: It is not as it was signed.
            ConfigurationError: There is none, or none is promoted.
        """
        number, digest = self._which(name, version)
        folder = self._folder(name) / "versions" / str(number)
        verified = verify_model(folder, self._key, name=f"{name}@{number}")
        found = self._read(folder, verified, name, number)
        if digest not in {None, found.digest}:
            raise ModelSignatureError(f"version {number} of {name} is not the one that was promoted")
        return found

    def load(
        self,
        name: str,
        version: Version = "promoted",
        *,
        allow: Iterable[Name] = (),
        format: str | None = None,  # noqa: A002  # as load_model has it
        max_size: int = MAX_SIZE,
        by: Principal = OWNER,
    ) -> Any:
        """Load a version through the gate of ``load_model``. It blocks for as long as it takes.

        Args:
            name: Of the model.
            version: As for :meth:`find`.
            allow: The globals that a pickle may name, as for ``load_model``.
            format: As for ``load_model``.
            max_size: As for ``load_model``.
            by: Who asks for it.

        Returns:
            The model. ``find`` says which version it is.

        Raises:
            InsufficientScopeError: ``by`` lacks the scope ``models:load`` (403).
            ModelSignatureError: It is not as it was signed.
            ModelContentError: Its format or its content is refused.
            ModelDecryptionError: It is encrypted under another key.
            ConfigurationError: There is none, or it is encrypted and the store has no key.
        """
        require_scope("load", by)
        return self.load_version(self.find(name, version), allow=allow, format=format, max_size=max_size)

    def load_version(
        self,
        found: ModelVersion,
        *,
        allow: Iterable[Name] = (),
        format: str | None = None,  # noqa: A002  # as load_model has it
        max_size: int = MAX_SIZE,
    ) -> Any:
        """Load what :meth:`find` has found: the bytes that are loaded must be the ones that were signed.

        Args:
            found: The version.
            allow: As for :meth:`load`.
            format: As for :meth:`load`.
            max_size: As for :meth:`load`.

        Raises:
            ModelSignatureError: As for :meth:`load`, and so on.
        """
        limits: dict[str, Any] = {"sha256": found.sha256, "allow": allow, "max_size": max_size}
        if not found.encrypted:
            return load_model(found.path, format=format, **limits)
        if self._encryption_key is None:
            raise ConfigurationError(f"{found.name} is encrypted: ModelStore(encryption_key=...) decrypts it")
        if found.size > max_size:
            raise ConfigurationError(f"{found.name} has {found.size} bytes, more than max_size={max_size}")
        content = read_encrypted_model(found.path, self._encryption_key, name=found.name, version=found.version)
        return load_model(content, format=format or _format(found.path), **limits)

    def names(self) -> Sequence[str]:
        """The models that there are."""
        found = [entry for entry in entries(self.root) if NAME.fullmatch(entry.name)]
        return sorted(entry.name for entry in found if (entry / "versions").is_dir())

    def versions(self, name: str) -> Sequence[int]:
        """The numbers of a model's versions, whether they would be verified or not."""
        return numbers(self._folder(name) / "versions")

    def list(self, name: str, *, by: Principal = OWNER) -> Sequence[ModelVersion]:
        """The versions of a model, by what their signed records say. The models themselves are not looked at.

        Args:
            name: Of the model.
            by: Who asks for it.

        Raises:
            InsufficientScopeError: ``by`` lacks the scope ``models:list`` (403).
            ModelSignatureError: A record is not as it was signed.
        """
        require_scope("list", by)
        return [self.look_at(name, number) for number in self.versions(name)]

    def look_at(self, name: str, number: int) -> ModelVersion:
        """One version as in :meth:`list`.

        Raises:
            ModelSignatureError: The record is not as it was signed.
            ConfigurationError: There is no such version.
        """
        folder = self._folder(name) / "versions" / str(number)
        return self._read(folder, signed_files(folder, self._key, name=f"{name}@{number}"), name, number)

    # Promotions ------------------------------------------------------------------------------------------------------

    def promote(self, name: str, version: int | Literal["latest"], *, by: Principal = OWNER) -> ModelVersion:
        """Have a version served from now on: where services start, or load it anew.

        Args:
            name: Of the model.
            version: Its number, or ``"latest"``.
            by: Who asks for it.

        Returns:
            The version, which was verified.

        Raises:
            InsufficientScopeError: ``by`` lacks the scope ``models:promote`` (403).
            ModelSignatureError: The version is not as it was signed.
            ConfigurationError: There is no such version, or no signing key.
        """
        require_scope("promote", by)
        found = self.find(name, version)
        self._record(name, "promote", found, by, expected=None)
        return found

    def rollback(self, name: str, *, by: Principal = OWNER) -> ModelVersion:
        """Have the version served again that was promoted before the present one.

        Args:
            name: Of the model.
            by: Who asks for it.

        Returns:
            The version, which was verified.

        Raises:
            InsufficientScopeError: ``by`` lacks the scope ``models:rollback`` (403).
            ModelSignatureError: The version is not as it was signed.
            ConfigurationError: There was none before, somebody else was quicker, or there is no signing key.
        """
        require_scope("rollback", by)
        promotions = read_promotions(self._folder(name) / "promotions", self._key, name)
        stack = in_force(promotions)
        if len(stack) < 2:
            raise ConfigurationError(f"no other version of {name} was promoted before")
        found = self.find(name, stack[-2].version)
        if found.digest != stack[-2].digest:
            raise ModelSignatureError(f"version {found.version} of {name} is not the one that was promoted")
        self._record(name, "rollback", found, by, expected=len(promotions))
        return found

    def promoted(self, name: str) -> int | None:
        """The number of the version that is to be served.

        Raises:
            ModelSignatureError: A promotion is not as it was signed.
        """
        stack = in_force(read_promotions(self._folder(name) / "promotions", self._key, name))
        return stack[-1].version if stack else None

    def _record(
        self,
        name: str,
        action: Literal["promote", "rollback"],
        found: ModelVersion,
        by: Principal,
        *,
        expected: int | None,
    ) -> None:
        with next_folder(self._folder(name) / "promotions", self._signing_key) as (number, made, key):
            if expected not in {None, number - 1}:
                raise ConfigurationError(
                    f"somebody else has promoted a version of {name} meanwhile: look, and try again"
                )
            record = PromotionRecord(
                name=name, number=number, action=action, version=found.version, digest=found.digest, at=now(),
                by=name_of(by),
            )  # fmt: skip
            sign_record(made, record, key, f"{name}@promotion-{number}")
        record_event(f"model.{action}", model=name, version=found.version, digest=found.digest, by=name_of(by))

    # Folders ---------------------------------------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        return self.root / checked_name(name)

    def _copy(self, source: Path, target: Path, name: str, version: int) -> tuple[str, int]:
        """Copy a model, or encrypt it; and the digest and the size that it had."""
        hasher = hashlib.sha256()
        with open_regular(source) as file:
            before = os.fstat(file.fileno())
            if self._encryption_key is None:
                with replacing(target, new_mode=0o644) as copy:
                    while chunk := file.read(_BLOCK):
                        hasher.update(chunk)
                        copy.write(chunk)
            else:
                while chunk := file.read(_BLOCK):
                    hasher.update(chunk)
                encrypt_model(source, target, self._encryption_key, name=name, version=version)
            after = source.stat()
        if _marks(before) != _marks(after):
            raise ConfigurationError(f"{source} was changed while it was saved")
        return hasher.hexdigest(), before.st_size

    def _which(self, name: str, version: object) -> tuple[int, str | None]:
        """The number of a version, and the digest that it must have."""
        if version == "promoted":
            stack = in_force(read_promotions(self._folder(name) / "promotions", self._key, name))
            if not stack:
                raise ConfigurationError(f'no version of {name} is promoted: promote one, or load version="latest"')
            return stack[-1].version, stack[-1].digest
        there = self.versions(name)
        if version == "latest" and there:
            return there[-1], None
        if isinstance(version, int) and not isinstance(version, bool) and version in there:
            return version, None
        raise ConfigurationError(
            f"there is no such version of {name} in {self}; ModelStore.versions and mlguard model list "
            "tell which there are"
        )

    def _read(self, folder: Path, signed: VerifiedModel, name: str, number: int) -> ModelVersion:
        record = read_record(folder, signed.files.get(RECORD), VersionRecord)
        if (record.name, record.version) != (name, number) or {*signed.files} != {RECORD, record.file}:
            raise ModelSignatureError(f"the record of version {number} of {name} is that of another one")
        return version_of(folder, signed, record)


def _format(path: Path) -> str:
    """What an encrypted file is, by the suffix that it had before."""
    return path.with_suffix("").suffix.removeprefix(".")


def _marks(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
