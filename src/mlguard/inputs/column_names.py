"""Columns matched by name, wherever names come with the values: in any order, each one once, and no others.

The order is then that of the service. A refusal repeats no name, and counts columns as they were sent.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simdjson import Array, Object

from mlguard.inputs.broken_rules import broken
from mlguard.inputs.row_rules import RowRules
from mlguard.inputs.sent_rows import SentRows


def order_of(sent: Iterable[object], rules: RowRules) -> list[int] | None:
    """Where each of the service's columns stands among the names that were sent. None: as the service has them.

    Where the service's columns have no names, as many are expected as there are columns, and they keep their order.

    Raises:
        InvalidInputError: A name is missing, unknown, or comes twice, or is no name (422).
    """
    names = [*sent]
    if rules.names is None:
        if len(names) != rules.columns or not all(type(name) in {str, int} for name in names):
            raise broken("names")
        return None
    if tuple(names) == rules.names:
        return None
    if len(names) != rules.columns or not all(type(name) is str for name in names):
        raise broken("names")
    places = {name: place for place, name in enumerate(names)}
    if places.keys() != set(rules.names):
        raise broken("names")
    return [places[name] for name in rules.names]


def _placed(order: list[int] | None) -> Callable[[int, int], int] | None:
    return None if order is None else lambda _, column: order[column]


def ordered_array(values: NDArray[Any], order: list[int] | None) -> SentRows:
    """An array whose columns stand as they were sent."""
    return SentRows(values if order is None else np.take(values, order, axis=1), _placed(order))


def ordered_lists(rows: object, order: list[int] | None, rules: RowRules) -> SentRows:
    """Lists whose cells stand as they were sent.

    Those that are no rows of the right length are left as they are: the rules refuse them for that.
    """
    lists: Sequence[Any] = rows if isinstance(rows, list) else ()
    if order is None or not lists or any(not isinstance(row, list) or len(row) != rules.columns for row in lists):
        return SentRows(rows)  # type: ignore[arg-type]  # what is no list is for the rules to refuse
    return SentRows([[row[place] for place in order] for row in lists], _placed(order))


def joined_columns(columns: Sequence[NDArray[Any]], order: list[int] | None) -> SentRows:
    """Columns of one length, side by side. Those of several dtypes become lists, so that no number is changed."""
    arranged = columns if order is None else [columns[place] for place in order]
    if len({column.dtype for column in columns}) == 1:
        return SentRows(np.stack(arranged, axis=1), _placed(order))
    return SentRows([*zip(*(column.tolist() for column in arranged), strict=True)], _placed(order))


# Records: one object for each row -------------------------------------------------------------------------------------


def fast_records(found: Array, rules: RowRules) -> SentRows | None:
    """The rows of records that all have their members in the same order, as every serializer writes them.

    A record whose members are as many as the names, and among them each name, has none twice and no others.
    """
    if rules.names is None or not 0 < len(found) <= rules.max_rows:
        return None
    first = [*found[0]]
    if len(first) != rules.columns or {*first} != {*rules.names}:
        return None
    rows = []
    for record in found:
        if not isinstance(record, Object) or len(record) != rules.columns:
            return None
        members = record.as_dict()
        if [*members] != first:
            return None
        rows.append([*members.values()])
    return ordered_lists(rows, order_of(first, rules), rules)


def exact_records(records: Sequence[Any], rules: RowRules) -> SentRows:
    """The rows of records, each in an order of its own.

    Raises:
        InvalidInputError: A rule is broken (422).
    """
    names = rules.names
    if not records:
        raise broken("empty")
    if len(records) > rules.max_rows:
        raise broken("rows")
    if names is None:
        raise broken("names")
    expected = {*names}
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise broken("record", index)
        if record.keys() != expected:
            raise broken("names", index)
    rows = [[record[name] for name in names] for record in records]
    return SentRows(rows, lambda row, column: [*records[row]].index(names[column]))


def record_schema(rules: RowRules) -> dict[str, Any]:
    """The JSON schema of one record. It tells how many members there are, and no name."""
    cell = rules.row_schema()["items"]
    size = rules.columns
    return {"type": "object", "additionalProperties": cell, "minProperties": size, "maxProperties": size}
