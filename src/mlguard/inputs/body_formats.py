"""Which formats a body may have, and which of them a request says that it has."""

import re
from collections.abc import Collection, Iterable
from typing import Any, NoReturn, Protocol

from mlguard.errors import ConfigurationError, UnsupportedMediaTypeError
from mlguard.inputs.broken_rules import broken
from mlguard.inputs.csv_rows import CSVRows
from mlguard.inputs.json_bodies import JSONBodies, JSONFormat
from mlguard.inputs.json_rows import JSONRows
from mlguard.inputs.mlflow import MLflowRows
from mlguard.inputs.npy import NpyRows
from mlguard.inputs.open_inference import BINARY_HEADER, OpenInferenceRows
from mlguard.inputs.row_rules import RowRules
from mlguard.inputs.sent_rows import SentRows

#: The names of the formats.
_NAMES = ("json", "open-inference", "mlflow", "npy", "csv")
_JSON, _NPY, _CSV = b"application/json", b"application/x-npy", b"text/csv"
_ANY_JSON = re.compile(rb"application/(?:[a-z0-9!#$&^_.+-]+\+)?json", re.IGNORECASE)  # RFC 6838, section 4.2
_CHARSET_UTF_8 = re.compile(rb'charset="?utf-8"?', re.IGNORECASE)
_HEADER_ABSENT = re.compile(rb'header="?absent"?', re.IGNORECASE)  # RFC 4180, section 3


class Reader(Protocol):
    """Finds the rows in bodies of one content type."""

    def sent(self, body: bytes) -> SentRows:
        """The rows in a body, not yet judged.

        Raises:
            InvalidInputError: A rule of the format is broken (422).
        """


class _Described(Reader, Protocol):
    """A reader that can say what it takes."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI media type object."""


class BodyFormats:
    """The formats that are on.

    Args:
        formats: Names of formats.
        rules: What the rows must be.
        field: The only member of our own JSON.

    Raises:
        ConfigurationError: None, or one that there is not, or one that cannot hold such rows; or a field that is no
            name, or is another format's member.
    """

    def __init__(self, formats: Iterable[str], rules: RowRules, field: str) -> None:
        self.names = names = _checked(formats)
        self.field = field
        own = JSONRows(rules, field)
        forms: dict[str, JSONFormat] = {}  # in the order in which they are asked
        if "open-inference" in names:
            forms["open-inference"] = OpenInferenceRows(rules, only_objects="mlflow" in names)
        if "mlflow" in names:
            forms["mlflow"] = MLflowRows(rules)
        if "json" in names:
            if any(form.claims({field: []}) for form in forms.values()):
                raise ConfigurationError("field must not be the name of a member that another of the formats reads")
            forms["json"] = own
        self._readers: dict[bytes, _Described] = {}
        if forms:
            self._readers[_JSON] = JSONBodies(forms)
        if "npy" in names:
            self._readers[_NPY] = NpyRows(rules)
        if "csv" in names:
            if len(rules.shape) > 1:
                raise ConfigurationError('formats must not have "csv" where rows have a shape: a line is not nested')
            self._readers[_CSV] = CSVRows(rules)
        inference = forms.get("open-inference")
        self._untyped = JSONBodies({"open-inference": inference}) if inference is not None else None
        self._accept = ", ".join(content_type.decode() for content_type in self._readers)

    def reader_for(self, headers: Collection[tuple[bytes, bytes]]) -> Reader:
        """Who reads a body: there must be exactly one content type, whatever the body looks like.

        Browsers send some types to other origins without asking first, so this also keeps web pages from posting here.
        Triton's client names no type at all. So may whoever sends no ``Origin``, as browsers do, with Open Inference.

        Raises:
            UnsupportedMediaTypeError: It is none that is read (415).
        """
        types = [value for name, value in headers if name == b"content-type"]
        if self._untyped is not None:
            others = {name for name, _ in headers}
            if BINARY_HEADER in others:
                return _BinaryData()
            if not types and b"origin" not in others:
                return self._untyped
        reader = self._readers.get(types[0]) if len(types) == 1 else None
        return reader or self._reader_spelled_otherwise(types)

    def _reader_spelled_otherwise(self, types: list[bytes]) -> Reader:
        reader = self._readers.get(_media_type(types[0])) if len(types) == 1 else None
        if reader is None:
            raise UnsupportedMediaTypeError(
                "the content type is not one that is read", headers={"Accept": self._accept}
            )
        return reader

    def openapi_content(self) -> dict[str, Any]:
        """What each content type holds, for OpenAPI."""
        return {content_type.decode(): reader.openapi() for content_type, reader in self._readers.items()}


class _BinaryData:
    """Refuses what Open Inference's binary data extension sends: JSON, and raw bytes behind it."""

    def sent(self, body: bytes) -> NoReturn:  # noqa: ARG002  # whatever it is
        raise broken("binary")


def _checked(formats: Iterable[str]) -> frozenset[str]:
    # A single text is a collection of letters.
    names = [*formats] if isinstance(formats, Iterable) and not isinstance(formats, str) else []
    if not names or not all(isinstance(name, str) and name in _NAMES for name in names):
        raise ConfigurationError(f"formats must be a collection of one or more of {', '.join(map(repr, _NAMES))}")
    return frozenset(names)


def require_json(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Exactly one content type, and that JSON in UTF-8.

    Raises:
        UnsupportedMediaTypeError: It is not (415).
    """
    types = [value for name, value in headers if name == b"content-type"]
    if len(types) != 1 or _media_type(types[0]) != _JSON:
        raise UnsupportedMediaTypeError("the content type is not JSON in UTF-8", headers={"Accept": "application/json"})


def _media_type(content_type: bytes) -> bytes:
    """The media type in one spelling, or nothing where its parameters say what is not so."""
    media_type, *parameters = [part.strip(b" \t") for part in content_type.split(b";")]
    known = _JSON if _ANY_JSON.fullmatch(media_type) else media_type.lower()
    return known if _are_fitting([parameter.lower() for parameter in parameters], known) else b""


def _are_fitting(parameters: list[bytes], media_type: bytes) -> bool:
    """Whether a content type's parameters say nothing that is not so: another charset, or a table without a header."""
    if media_type == _NPY:
        return True
    charsets = [parameter for parameter in parameters if parameter.startswith(b"charset")]
    headless = media_type == _CSV and any(_HEADER_ABSENT.fullmatch(parameter) for parameter in parameters)
    return all(map(_CHARSET_UTF_8.fullmatch, charsets)) and not headless
