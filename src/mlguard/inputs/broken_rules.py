"""The rules that a body of numbers can break, and what the caller is told."""

from typing import Any

from mlguard.errors import InvalidInputError

#: What the caller is told about each rule. Neither a value nor a name that is the service's own may stand here.
_BROKEN = {
    "json": "The body is not JSON encoded as UTF-8",
    "trailing": "The body goes on after its JSON value",
    "depth": "The body is nested too deeply",
    "duplicate": "An object in the body names a member twice",
    "object": "The body is not a JSON object",
    "field": "An object must hold the members that are expected, and no others",
    "array": "An array is expected",
    "empty": "An array is empty",
    "rows": "There are too many rows",
    "columns": "A row does not hold the expected number of values",
    "nested": "An array or object stands where a number is expected",
    "number": "A value is not a number",
    "finite": "A number is not finite",
    "integer": "A number is not a whole number that can be read exactly",
    "category": "A value is not one of those that are allowed",
    "range": "A number is out of range",
    "record": "An object with one value for each column is expected",
    "names": "The columns are not named as expected, each of them once",
    "index": "The index does not have one entry for each row",
    "shape": "The shape is not that of the rows, or not that of the data",
    "datatype": "A datatype is not one that is read, or cannot hold a value",
    "binary": "Data outside the JSON document is not read",
    "npy": "The body is not a .npy file",
    "length": "The data is shorter or longer than its header says",
    "csv": "The body is not CSV encoded as UTF-8",
    "header": "The first line must name the columns",
}


def broken(rule: str, row: int | None = None, column: int | None = None) -> InvalidInputError:
    """The refusal for one broken rule, with the place where it is known, counted from 0."""
    place: dict[str, Any] = {name: index for name, index in (("row", row), ("column", column)) if index is not None}
    where = ", ".join(f"{name} {index}" for name, index in place.items())
    return InvalidInputError(
        f"input rule {rule!r} is broken" + (f" at {where}" if where else ""),
        detail=_BROKEN[rule] + (f" ({where}, counted from 0)." if where else "."),
        broken=rule,
        **place,
    )
