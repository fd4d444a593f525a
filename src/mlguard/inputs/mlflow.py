"""What clients of MLflow's scoring server send.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/ names the members. ``params`` are for the model, and
a guard has no way to give them to it: they are refused, and not ignored, unless there are none.
"""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from simdjson import Array, Object

from mlguard.inputs.broken_rules import broken
from mlguard.inputs.column_names import (
    exact_records,
    fast_records,
    joined_columns,
    order_of,
    ordered_array,
    ordered_lists,
    record_schema,
)
from mlguard.inputs.json_bodies import arrays_in, has_members, numbers_in, require_members, rows_in
from mlguard.inputs.row_rules import RowRules
from mlguard.inputs.sent_rows import SentRows
from mlguard.inputs.tensor_shape import nest

#: The members of which a document has one.
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_LISTS = FORMS[1:]
_PARAMS = frozenset({"params"})
_SPLIT = frozenset({"data"})
_SPLIT_OPTIONAL = frozenset({"columns", "index"})


class MLflowRows:
    """Reads ``dataframe_split``, ``dataframe_records``, ``instances`` and ``inputs``.

    Args:
        rules: What the rows must be.
    """

    def __init__(self, rules: RowRules) -> None:
        self.rules = rules
        self.reads_nulls = False  # there are texts beside the values
        self.reads_nan = bool(rules.missing)  # as MLflow's client writes it

    def claims(self, document: Mapping[str, Any]) -> bool:
        """Whatever has one of the four members."""
        return any(form in document for form in FORMS)

    def fast(self, document: Object, body: bytes) -> SentRows | None:
        """The rows, or None where they are not proved to be right. Documents with ``params`` are not."""
        if len(document) != 1:  # a name that comes twice counts twice
            return None
        form = next(iter(document))
        found = document[form]
        if form in _LISTS and isinstance(found, Array):
            return self._fast_rows(form, found, arrays_in(body) - 1)
        if form == "dataframe_split" and isinstance(found, Object):
            return self._fast_split(found, arrays_in(body))
        if form == "inputs" and isinstance(found, Object):
            return self._fast_columns(found, arrays_in(body))
        return None

    def exact(self, document: dict[str, Any]) -> SentRows:
        """The same rows as the fast path gives, or the rule that is broken.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        form = next((form for form in FORMS if form in document), "inputs")
        require_members(document, frozenset({form}), _PARAMS)
        if document.get("params"):
            raise broken("field")
        found = document[form]
        if form == "dataframe_split":
            return self._exact_split(found)
        if form == "inputs" and isinstance(found, dict):
            return self._exact_columns(found)
        if form == "dataframe_records" or (isinstance(found, list) and found and isinstance(found[0], dict)):
            if not isinstance(found, list):
                raise broken("array")
            return exact_records(found, self.rules)
        return SentRows(found)

    # A list: of rows, or of records

    def _fast_rows(self, form: str, found: Array, below: int) -> SentRows | None:
        if form == "dataframe_records" or isinstance(found[0], Object):
            return fast_records(found, self.rules)
        values = rows_in(found, self.rules, below)
        return None if values is None else SentRows(values)

    # A table: columns, index, data

    def _fast_split(self, table: Object, arrays: int) -> SentRows | None:
        if not has_members(table, _SPLIT | {"columns"}, _SPLIT_OPTIONAL):
            return None
        columns, data = table["columns"], table["data"]
        if not isinstance(columns, Array) or not isinstance(data, Array):
            return None
        below = arrays - 2
        if "index" in table:
            index = table["index"]
            if not isinstance(index, Array) or len(index) != len(data) or not {*map(type, index)} <= {int, str}:
                return None
            below -= 1
        values = rows_in(data, self.rules, below)
        return None if values is None else ordered_array(values, order_of(columns, self.rules))

    def _exact_split(self, table: object) -> SentRows:
        if not isinstance(table, dict):
            raise broken("field")
        require_members(table, _SPLIT, _SPLIT_OPTIONAL)
        data = table["data"]
        columns = table.get("columns", () if self.rules.names is not None else range(self.rules.columns))
        if not isinstance(columns, list | tuple | range):
            raise broken("array")
        order = order_of(columns, self.rules)
        index = table.get("index")
        if "index" in table and (not isinstance(index, list) or not isinstance(data, list) or len(index) != len(data)):
            raise broken("index")
        return ordered_lists(data, order, self.rules)

    # Columns by name

    def _fast_columns(self, table: Object, arrays: int) -> SentRows | None:
        names = [*table]
        if self.rules.names is None or not arrays == len(names) == self.rules.columns:
            return None
        if not has_members(table, frozenset(names)):
            return None
        columns: list[NDArray[Any]] = []
        for name in names:  # no more than ours: each look-up walks over all members
            column = table[name]
            if not isinstance(column, Array):
                return None
            columns.append(numbers_in(column, self.rules.dtype.kind))
        if len({len(column) for column in columns}) != 1:
            return None
        return joined_columns(columns, order_of(names, self.rules))

    def _exact_columns(self, table: dict[str, Any]) -> SentRows:
        if self.rules.names is None:
            raise broken("names")
        order = order_of(table, self.rules)
        if not all(isinstance(column, list) for column in table.values()):
            raise broken("array")
        lengths = {len(column) for column in table.values()}
        if max(lengths) > self.rules.max_rows:
            raise broken("rows")
        if len(lengths) > 1:
            raise broken("columns", min(lengths))
        return ordered_lists([*map(list, zip(*table.values(), strict=True))], order, self.rules)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the documents."""
        rows = self.rules.rows_schema()
        forms: dict[str, Any] = {"instances": rows, "inputs": rows}
        if len(self.rules.shape) == 1:
            names = {"type": "array", "items": {"type": ["string", "integer"]}, "minItems": self.rules.columns}
            split = {"columns": {**names, "maxItems": self.rules.columns}, "index": {"type": "array"}, "data": rows}
            forms["dataframe_split"] = {"type": "object", "properties": split, "required": ["data"]}
        if self.rules.names is not None:
            forms["dataframe_split"]["required"] = ["columns", "data"]
            forms["dataframe_records"] = {**rows, "items": record_schema(self.rules)}
        documents = [
            {"type": "object", "properties": {form: held}, "required": [form], "additionalProperties": False}
            for form, held in forms.items()
        ]
        return {"oneOf": documents}

    def example(self, row: list[float]) -> dict[str, Any]:
        """A document with one row."""
        return {"instances": nest(row, self.rules.shape)}
