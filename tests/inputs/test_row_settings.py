"""Settings of the rules that cannot work, and those that can be given in several ways."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.errors import ConfigurationError
from mlguard.inputs.features import Features
from mlguard.inputs.types import FeatureMatrix, FeatureVector

WORKING: dict[str, Any] = {"columns": ["a", "b"], "low": 0, "high": 9, "max_rows": 1}
LONE = "\ud800"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("missing", value) for value in ("a", False, None, 1, ["c"], [2], [-1], [True], [0.0], ["a", 0], [None])],
        *[("out_of_range", value) for value in ("", "Clip", "ignore", None, True, ["clip"])],
        *[("publish_bounds", value) for value in (None, 1, "no")],
        *[
            ("categories", value)
            for value in (["a"], "a", 1, {"c": ["x"]}, {2: ["x"]}, {True: ["x"]}, {0: [1], "a": [1]})
        ],
        *[
            ("categories", {"a": value})
            for value in (None, (), "xy", b"xy", 1, ["x", "x"], ["x", 1], [1, 1.0], [0.0, -0.0])
        ],
        *[
            ("categories", {"a": value})
            for value in ({"x", "y"}, {"x": 1}, [True], [None], [np.nan], [np.inf], [LONE], [b"x"])
        ],
        *[("categories", {"a": value}) for value in ([10**400], [1j], [["x"]])],
    ],
    ids=repr,
)
def test_settings_that_cannot_work_are_refused(setting: str, value: Any) -> None:
    """A rule that could not be told apart from another is not built, and the text names the setting."""
    for guard in (Features, FeatureMatrix):
        with pytest.raises(ConfigurationError, match=setting):
            guard(**{**WORKING, setting: value})
    vector = {name: what for name, what in WORKING.items() if name != "max_rows"}
    with pytest.raises(ConfigurationError, match=setting):
        FeatureVector(**{**vector, setting: value})


@pytest.mark.parametrize(
    ("dtype", "setting", "value"),
    [
        ("int64", "missing", ["a"]),
        ("int64", "missing", True),
        ("int64", "low", 0.5),
        ("int64", "low", float("nan")),
        ("int64", "high", float("inf")),
        ("int64", "high", 2**63),
        ("int8", "high", 128),
        ("uint8", "low", -1),
        ("uint8", "low", [-1, 0]),
        ("int64", "categories", {"a": [1.5]}),
        ("int8", "categories", {"a": [128]}),
        ("float32", "categories", {"a": [1e39]}),
        ("int8", "categories", {"a": [str(number) for number in range(128)]}),
    ],
    ids=repr,
)
def test_settings_must_fit_the_dtype(dtype: str, setting: str, value: Any) -> None:
    """What the dtype cannot hold is no bound and no category."""
    with pytest.raises(ConfigurationError, match=setting):
        Features(**{**WORKING, "dtype": dtype, setting: value})


def test_columns_are_named_or_counted() -> None:
    """Columns may be meant by name, by index, or all at once, and values come from numpy as well."""
    missing: Any
    for missing in (["a", "b"], (0, 1), {0, "b"}, True, np.array([0, 1]), range(2), iter(["b", "a"])):
        assert Features(**WORKING, missing=missing)._rules.missing == {0, 1}
    for values in (["x", "y"], ("x", "y"), np.array(["x", "y"]), np.array(["x", "y"], object), iter("xy")):
        assert Features(**WORKING, categories={"b": values})._rules.categories[1].values == ("x", "y")
    numbers: Any
    for numbers in ([1, 2], np.array([1, 2]), range(1, 3), (np.float32(1), np.int8(2))):
        assert Features(**WORKING, categories={1: numbers})._rules.categories[1].values == (1, 2)


def test_bounds_of_integers_are_exact() -> None:
    """Bounds beyond 2**53 are themselves, not the nearest double, and whole numbers may be written as floats."""
    guard = Features(columns=1, low=1.0, high=2**64 - 2, max_rows=1, dtype=np.uint64)
    assert guard._rules.fault(2**64 - 2, 0) is None
    assert guard._rules.fault(2**64 - 1, 0) == "range"


@given(st.text() | st.sampled_from(["f8,f8", "(2,)f8", "(", "a8", "S8", "int", "uint64 ", "datetime64[", "u8[", "5f8"]))
def test_no_name_of_a_dtype_crashes(name: str) -> None:
    """Whatever stands where a dtype is expected, it is one that rows can have, or a setting that cannot work."""
    try:
        with warnings.catch_warnings(action="ignore"):  # some names are old
            guard = Features(columns=1, low=0, high=1, max_rows=1, dtype=name)
    except ConfigurationError:
        return
    assert guard._rules.dtype.kind in "fiu"
