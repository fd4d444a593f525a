"""What a ``OneHotEncoder`` may hold when a pickle is loaded.

``transform`` makes a sparse array of the numbers of categories, in as many columns as the encoder says that it has, and
SciPy writes it out without looking: with fewer columns than categories it writes beyond its memory. So the numbers have
to agree here already.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlguard.artifacts._pickle_rules import Rule, attributes, is_count, whole_number
from mlguard.artifacts._symbols import Array, Dtype, Made, MisuseError

_WRONG = "its categories and its columns do not agree"


class OneHotEncoder(Rule):
    """An encoder, whose columns are as many as its categories, without those that it drops."""

    def build(self, _made: Made, state: Any, /) -> None:
        """Give it its attributes."""
        members = attributes(state)
        if "categories_" not in members and "_n_features_outs" not in members:
            return  # nobody has fitted it
        categories, columns = members.get("categories_"), members.get("_n_features_outs")
        if type(categories) is not list or type(columns) is not list or len(categories) != len(columns):
            raise MisuseError(_WRONG)
        if members.get("n_features_in_") != len(columns):
            raise MisuseError(_WRONG)
        mappings = _mappings(members, len(columns))
        dropped = _dropped(members.get("_drop_idx_after_grouping"), len(columns))
        for known, mapping, drop, column in zip(categories, mappings, dropped, columns, strict=True):
            numbers = _count_sorted(known)
            if mapping is not None:
                numbers = _count_groups(mapping, numbers)
            if drop is not None:
                if not 0 <= drop < numbers:
                    raise MisuseError(_WRONG)
                numbers -= 1
            if not is_count(column) or column != numbers:
                raise MisuseError(_WRONG)


def _mappings(members: dict[str, Any], size: int) -> list[Any]:
    """Of each feature, to which group each category belongs. None: there are no groups."""
    enabled = members.get("_infrequent_enabled", False)
    if enabled is False:
        return [None] * size
    mappings, indices = members.get("_default_to_infrequent_mappings"), members.get("_infrequent_indices")
    if enabled is not True or type(mappings) is not list or type(indices) is not list:
        raise MisuseError(_WRONG)
    if len(mappings) != size or [one is None for one in mappings] != [one is None for one in indices]:
        raise MisuseError(_WRONG)
    return mappings


def _dropped(drop: Any, size: int) -> list[int | None]:
    """Of each feature, the number of the category that has no column."""
    if drop is None:
        return [None] * size
    if not isinstance(drop, Array) or drop.shape != (size,) or type(drop.values) is not list:
        raise MisuseError(_WRONG)
    return [None if one is None else whole_number(one) for one in drop.values]


def _count_sorted(known: Any) -> int:
    """How many categories there are. Numbers have to be sorted, because they are searched for."""
    if not isinstance(known, Array) or known.dtype is None or len(known.shape) != 1:
        raise MisuseError(_WRONG)
    if known.dtype.code[0] in "iuf":
        values = _numbers(known.dtype, known.values)
        values = values[: len(values) - int(np.isnan(values[-1:]).sum())]  # one that is missing comes last
        if not (values[:-1] <= values[1:]).all():
            raise MisuseError("its categories are not sorted")
    elif known.dtype.code[0] not in "OSU":
        raise MisuseError(_WRONG)
    return known.shape[0]


def _count_groups(mapping: Any, size: int) -> int:
    """How many groups the categories have."""
    if not isinstance(mapping, Array) or mapping.dtype is None or mapping.shape != (size,) or not size:
        raise MisuseError(_WRONG)
    groups = np.frombuffer(mapping.values, mapping.dtype.integers)
    if groups.min() < 0:
        raise MisuseError(_WRONG)
    return int(groups.max()) + 1


def _numbers(dtype: Dtype, values: Any) -> NDArray[Any]:
    return np.frombuffer(values, np.dtype(f"{dtype.byte_order}{dtype.code}"))
