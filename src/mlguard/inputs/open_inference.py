"""Requests of the Open Inference Protocol, version 2, as Triton, KServe and MLServer have it.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

One tensor with all columns, of any name, or one tensor for each column, matched by name. The numbers are what their
datatype says: 0.1 in FP32 is the nearest single. Texts are BYTES. Tensors of the binary data extension are refused.
Parameters are not looked at, and neither is which outputs are wanted: that is for whoever answers.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from simdjson import Array, Object

from mlguard.inputs.broken_rules import broken
from mlguard.inputs.column_names import joined_columns, order_of, ordered_lists
from mlguard.inputs.json_bodies import arrays_in, has_members, numbers_of_kind, require_members
from mlguard.inputs.row_rules import RowRules
from mlguard.inputs.sent_rows import InferenceCall, SentRows
from mlguard.inputs.tensor_shape import arrays_per_row, flatten, is_nested, nest

#: FP16 cannot be said in JSON, and BOOL is no number.
DATATYPES: dict[str, np.dtype[Any]] = {
    "FP64": np.dtype(np.float64),
    "FP32": np.dtype(np.float32),
    **{f"INT{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
}
#: What is read beside them where columns take texts.
_TEXTS = {"BYTES": np.dtype(object)}
#: What a datatype cannot hold, by its kind.
_UNFIT: dict[str, frozenset[type]] = {
    "f": frozenset({str}),
    "i": frozenset({str, float}),
    "u": frozenset({str, float}),
    "O": frozenset({int, float}),
}
#: The header with which clients announce binary data.
BINARY_HEADER = b"inference-header-content-length"
_BINARY = "binary_data_size"
_REQUEST, _REQUEST_OPTIONAL = frozenset({"inputs"}), frozenset({"id", "parameters", "outputs"})
_TENSOR, _PARAMETERS = frozenset({"name", "shape", "datatype", "data"}), frozenset({"parameters"})
_OUTPUT = frozenset({"name"})


class _Tensor(NamedTuple):
    name: str
    shape: list[int]
    datatype: np.dtype[Any]
    data: Any  # simdjson's array on the fast path, a list on the exact one


class OpenInferenceRows:
    """Reads ``{"inputs": [{"name", "shape", "datatype", "data"}]}``, with the data flat or nested.

    Args:
        rules: What the rows must be.
        only_objects: Whether ``inputs`` that do not begin with an object are somebody else's: MLflow's.
    """

    def __init__(self, rules: RowRules, *, only_objects: bool) -> None:
        self.rules = rules
        self.reads_nulls = False  # there are texts beside the values
        self.reads_nan = bool(rules.missing)  # as Triton's client writes it
        self._only_objects = only_objects
        self._texts = bool(rules.text_columns)
        self._datatypes = DATATYPES | _TEXTS if self._texts else DATATYPES

    def claims(self, document: Mapping[str, Any]) -> bool:
        """Whatever has inputs that are tensors, or may be meant to be."""
        if "inputs" not in document:
            return False
        inputs = document["inputs"]
        is_list = isinstance(inputs, list | Array)
        return not self._only_objects or (is_list and len(inputs) > 0 and isinstance(inputs[0], dict | Object))

    def _is_rows(self, tensor: _Tensor) -> bool:
        return len(tensor.shape) > 1 and tuple(tensor.shape[1:]) == self.rules.shape

    # The fast path

    def fast(self, document: Object, body: bytes) -> SentRows | None:
        """The rows, or None where they are not proved to be right.

        As many arrays are known before the data are looked at: one of inputs, one of each shape, one of each data.
        Whatever ``[`` the body has beside them is inside the data, or in a string, which leads to the exact path.
        """
        if not has_members(document, _REQUEST, _REQUEST_OPTIONAL):
            return None
        call = _fast_call(document)
        inputs = document["inputs"]
        if call is None or not isinstance(inputs, Array):
            return None
        tensors = []
        for found in inputs:
            tensor = _fast_tensor(found)
            if tensor is None:
                return None
            tensors.append(tensor)
        below = arrays_in(body) - 1 - 2 * len(tensors) - ("outputs" in document)
        rows = self._fast_rows(tensors[0], below) if len(tensors) == 1 else None
        rows = rows or self._fast_columns(tensors, below)
        return rows and rows._replace(call=call)

    def _fast_rows(self, tensor: _Tensor, below: int) -> SentRows | None:
        if not self._is_rows(tensor):
            return None
        count = tensor.shape[0]
        if below == 0:
            if len(tensor.data) != count * self.rules.columns:
                return None
        elif below != count * arrays_per_row(self.rules.shape) or not is_nested(tensor.data, tensor.shape):
            return None
        values = _fast_numbers(tensor)
        return None if values is None else SentRows(values.reshape(count, self.rules.columns))

    def _fast_columns(self, tensors: list[_Tensor], below: int) -> SentRows | None:
        count = _length(tensors)
        if count is None or below != 0 or len(tensors) != self.rules.columns:
            return None
        order = None if len(tensors) == 1 else order_of([tensor.name for tensor in tensors], self.rules)
        if len(tensors) > 1 and self.rules.names is None:
            return None
        columns = []
        for tensor in tensors:
            values = _fast_numbers(tensor)
            if values is None or len(values) != count:
                return None
            columns.append(values)
        return joined_columns(columns, order)

    # The exact path

    def exact(self, document: dict[str, Any]) -> SentRows:
        """The same rows as the fast path gives, or the rule that is broken.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        require_members(document, _REQUEST, _REQUEST_OPTIONAL)
        call = _exact_call(document)
        inputs = document["inputs"]
        if not isinstance(inputs, list):
            raise broken("array")
        if not inputs:
            raise broken("empty")
        tensors = [_exact_tensor(found, self._datatypes) for found in inputs]
        return (self._exact_rows(tensors) or self._exact_columns(tensors))._replace(call=call)

    def _exact_rows(self, tensors: list[_Tensor]) -> SentRows | None:
        tensor = tensors[0]
        if len(tensors) > 1 or (self.rules.columns == 1 and len(tensor.shape) == 1):
            return None
        if not self._is_rows(tensor):
            raise broken("shape")
        self._check_count(tensor.shape[0])
        cells = _exact_cells(tensor, self.rules.columns, texts=self._texts)
        values = _as_array(cells, tensor.datatype)
        if values is None:
            return SentRows(nest(cells, self.rules.shape))
        return SentRows(values.reshape(-1, self.rules.columns))

    def _exact_columns(self, tensors: list[_Tensor]) -> SentRows:
        order = None
        if len(tensors) > 1:
            if self.rules.names is None:
                raise broken("names")
            order = order_of([tensor.name for tensor in tensors], self.rules)
        count = _length(tensors)
        if count is None:
            raise broken("shape")
        self._check_count(count)
        columns = [_exact_cells(tensor, 1, column, texts=self._texts) for column, tensor in enumerate(tensors)]
        arrays = [_as_array(cells, tensor.datatype) for cells, tensor in zip(columns, tensors, strict=True)]
        numbers = [array for array in arrays if array is not None]
        if len(numbers) == len(arrays):
            return joined_columns(numbers, order)
        return ordered_lists([*map(list, zip(*columns, strict=True))], order, self.rules)

    def _check_count(self, count: int) -> None:
        if count == 0:
            raise broken("empty")
        if count > self.rules.max_rows:
            raise broken("rows")

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the documents."""
        size = {"type": "integer", "minimum": 1}
        tensor = {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "shape": {"type": "array", "items": size, "minItems": 1, "maxItems": len(self.rules.shape) + 1},
                "datatype": {"enum": [*self._datatypes]},
                "data": {"type": "array"},
                "parameters": {"type": "object"},
            },
            "required": sorted(_TENSOR),
            "additionalProperties": False,
        }
        most = 1 if self.rules.names is None else self.rules.columns
        output = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        return {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": most},
                "outputs": {"type": "array", "items": output},
                "parameters": {"type": "object"},
            },
            "required": ["inputs"],
            "additionalProperties": False,
        }

    def example(self, row: list[float]) -> dict[str, Any]:
        """A document with one row."""
        shape = [1, *self.rules.shape]
        return {"inputs": [{"name": "input", "shape": shape, "datatype": "FP64", "data": row}]}


def _length(tensors: list[_Tensor]) -> int | None:
    """How many rows there are, if each tensor is one column of as many."""
    shapes = {tuple(tensor.shape) for tensor in tensors}
    lengths = {shape[0] for shape in shapes if len(shape) == 1 or shape[1:] == (1,)}
    return lengths.pop() if len(lengths) == 1 and all(len(s) == 1 or s[1:] == (1,) for s in shapes) else None


# Fast ---------------------------------------------------------------------------------------------------------------


def _is_plain(found: object) -> bool:
    """Whether parameters hold nothing but texts, numbers and booleans, none twice."""
    return (
        isinstance(found, Object)
        and len({*found}) == len(found)
        and all(type(value) in {str, int, float, bool} for value in found.values())
    )


def _fast_call(document: Object) -> InferenceCall | None:
    identity = document.get("id", "")
    if not isinstance(identity, str):
        return None
    if "parameters" in document and not _is_plain(document["parameters"]):
        return None
    if "outputs" in document:
        wanted = document["outputs"]
        if not isinstance(wanted, Array):
            return None
        for output in wanted:
            if not isinstance(output, Object) or not has_members(output, _OUTPUT, _PARAMETERS):
                return None
            if "parameters" in output and not _is_plain(output["parameters"]):
                return None
            if type(output["name"]) is not str:
                return None
    return InferenceCall(identity)


def _fast_tensor(found: object) -> _Tensor | None:
    if not isinstance(found, Object) or not has_members(found, _TENSOR, _PARAMETERS):
        return None
    parameters: Any = found.get("parameters")
    if "parameters" in found and (not _is_plain(parameters) or _BINARY in parameters):
        return None
    name, datatype, shape, data = found["name"], found["datatype"], found["shape"], found["data"]
    if not isinstance(name, str) or not isinstance(datatype, str):
        return None
    if not isinstance(shape, Array) or not isinstance(data, Array):
        return None
    sizes: list[Any] = [*shape]
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        return None
    return _Tensor(name, sizes, DATATYPES[datatype], data)


def _fast_numbers(tensor: _Tensor) -> NDArray[Any] | None:
    """All numbers of a tensor, or None where its datatype cannot hold one."""
    dtype = tensor.datatype
    values = numbers_of_kind(tensor.data, dtype.kind)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # it is infinite then, and refused for that
            return values.astype(dtype, copy=False)
    if dtype.itemsize < 8:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            return None
    return values


# Exact --------------------------------------------------------------------------------------------------------------


def _exact_call(document: dict[str, Any]) -> InferenceCall:
    identity, outputs = document.get("id", ""), document.get("outputs", [])
    if not isinstance(identity, str):
        raise broken("field")
    _check_parameters(document)
    if not isinstance(outputs, list):
        raise broken("array")
    for output in outputs:
        if not isinstance(output, dict):
            raise broken("field")
        require_members(output, _OUTPUT, _PARAMETERS)
        _check_parameters(output)
        if not isinstance(output["name"], str):
            raise broken("field")
    return InferenceCall(identity)


def _check_parameters(found: dict[str, Any]) -> None:
    if not isinstance(found.get("parameters", {}), dict):
        raise broken("field")


def _exact_tensor(found: object, datatypes: Mapping[str, np.dtype[Any]]) -> _Tensor:
    if not isinstance(found, dict):
        raise broken("field")
    _check_parameters(found)
    if _BINARY in found.get("parameters", {}):
        raise broken("binary")
    require_members(found, _TENSOR, _PARAMETERS)
    name, shape, datatype, data = (found[member] for member in ("name", "shape", "datatype", "data"))
    if not isinstance(name, str) or not isinstance(datatype, str):
        raise broken("field")
    if datatype not in datatypes:
        raise broken("datatype")
    if not isinstance(shape, list) or not isinstance(data, list):
        raise broken("array")
    if not shape or not all(type(size) is int and size >= 0 for size in shape):
        raise broken("shape")
    return _Tensor(name, shape, datatypes[datatype], data)


def _exact_cells(tensor: _Tensor, columns: int, column: int = 0, *, texts: bool) -> list[Any]:
    """The data of a tensor, flat. Whatever is neither a number nor a text is left for the rules to judge.

    Args:
        tensor: Of a shape that is known to be no larger than the rules allow.
        columns: How many values of a row it has.
        column: Which value of a row its first one is.
        texts: Whether columns take texts. If not, those are for the rules too.
    """
    data: Any = tensor.data
    if data and isinstance(data[0], list):
        data = flatten(data, tensor.shape)
    if isinstance(data, str) or len(data) != math.prod(tensor.shape):
        raise broken("shape")
    unfit = _UNFIT[tensor.datatype.kind] if texts else _UNFIT[tensor.datatype.kind] - {str}
    limits = np.iinfo(tensor.datatype) if tensor.datatype.kind in "iu" else None
    for index, cell in enumerate(data if unfit else ()):
        if type(cell) in unfit or (limits and type(cell) is int and not limits.min <= cell <= limits.max):
            raise broken("datatype", index // columns, column + index % columns)
    return list(data)


def _as_array(cells: list[Any], datatype: np.dtype[Any]) -> NDArray[Any] | None:
    """The same array as the fast path makes, or None where something else than numbers is among the cells."""
    if not {*map(type, cells)} <= {int, float}:
        return None
    if datatype.kind != "f":
        return np.array(cells, f"{datatype.kind}8")
    doubles = np.array([*map(_as_double, cells)], np.float64)
    with np.errstate(over="ignore"):  # it is infinite then, and refused for that
        return doubles.astype(datatype)


def _as_double(cell: float) -> float:
    try:
        return float(cell)
    except OverflowError:  # an int beyond every double
        return math.inf
