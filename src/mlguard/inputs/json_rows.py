"""mlguard's own JSON: ``{"features": rows}``, where a row is a list, or an object where columns have names."""

from collections.abc import Mapping
from typing import Any

from simdjson import Array, Object

from mlguard.inputs.column_names import exact_records, fast_records, record_schema
from mlguard.inputs.json_bodies import NULL, arrays_in, require_members, row_in, rows_in
from mlguard.inputs.row_rules import RowRules
from mlguard.inputs.row_settings import check_field
from mlguard.inputs.sent_rows import SentRows
from mlguard.inputs.tensor_shape import arrays_per_row, nest


class JSONRows:
    """Reads ``{"<field>": rows}`` or, for a single row, ``{"<field>": row}``.

    Args:
        rules: What the rows must be.
        field: The only member that the body may have.

    Raises:
        ConfigurationError: ``field`` is no name that a body can be read by.
    """

    def __init__(self, rules: RowRules, field: str) -> None:
        self.rules = rules
        self.field = check_field(field)
        self._members = frozenset({field})
        # A null in a name that is wrong must not make it the right one.
        self.reads_nulls = bool(rules.missing) and NULL.decode() not in field
        self.reads_nan = False
        self._per_row = arrays_per_row(rules.shape)

    def claims(self, document: Mapping[str, Any]) -> bool:
        """Whatever has the field."""
        return self.field in document

    def fast(self, document: Object, body: bytes) -> SentRows | None:
        """The rows, or None where they are not proved to be right.

        There is no string but the one key, and that has no bracket: the number of ``[`` is the number of arrays. A
        single row has as many as make a row, several rows have one more than theirs together. A single record is left
        to the exact path, which is as fast for something so small.
        """
        if len(document) != 1:  # a name that comes twice counts twice
            return None
        return self.fast_rows(document[self.field], arrays_in(body))

    def fast_rows(self, found: Any, arrays: int) -> SentRows | None:
        """The rows in the field, of a document that has so many arrays for them, or None as above."""
        if not isinstance(found, Array):
            return None
        if arrays == 1 and self.rules.names is not None and isinstance(found[0], Object):
            return fast_records(found, self.rules)
        values = row_in(found, self.rules) if arrays == self._per_row else rows_in(found, self.rules, arrays - 1)
        return None if values is None else SentRows(values)

    def exact(self, document: dict[str, Any]) -> SentRows:
        """The same rows as the fast path gives, or the rule that is broken.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        require_members(document, self._members)
        return self.exact_rows(document[self.field])

    def exact_rows(self, found: Any) -> SentRows:
        """What stands in the field.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        if self.rules.names is not None:
            if isinstance(found, dict):
                return exact_records([found], self.rules)
            if isinstance(found, list) and found and isinstance(found[0], dict):
                return exact_records(found, self.rules)
        return SentRows([found] if self._is_row(found) else found)

    def _is_row(self, found: Any) -> bool:
        """Whether a single row was sent: it is nested one level less than rows."""
        for _ in self.rules.shape:
            if not isinstance(found, list) or not found:
                return False
            found = found[0]
        return not isinstance(found, list)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the documents."""
        rows = self.rules.rows_schema()
        choices = [rows, rows["items"]]
        if self.rules.names is not None:
            record = record_schema(self.rules)
            choices += [{**rows, "items": record}, record]
        return {
            "type": "object",
            "properties": {self.field: {"oneOf": choices}},
            "required": [self.field],
            "additionalProperties": False,
        }

    def example(self, row: list[float]) -> dict[str, Any]:
        """A document with one row."""
        return {self.field: nest(row, self.rules.shape)}
