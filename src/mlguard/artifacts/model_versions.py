"""What a store keeps of a version beside the model itself: one record, which the signature covers."""

import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mlguard._files import open_regular
from mlguard.artifacts.signing import VerifiedModel
from mlguard.errors import ConfigurationError, ModelSignatureError

#: What a model may be called: a name that is one on every file system. Windows drops a dot at its end, and has devices.
NAME = re.compile(r"(?!(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$))(?!.*\.$)[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
#: Of each version and each promotion, beside the signature.
RECORD = "record.json"

_LARGEST = 1 << 20  # bytes of a record
_SUFFIX = r"(\.[a-z0-9]{1,20})?"
#: What decides whether a model that was saved here can be loaded there.
_PACKAGES = ("joblib", "mlguard", "numpy", "onnx", "safetensors", "scikit-learn", "scipy", "skops")

_Text = Annotated[str, Field(max_length=1_000)]
_TEXT: TypeAdapter[str] = TypeAdapter(_Text)


def read_time(text: str) -> datetime:
    """A time as records have it.

    Raises:
        ValueError: It is none, or does not say of which zone it is.
    """
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("of no zone")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise ValueError("out of range") from None


def _time(text: str) -> str:
    read_time(text)
    return text


_Time = Annotated[str, AfterValidator(_time)]


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a model comes from.

    Attributes:
        code: The version of the code that trained it, such as a commit.
        data: The version of the data that it was trained on.
        environment: Python and the packages that the model needs, with their versions, where it was saved.
    """

    code: str = ""
    data: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a model, as it was signed.

    Attributes:
        name: Of the model.
        version: Counted from 1.
        digest: Names the whole version, model and record: what ``VerifiedModel.digest`` is.
        signer: The id of the key that has signed it.
        sha256: Of the model file, before it was encrypted, in hex.
        size: Of the same, in bytes.
        encrypted: Whether the file is encrypted.
        saved_at: When it was saved, as its signer says.
        saved_by: The principal that has saved it, if one was named.
        lineage: Where it comes from.
        path: The model file.
    """

    name: str
    version: int
    digest: str
    signer: str
    sha256: str
    size: int
    encrypted: bool
    saved_at: datetime
    saved_by: str | None
    lineage: Lineage
    path: Path = field(compare=False)


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _LineageRecord(_Record):
    code: _Text
    data: _Text
    environment: dict[_Text, _Text]


class VersionRecord(_Record):
    """The record of a version."""

    mlguard: Literal["ModelVersion"] = "ModelVersion"
    name: str
    version: Annotated[int, Field(ge=1)]
    file: Annotated[str, Field(pattern=rf"^model{_SUFFIX}(\.enc)?$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]
    encrypted: bool
    saved_at: _Time
    saved_by: _Text | None
    lineage: _LineageRecord


class PromotionRecord(_Record):
    """The record of a promotion, or of a step back."""

    mlguard: Literal["ModelPromotion"] = "ModelPromotion"
    name: str
    number: Annotated[int, Field(ge=1)]
    action: Literal["promote", "rollback"]
    version: Annotated[int, Field(ge=1)]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    at: _Time
    by: _Text | None


R = TypeVar("R", VersionRecord, PromotionRecord)


def checked_name(name: object) -> str:
    """A model's name.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigurationError(
            "a model's name is 1 to 64 lower-case letters, digits, dots, hyphens and underscores, such as iris-2, "
            "without a dot at its end, and none of Windows' devices"
        )
    return name


def checked_suffix(path: Path) -> str:
    """What a model file's name ends with, in lower case.

    Raises:
        ConfigurationError: It has signs that a record has no place for.
    """
    suffix = path.suffix.lower()
    if not re.fullmatch(_SUFFIX, suffix, re.ASCII):
        raise ConfigurationError("what the name of a model file ends with is at most 20 letters and digits, as .onnx")
    return suffix


def checked_id(principal: str) -> str:
    """The id of a principal, for a record.

    Raises:
        ConfigurationError: It is no text, or a long one.
    """
    try:
        return _TEXT.validate_python(principal, strict=True)
    except ValidationError:
        pass
    raise ConfigurationError(
        "by=: the id of a principal, which the record names, is a text of at most 1 000 characters"
    )


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def lineage_record(code: str, data: str, environment: Mapping[str, str] | None) -> _LineageRecord:
    """Where a model comes from, for its record.

    Args:
        code: The version of the code.
        data: The version of the data.
        environment: Versions by package. None: those of this process.

    Raises:
        ConfigurationError: It is no text, or a long one.
    """
    found = _environment() if environment is None else dict(environment)
    try:
        return _LineageRecord(code=code, data=data, environment=found)
    except ValidationError:
        pass
    raise ConfigurationError("code_version, data_version and environment are texts of at most 1 000 characters")


def write_record(record: VersionRecord | PromotionRecord) -> bytes:
    """As it stands in its file.

    Raises:
        ConfigurationError: It is larger than one that is read.
    """
    content = record.model_dump_json(indent=1).encode() + b"\n"
    if len(content) > _LARGEST:
        raise ConfigurationError("environment has too many packages: a record has 1 MiB at most")
    return content


def read_record(folder: Path, digest: str | None, kind: type[R]) -> R:
    """A record, which must be the one that was signed.

    Args:
        folder: Where it is.
        digest: The SHA-256 that the signature has for it, in hex.
        kind: Of a version, or of a promotion.

    Raises:
        ModelSignatureError: It is another one, or none.
    """
    try:
        with open_regular(folder / RECORD, follow_links=False) as file:  # it may be a pipe by now
            content = file.read(_LARGEST)
    except OSError as error:
        raise ModelSignatureError(f"the record cannot be read: {error.strerror}") from None
    except ConfigurationError:
        raise ModelSignatureError("the record is no file") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelSignatureError("the record is not the one that was signed")
    try:
        return kind.model_validate_json(content)
    except ValidationError:
        pass
    raise ModelSignatureError("the record was signed, and is none that this version of mlguard can read")


def version_of(folder: Path, signed: VerifiedModel, record: VersionRecord) -> ModelVersion:
    """A version, by its signature and its record.

    Args:
        folder: Where it is.
        signed: What the signature says.
        record: What is in it.
    """
    lineage = record.lineage
    return ModelVersion(
        name=record.name,
        version=record.version,
        digest=signed.digest,
        signer=signed.key_id,
        sha256=record.sha256,
        size=record.size,
        encrypted=record.encrypted,
        saved_at=read_time(record.saved_at),
        saved_by=record.saved_by,
        lineage=Lineage(lineage.code, lineage.data, MappingProxyType({**lineage.environment})),
        path=folder / record.file,
    )


def _environment() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
