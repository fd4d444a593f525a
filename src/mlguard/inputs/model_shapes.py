"""How many columns a model takes, as the model itself says it. No library is imported: what it says is only read."""

import operator
from typing import Any, NamedTuple

from mlguard.errors import ConfigurationError

#: TensorProto.DataType of the ONNX specification, and what onnxruntime calls the same.
_ONNX_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 11: "float64", 12: "uint32",
    13: "uint64",
}  # fmt: skip
_RUNTIME_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in _ONNX_TYPES.values() if not name.startswith("float")},
}

_SAY_IT = "state columns or a shape yourself, as Features(columns=...)"


class ModelInput(NamedTuple):
    """What a model takes.

    Attributes:
        columns: The number of columns, or their names. None where there is a shape.
        shape: The shape of one row, where that has several dimensions.
        dtype: The only dtype that it takes, or None if it takes any.
        one_row: Whether it takes one row at a time, and never more.
    """

    columns: int | tuple[str, ...] | None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    one_row: bool = False


def read_model(model: Any) -> ModelInput:
    """What a model says that it takes.

    Args:
        model: A fitted estimator of scikit-learn, or anything else that has ``n_features_in_``; an ``onnx.ModelProto``;
            or an ``onnxruntime.InferenceSession``, or anything else that has ``get_inputs()``.

    Raises:
        ConfigurationError: It does not say it, or takes something else than rows of numbers.
    """
    if hasattr(model, "get_inputs"):
        inputs = [(_shape_said(one), _RUNTIME_TYPES.get(one.type)) for one in model.get_inputs()]
        return _onnx_input(inputs)
    if hasattr(model, "graph"):
        weights = {weight.name for weight in model.graph.initializer}  # old models list them among the inputs
        tensors = [one.type.tensor_type for one in model.graph.input if one.name not in weights]
        return _onnx_input([(_proto_shape(tensor), _ONNX_TYPES.get(tensor.elem_type)) for tensor in tensors])
    return _estimator_input(model)


def _estimator_input(model: Any) -> ModelInput:
    try:
        number = operator.index(model.n_features_in_)
    except (AttributeError, TypeError):  # a pipeline has it only if its first step has, and is fitted
        number = 0
    if number < 1:
        raise ConfigurationError(
            "the model does not say how many columns it takes: fit it first, load an .onnx file with onnx.load "
            f"(pip install 'mlguard[onnx]'), or {_SAY_IT}"
        )
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        return ModelInput(number)
    if len(names) != number:
        raise ConfigurationError(f"the model has {number} columns and {len(names)} names for them; {_SAY_IT}")
    return ModelInput(tuple(map(str, names)))


def _onnx_input(inputs: list[tuple[list[int | None], str | None]]) -> ModelInput:
    if len(inputs) != 1:
        raise ConfigurationError(f"the model has {len(inputs)} inputs, and rows of numbers are one; {_SAY_IT}")
    [(shape, dtype)] = inputs
    rows, *free = shape or [None]
    sides = tuple(side for side in free if side is not None)
    if not sides or len(sides) < len(free):
        raise ConfigurationError(
            f"the model's input has the shape {shape}, and not (rows, columns), or rows of one fixed shape; {_SAY_IT}"
        )
    if dtype is None:
        raise ConfigurationError(f"the model's input is not made of floats or integers that numpy has; {_SAY_IT}")
    if rows is not None and rows != 1:
        raise ConfigurationError(
            f"the model takes {rows} rows, no more and no fewer; export it with a free first dimension"
        )
    if len(sides) == 1:
        return ModelInput(sides[0], dtype=dtype, one_row=rows == 1)
    return ModelInput(None, sides, dtype, one_row=rows == 1)


def _shape_said(one: Any) -> list[int | None]:
    """A shape, with None for what is free: onnxruntime gives a name or None."""
    return [side if isinstance(side, int) and side > 0 else None for side in one.shape or ()]


def _proto_shape(tensor: Any) -> list[int | None]:
    return [side.dim_value if side.dim_value > 0 else None for side in tensor.shape.dim]
