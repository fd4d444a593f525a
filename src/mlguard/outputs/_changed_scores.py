"""The scores in an answer: found, and given back in the form in which they were."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import BaseModel

from mlguard.errors import UnsafeOutputError
from mlguard.outputs.rounding import FloatArray

Change = Callable[[FloatArray], FloatArray]


def change_scores(answer: Any, field: str, change: Change) -> Any:
    """A copy of an answer with other scores.

    Args:
        answer: A dict, pydantic model or dataclass with the field, or the scores alone.
        field: What the field is called in the answer.
        change: Makes other scores of them, in the same shape: one dimension for one row, two for several, none for a
            single number.

    Raises:
        UnsafeOutputError: There are no such scores, or they are not finite numbers (500).
    """
    if isinstance(answer, dict):
        if field not in answer:
            raise _missing(field)
        return {**answer, field: _changed(answer[field], change)}
    if isinstance(answer, BaseModel):
        own = _own_name(answer, field)
        return answer.model_copy(update={own: _changed(getattr(answer, own), change)})
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        if not hasattr(answer, field):
            raise _missing(field)
        return dataclasses.replace(answer, **{field: _changed(getattr(answer, field), change)})
    return _changed(answer, change)


def _own_name(model: BaseModel, field: str) -> str:
    """What the model itself calls a field: answers may have an alias."""
    for name, info in type(model).model_fields.items():
        if field in {info.serialization_alias, info.alias, name}:
            return name
    raise _missing(field)


def _missing(field: str) -> UnsafeOutputError:
    return UnsafeOutputError(
        f"the answer has no field {field!r}: name one of its own in add_noise(scores=...), which takes no path"
    )


def _changed(value: Any, change: Change) -> Any:
    try:
        scores = np.asarray(value)
    except Exception as error:  # ragged, or a tensor that does not come as it is
        raise UnsafeOutputError("the scores are not rows of equal length") from error
    if scores.dtype.kind not in "fiu" or scores.ndim > 2 or isinstance(value, np.ma.MaskedArray):
        raise UnsafeOutputError("add_noise needs scores: one row of numbers, or rows of equal length")
    with np.errstate(over="ignore"):
        exact = scores.astype(np.float64)
    if not np.isfinite(exact).all():
        raise UnsafeOutputError("the scores hold NaN or an infinity")
    changed = change(exact)
    return changed if isinstance(value, np.ndarray) else changed.tolist()
