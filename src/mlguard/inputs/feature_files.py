"""Rules in a JSON file, beside the model that they belong to. Reading one runs nothing, and guesses nothing."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlguard._files import replace_file
from mlguard._strict_json import strict_json
from mlguard.errors import ConfigurationError
from mlguard.inputs.row_rules import RowRules

_LARGEST = 1 << 24  # bytes

_Number = int | float


class _Categories(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    column: int
    allowed: list[str] | list[_Number]


class _File(BaseModel):
    """Everything that a file holds. All of it must be there, and nothing else."""

    model_config = ConfigDict(strict=True, extra="forbid")

    mlguard: Literal["Features"]
    version: Annotated[int, Field(ge=1, le=1)]  # a literal 1 would be True and 1.0 as well
    columns: int | list[str] | None
    shape: list[int] | None
    low: _Number | list[_Number]
    high: _Number | list[_Number]
    max_rows: int
    field: str
    dtype: Literal[
        "float64", "float32", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"
    ]  # fmt: skip
    missing: list[int]
    categories: list[_Categories]
    out_of_range: Literal["reject", "clip"]
    publish_bounds: bool
    formats: list[str]


def write_rules(path: str | os.PathLike[str], rules: RowRules, field: str, formats: Iterable[str]) -> None:
    """Write a file, or put a new one in its place in one step.

    Raises:
        ConfigurationError: It would be too large to be read back.
        OSError: It cannot be written. An old one is as it was.
    """
    content = _File(
        mlguard="Features",
        version=1,
        columns=(rules.columns if rules.names is None else list(rules.names)) if len(rules.shape) == 1 else None,
        shape=None if len(rules.shape) == 1 else list(rules.shape),
        low=_bound(rules.low),
        high=_bound(rules.high),
        max_rows=rules.max_rows,
        field=field,
        dtype=rules.dtype.name,  # type: ignore[arg-type]  # one of them
        missing=sorted(rules.missing),
        categories=[
            _Categories(column=column, allowed=list(allowed.values))  # type: ignore[arg-type]  # of one type
            for column, allowed in rules.categories.items()
        ],
        out_of_range="clip" if rules.clips else "reject",
        publish_bounds=rules.publishes_bounds,
        formats=sorted(formats),
    )
    # Not pydantic's JSON, because Python's is sure to write floats so that the same ones are read.
    document = json.dumps(content.model_dump(), indent=1, allow_nan=False).encode() + b"\n"
    if len(document) > _LARGEST:
        raise ConfigurationError(f"{path} would be larger than {_LARGEST} bytes; give one bound for all columns")
    replace_file(Path(path).resolve(), document, new_mode=0o644)


def read_rules(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of ``Features`` in a file.

    Raises:
        ConfigurationError: There is no such file, or it holds something else.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise ConfigurationError(f"{path} is larger than {_LARGEST} bytes; no file by Features.save is")
    try:
        document = strict_json(content)
    except ValueError:
        raise ConfigurationError(f"{path} is not JSON in UTF-8 as Features.save writes it") from None
    try:
        found = _File.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise ConfigurationError(f"{path} was not written by Features.save: {place}: {first['msg']}") from None
    settings = found.model_dump(exclude={"mlguard", "version", "categories"})
    categories = {one.column: one.allowed for one in found.categories}
    if len(categories) != len(found.categories):
        raise ConfigurationError(f"{path} was not written by Features.save: categories names a column twice")
    return {**settings, "categories": categories}


def _bound(bounds: NDArray[Any]) -> Any:
    """One number where all columns share it to the last bit, for a picture has millions of them."""
    numbers = bounds.tolist()
    return numbers[0] if bounds.tobytes() == bounds[:1].tobytes() * len(bounds) else numbers
