"""Rows with a label for each: ``{"features": rows, "labels": ["setosa", ...]}``."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simdjson import Array, Object

from mlguard.errors import ConfigurationError, InvalidInputError
from mlguard.inputs.json_bodies import arrays_in, has_members, require_members
from mlguard.inputs.json_rows import JSONRows
from mlguard.inputs.row_rules import RowRules
from mlguard.inputs.row_settings import check_field
from mlguard.inputs.sent_rows import SentRows

Label = str | int  # bool is an int

#: The JSON type of a label, and one that tells none of those that there are.
_SHOWN: dict[type, tuple[str, Label]] = {str: ("string", "a label"), int: ("integer", 0), bool: ("boolean", False)}

#: What the caller is told about each rule. No label that was sent, and none that would be taken.
_BROKEN = {
    "label": "A label is not one of those that are allowed",
    "labels": "There is not one label for each row",
}


class Classes:
    """The labels that there are, each with its index.

    Args:
        labels: All of them, as str, as int or as bool: a list, or ``model.classes_``.
        where: Whose setting it is, for errors.

    Attributes:
        labels: As plain Python.
        kind: Of which type they are: ``str``, ``int`` or ``bool``.

    Raises:
        ConfigurationError: Fewer than two, one that comes twice, or anything but texts alone, whole numbers alone or
            booleans alone.
    """

    def __init__(self, labels: Iterable[Any], *, where: str) -> None:
        self.labels: tuple[Label, ...] = tuple(map(plain_label, _several(labels)))
        kinds = {type(label) for label in self.labels}
        if kinds not in ({str}, {int}, {bool}) or len(set(self.labels)) < max(2, len(self.labels)):
            raise ConfigurationError(
                f"{where}(labels=...) are two or more different texts, or two or more different whole numbers, or "
                "False and True, such as model.classes_"
            )
        self.kind: type[Label]
        (self.kind,) = kinds
        if not all(map(_can_be_kept, self.labels)):
            raise ConfigurationError(
                f"{where}(labels=...): texts have no NUL and can be written in UTF-8, numbers have 64 bits"
            )
        self._codes = {label: code for code, label in enumerate(self.labels)}
        self._in_order = np.array(self.labels)

    def code(self, label: object) -> int | None:
        """The index of a label. None if it is none: neither ``true`` nor ``1.0`` is the label 1."""
        return self._codes.get(label) if type(label) is self.kind else None

    def of(self, codes: NDArray[np.intp]) -> NDArray[Any]:
        """The labels of some indices, as an array of texts, of int64 or of booleans."""
        labels: NDArray[Any] = self._in_order[codes]
        return labels


def _several(labels: object) -> Iterable[Any]:
    # A text is a collection of letters.
    return labels if isinstance(labels, Iterable) and not isinstance(labels, str | bytes) else ()


def _can_be_kept(label: Label) -> bool:
    """Whether NumPy and UTF-8 hold it as it is: an array of texts drops NULs at their ends."""
    if isinstance(label, str):
        return "\0" not in label and label.encode("utf-8", "ignore").decode() == label
    return -(2**63) <= label < 2**63


def plain_label(label: Any) -> Any:
    """A label without NumPy around it."""
    return label.item() if isinstance(label, np.generic) else label


class LabelledRows:
    """Reads ``{"<field>": rows, "<labels>": [label, ...]}``: as many labels as rows, also of a single row.

    Args:
        rules: What the rows must be.
        field: The member that has the rows.
        labels: The member that has the labels.
        classes: Which labels there are.

    Raises:
        ConfigurationError: A member that has no name that it can be read by, or the same name for both.
    """

    reads_nulls = False  # a null that was replaced could stand in a label
    reads_nan = False

    def __init__(self, rules: RowRules, field: str, labels: str, classes: Classes) -> None:
        self.rules = rules
        self.classes = classes
        self._rows = JSONRows(rules, field)
        self._labels = check_field(labels)
        self._members = frozenset({field, labels})
        if len(self._members) < 2:
            raise ConfigurationError("the rows and the labels must be members of different names")

    def claims(self, document: Mapping[str, Any]) -> bool:  # noqa: ARG002  # whatever it is
        """Everything: there is no other form."""
        return True

    def fast(self, document: Object, body: bytes) -> SentRows | None:
        """The rows and labels, or None where they are not proved to be right.

        Labels are no arrays, so all of the document's arrays but the one around them belong to the rows. A bracket in a
        label counts as an array more, and leads to the exact path.
        """
        if not has_members(document, self._members):
            return None
        labels = document[self._labels]
        if not isinstance(labels, Array) or len(labels) > self.rules.max_rows:
            return None
        codes = [self.classes.code(label) for label in labels.as_list()]
        if None in codes:
            return None
        sent = self._rows.fast_rows(document[self._rows.field], arrays_in(body) - 1)
        return None if sent is None else sent._replace(labels=np.array(codes, np.intp))

    def exact(self, document: dict[str, Any]) -> SentRows:
        """The same as the fast path gives, or the rule that is broken.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        require_members(document, self._members)
        labels = document[self._labels]
        if not isinstance(labels, list) or len(labels) > self.rules.max_rows:
            raise broken_label("labels")
        return self._rows.exact_rows(document[self._rows.field])._replace(labels=self._exact_codes(labels))

    def _exact_codes(self, labels: Sequence[Any]) -> NDArray[np.intp]:
        codes = np.empty(len(labels), np.intp)
        for row, label in enumerate(labels):
            code = self.classes.code(label)
            if code is None:
                raise broken_label("label", row)
            codes[row] = code
        return codes

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the documents. It tells the type of the labels, and none of them."""
        schema = self._rows.schema()
        kind, _ = _SHOWN[self.classes.kind]
        labels = {"type": "array", "items": {"type": kind}, "minItems": 1, "maxItems": self.rules.max_rows}
        properties = {**schema["properties"], self._labels: labels}
        return {**schema, "properties": properties, "required": [self._rows.field, self._labels]}

    def example(self, row: list[float]) -> dict[str, Any]:
        """A document with one row. Its label is none that was given, but for booleans, which everybody knows."""
        _, label = _SHOWN[self.classes.kind]
        return {**self._rows.example(row), self._labels: [label]}


def broken_label(rule: str, row: int | None = None) -> InvalidInputError:
    """The refusal for one broken rule of labels, with the row where it is known, counted from 0."""
    place: dict[str, Any] = {} if row is None else {"row": row}
    where = "" if row is None else f" (row {row}, counted from 0)"
    return InvalidInputError(f"label rule {rule!r} is broken", detail=f"{_BROKEN[rule]}{where}.", broken=rule, **place)
