"""What numbers the rules let through, beside a slow reference that knows nothing but Python's exact arithmetic."""

import dataclasses
import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlguard.errors import InvalidInputError
from mlguard.inputs.features import Features
from mlguard.inputs.row_rules import RowRules
from mlguard.inputs.types import FeatureMatrix, FeatureVector
from tests.inputs.reading import rows_of

FLOATS = ["float64", "float32"]
INTEGERS = ["int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"]
SOURCES = ["f2", "f4", "f8", ">f4", ">f8", "i1", "i2", ">i4", "i8", ">i8", "u1", "u2", ">u4", "u8", ">u8"]


# The reference ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Spec:
    """Rules as plain values."""

    dtype: str
    low: list[Any]
    high: list[Any]
    missing: frozenset[int] = frozenset()
    categories: dict[int, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    clip: bool = False

    @property
    def columns(self) -> int:
        return len(self.low)

    def rules(self, max_rows: int = 10) -> RowRules:
        return RowRules(
            columns=self.columns,
            low=self.low,
            high=self.high,
            max_rows=max_rows,
            dtype=self.dtype,
            missing=self.missing,
            categories=self.categories,
            out_of_range="clip" if self.clip else "reject",
        )


class BrokenError(Exception):
    """The rule that a cell breaks."""


def as_number(cell: Any, column: int, spec: Spec) -> Any:
    """What stands in a cell: a number, or NaN for what is missing."""
    allowed = spec.categories.get(column, ())
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        if column in spec.missing:
            return math.nan
        if cell is None:
            raise BrokenError("category" if allowed else "number")
    if allowed and isinstance(allowed[0], str):
        if not isinstance(cell, str) or cell not in allowed:
            raise BrokenError("category")
        return allowed.index(cell)
    if isinstance(cell, str):
        raise BrokenError("category" if allowed else "number")
    return cell


def as_double(number: Any) -> float:
    """The nearest double."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def as_finite(number: Any, spec: Spec) -> Any:
    """A number that is finite as the dtype has it."""
    if spec.dtype in INTEGERS:
        held = 0.0 if isinstance(number, int) else number
    else:
        with np.errstate(all="ignore"):
            held = number if spec.clip else float(np.dtype(spec.dtype).type(number))
    if not math.isfinite(held):
        raise BrokenError("finite")
    return number


def as_output(number: Any, column: int, spec: Spec, precision: int) -> Any:
    """The number that the model gets."""
    whole = spec.dtype in INTEGERS
    if isinstance(number, float) and math.isnan(number) and column in spec.missing:
        return math.nan
    number = number if whole else as_double(number)
    rounded = whole and isinstance(number, float) and abs(number) >= 2**precision
    if column in spec.categories:
        allowed: Any = spec.categories[column]
        if rounded or number not in (range(len(allowed)) if isinstance(allowed[0], str) else allowed):
            raise BrokenError("category")
        return number
    number = as_finite(number, spec)
    if whole and Fraction(number).denominator != 1:
        raise BrokenError("integer")
    if not Fraction(spec.low[column]) <= Fraction(number) <= Fraction(spec.high[column]):
        if not spec.clip:
            raise BrokenError("range")
        return spec.low[column] if number < spec.low[column] else spec.high[column]
    if rounded:
        raise BrokenError("integer")
    return number


def reference(rows: list[list[Any]], spec: Spec, precision: int = 53) -> Any:
    """The array, or the rule and its place."""
    numbers: list[Any] = []
    for work in (as_number, lambda cell, column, spec: as_output(cell, column, spec, precision)):
        numbers = []
        for row, cells in enumerate(rows):
            for column, cell in enumerate(cells):
                try:
                    numbers.append(work(cell, column, spec))
                except BrokenError as rule:
                    return {"broken": str(rule), "row": row, "column": column}
        rows = np.reshape(np.array(numbers, dtype=object), (len(rows), spec.columns)).tolist()
    with np.errstate(all="ignore"):
        array = np.array([int(n) if spec.dtype in INTEGERS else float(n) for n in numbers], spec.dtype)
    return array.reshape(len(rows), spec.columns)


def outcome(judge: Any, given: Any) -> Any:
    """The same of the rules themselves."""
    try:
        return judge(given)
    except InvalidInputError as refusal:
        return refusal.members


def check_same(got: Any, expected: Any, case: Any = "") -> None:
    if isinstance(expected, dict) or isinstance(got, dict):
        assert got == expected, case
        return
    assert got.dtype == expected.dtype
    assert got.flags.carray
    np.testing.assert_array_equal(got, expected, str(case))
    if got.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(got), np.signbit(expected), str(case))


# What to judge ------------------------------------------------------------------------------------------------------

EDGES = sorted(
    {sign * (2**power + step) for power in (0, 7, 8, 11, 24, 31, 53, 63, 64) for step in (-1, 0, 1) for sign in (-1, 1)}
)
TEXTS = ["setosa", "Setosa", "seto\u0301sa", "set\u00f3sa", "", "0", "1", "null", "\ud800", "\U0001f33a"]
whole_numbers = st.one_of(st.integers(-3, 300), st.sampled_from(EDGES), st.integers(-(10**25), 10**25))
doubles = st.one_of(
    st.floats(),
    st.floats(-300, 300),
    whole_numbers.map(float),
    st.sampled_from([-0.0, 1e-320, 1e39, 1e308, 0.1, 3.5, math.inf, -math.inf, math.nan, 2.0**53 + 2]),
)
cells = st.one_of(whole_numbers, doubles, st.none(), st.sampled_from(TEXTS), st.just(10**400), st.just(-(10**400)))


@st.composite
def specs(draw: st.DrawFn, texts: bool = True) -> Spec:
    dtype = draw(st.sampled_from(["float64", *FLOATS, *INTEGERS]))
    columns = draw(st.integers(1, 3))
    if dtype in INTEGERS:
        limits = np.iinfo(dtype)
        inside = [edge for edge in EDGES if limits.min <= edge <= limits.max]
        bound: Any = st.one_of(st.sampled_from(inside), st.integers(int(limits.min), int(limits.max)))
    else:
        bound = st.one_of(st.floats(-300, 300), st.floats(-3e38, 3e38), st.sampled_from([-0.0, 0.1, 2.0**53]))
    bounds = [sorted([draw(bound), draw(bound)]) for _ in range(columns)]
    if draw(st.booleans()):
        bounds = [bounds[0]] * columns
    several = st.sets(st.integers(0, columns - 1)).map(frozenset)
    allowed: Any = st.lists(bound, min_size=1, max_size=4, unique=True).map(tuple)
    if texts:
        some = st.sampled_from([text for text in TEXTS if text.isprintable()])
        allowed = st.one_of(allowed, st.lists(some, min_size=1, max_size=4, unique=True).map(tuple))
    return Spec(
        dtype=dtype,
        low=[low for low, _ in bounds],
        high=[high for _, high in bounds],
        missing=draw(several) if dtype in FLOATS else frozenset(),
        categories={column: draw(allowed) for column in draw(several)},
        clip=draw(st.booleans()),
    )


@st.composite
def judged(draw: st.DrawFn) -> tuple[Spec, list[list[Any]]]:
    """Rules, and rows that often obey them."""
    spec = draw(specs())
    columns = []
    for column in range(spec.columns):
        likely = [st.sampled_from(spec.categories.get(column, (spec.low[column], spec.high[column]))), cells]
        columns.append(st.one_of(*likely, st.none()) if column in spec.missing else st.one_of(*likely))
    return spec, draw(st.lists(st.tuples(*columns).map(list), min_size=1, max_size=4))


@given(judged())
@example((Spec("int64", [0], [2**60]), [[2**53 + 1]]))
@example((Spec("int64", [0], [2**60]), [[2.0**53]]))
@example((Spec("int64", [0], [2**60]), [[2.0**70]]))
@example((Spec("int64", [0], [2**60], clip=True), [[2.0**70], [-(10**400)], [1.0]]))
@example((Spec("uint64", [0], [2**64 - 1], clip=True), [[2**64 - 1], [2**64], [-1], [2.0**60]]))
@example((Spec("float32", [0.0], [1.0]), [[1e-320], [-0.0]]))
@example((Spec("float32", [0.0], [1.0], clip=True), [[1e39]]))
def test_lists_obey_the_reference(case: tuple[Spec, list[list[Any]]]) -> None:
    """Python lists become the very array, or break the very rule, that exact arithmetic says."""
    spec, rows = case
    check_same(outcome(spec.rules().matrix, rows), reference(rows, spec), case)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Spec, Any]:
    """Rules, and an array of some dtype."""
    spec = draw(specs(texts=False))
    source = np.dtype(draw(st.sampled_from(SOURCES)))
    if source.kind == "f":
        cell: Any = doubles
    else:
        limits: Any = np.iinfo(source)
        cell = st.one_of(
            st.integers(int(limits.min), int(limits.max)),
            st.sampled_from([edge for edge in EDGES if limits.min <= edge <= limits.max]),
        )
    rows = draw(st.lists(st.lists(cell, min_size=spec.columns, max_size=spec.columns), min_size=1, max_size=4))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = np.array(rows).astype(source) if source.kind == "f" else np.array(rows, dtype=source)
    return spec, np.asarray(array, order=draw(st.sampled_from(["C", "F"])))


@given(arrays())
@example((Spec("int64", [0], [2**53]), np.array([[2**53 + 1]], np.uint64)))
@example((Spec("uint64", [0], [2**64 - 1]), np.array([[-1]], np.int64)))
@example((Spec("int64", [0], [2**60]), np.array([[2.0**24]], np.float32)))
@example((Spec("float64", [0.0], [0.1]), np.array([[0.1]], np.float32)))
@example((Spec("float64", [0.0], [-0.0], clip=True), np.array([[-1.0]])))
@example((Spec("float64", [0.0], [2.0**53]), np.array([[2**53 + 1]], np.int64)))
def test_arrays_obey_the_reference(case: tuple[Spec, Any]) -> None:
    """An array of any real dtype, byte order and memory layout is judged by the numbers that it holds."""
    spec, array = case
    precision = np.finfo(array.dtype).nmant + 1 if array.dtype.kind == "f" else 53
    before = array.tobytes()
    with np.errstate(all="raise"):  # a service may have set it: it must not crash a guard
        got = outcome(spec.rules().judge, array)
    check_same(got, reference(array.tolist(), spec, precision), case)
    assert array.tobytes() == before


@given(judged())
def test_arrays_and_lists_agree(case: tuple[Spec, list[list[Any]]]) -> None:
    """The same doubles are judged the same, in an array as in lists."""
    spec, rows = case
    if any(isinstance(value, str) for allowed in spec.categories.values() for value in allowed):
        return
    numbers = [[float(cell) if isinstance(cell, int) and abs(cell) < 2**53 else cell for cell in row] for row in rows]
    if not all(isinstance(cell, float) for row in numbers for cell in row):
        return
    check_same(outcome(spec.rules().judge, np.array(numbers)), outcome(spec.rules().matrix, numbers), case)


# The same in single sentences ---------------------------------------------------------------------------------------


def refused(judge: Any, given: Any) -> tuple[Any, ...]:
    with pytest.raises(InvalidInputError) as refusal:
        judge(given)
    return tuple(refusal.value.members.get(name) for name in ("broken", "row", "column"))


PATIENTS = RowRules(
    columns=["age", "sex", "grade"],
    low=0,
    high=130,
    max_rows=3,
    dtype=np.float64,
    missing=["age", 1],
    categories={"sex": ["f", "m", "x"], 2: (1, 2.5, 500)},
)


def test_missing_values_and_texts_become_numbers() -> None:
    """Null is NaN, a text is its index, and a number of a category stays itself, beyond all bounds."""
    rows = PATIENTS.matrix([[None, "x", 500], [30, None, 1], (1.5, "f", 2.5)])
    np.testing.assert_array_equal(rows, [[np.nan, 2, 500], [30, np.nan, 1], [1.5, 0, 2.5]])
    assert PATIENTS.fault(math.nan, 0) is None
    assert PATIENTS.fault(math.nan, 2) == "category"


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ([1, "f", None], ("category", 0, 2)),
        ([1, "F", 1], ("category", 0, 1)),
        ([1, "f\u0301", 1], ("category", 0, 1)),
        ([1, " f", 1], ("category", 0, 1)),
        ([1, 0, 1], ("category", 0, 1)),
        ([1, True, 1], ("category", 0, 1)),
        ([1, b"f", 1], ("category", 0, 1)),
        ([1, "f", "1"], ("category", 0, 2)),
        ([1, "f", True], ("category", 0, 2)),
        ([1, "f", 3], ("category", 0, 2)),
        ([1, "f", math.nan], ("category", 0, 2)),
        ([1, "f", 10**400], ("category", 0, 2)),
        ([1, "f", ["f"]], ("nested", 0, 2)),
        (["f", "f", 1], ("number", 0, 0)),
        ([math.inf, "f", 1], ("finite", 0, 0)),
        ([131, "f", 1], ("range", 0, 0)),
        ([131, "y", 1], ("category", 0, 1)),
    ],
    ids=repr,
)
def test_a_category_is_nothing_else(row: list[Any], rule: tuple[Any, ...]) -> None:
    """Texts agree in every code point or not at all, and a column of texts takes no number."""
    assert refused(PATIENTS.matrix, [row]) == rule


def test_arrays_cannot_hold_texts() -> None:
    """A column of texts refuses an array of numbers: nobody has to know which number stands for which text."""
    assert refused(PATIENTS.judge, np.ones((1, 3))) == ("category", 0, 1)


@pytest.mark.parametrize(
    ("array", "rule"),
    [
        (np.float64(1), ("array", None, None)),
        (np.zeros(0), ("empty", None, None)),
        (np.zeros(2), ("array", 0, None)),
        (np.zeros((0, 2)), ("empty", None, None)),
        (np.zeros((4, 2)), ("rows", None, None)),
        (np.zeros((4, 9)), ("rows", None, None)),
        (np.zeros((1, 0)), ("empty", 0, None)),
        (np.zeros((1, 3)), ("columns", 0, None)),
        (np.zeros((2, 2, 2)), ("nested", 0, 0)),
        (np.zeros((2, 2), bool), ("category", 0, 0)),
        (np.zeros((2, 2), complex), ("category", 0, 0)),
        (np.array([["1", "2"]]), ("category", 0, 0)),
        (np.array([[1, 2]], object), ("category", 0, 0)),
        (np.zeros((2, 2), "datetime64[s]"), ("category", 0, 0)),
        (np.zeros((2, 2), "m8[s]"), ("category", 0, 0)),
        (np.zeros((2, 2), "V8"), ("category", 0, 0)),
    ],
    ids=repr,
)
def test_other_arrays_are_refused(array: Any, rule: tuple[Any, ...]) -> None:
    """An array of another shape or kind breaks the rule that lists of the same would break."""
    rules = RowRules(columns=2, low=0, high=1, max_rows=3, dtype=float, categories={0: [0]})
    assert refused(rules.judge, np.asarray(array)) == rule
    if array.ndim < 3 and array.dtype.kind in "bc" and array.size:
        plain = RowRules(columns=2, low=0, high=1, max_rows=3, dtype=float)
        assert refused(plain.judge, array) == ("number", 0, 0) == refused(plain.matrix, array.tolist())


EXACTNESS = [
    ("float64", 2**53 + 1, 2.0**53),
    ("float64", 1e-320, 1e-320),
    ("float32", 1e-320, 0.0),
    ("float32", 0.1, float(np.float32(0.1))),
    ("float64", -0.0, -0.0),
    ("int64", 2**53 + 1, 2**53 + 1),
    ("int64", -(2**63), -(2**63)),
    ("int64", 2**63 - 1, 2**63 - 1),
    ("uint64", 2**64 - 1, 2**64 - 1),
    ("int64", 3.0, 3),
    ("int64", -0.0, 0),
    ("int64", 2.0**53 - 1, 2**53 - 1),
    ("int8", -128, -128),
    ("int64", 3.5, "integer"),
    ("int64", 1e-320, "integer"),
    ("int64", 2.0**53, "integer"),
    ("int64", 2**63, "range"),
    ("int64", 1e30, "range"),
    ("int64", 10**400, "range"),
    ("uint64", -1, "range"),
    ("int8", 128, "range"),
    ("int8", -129.0, "range"),
    ("int64", math.inf, "finite"),
    ("int64", math.nan, "finite"),
]


@pytest.mark.parametrize(("dtype", "number", "expected"), EXACTNESS)
def test_how_exact_numbers_are(dtype: str, number: float, expected: Any) -> None:
    """What the documentation says of single numbers holds in JSON, in Python lists and in pydantic models."""
    everything: Any = np.finfo(dtype) if dtype in FLOATS else np.iinfo(dtype)
    settings: dict[str, Any] = {"columns": 1, "low": everything.min, "high": everything.max, "dtype": dtype}
    guard = Features(**settings, max_rows=1)
    text = repr(number).replace("inf", "Infinity").replace("nan", "NaN")
    ways: list[Any] = [
        lambda: rows_of(guard, f'{{"features":[[{text}]]}}'.encode()),
        lambda: guard._rules.matrix([[number]]),
        lambda: FeatureMatrix(**settings, max_rows=1)._array([[number]]),
        lambda: FeatureVector(**settings)._array([number])[None],
    ]
    for way in ways:
        got = outcome(lambda _, way=way: way(), None)
        if isinstance(expected, str):
            assert got == {"broken": expected, "row": 0, "column": 0}
        else:
            assert got.dtype == dtype
            assert repr(got.tolist()) == repr([[expected]])


def test_clipping_moves_finite_numbers_only() -> None:
    """A number out of range becomes the nearer bound; NaN and infinities are refused, and categories never clipped."""
    rules = RowRules(
        columns=3, low=0, high=[1, 2, 3], max_rows=2, dtype=np.float32, categories={2: [7]}, out_of_range="clip"
    )
    assert rules.matrix([[-5, 1e39, 7], [0.5, 10**300, 7]]).tolist() == [[0, 2, 7], [0.5, 2, 7]]
    assert refused(rules.matrix, [[0, 0, 7], [math.inf, 0, 7]]) == ("finite", 1, 0)
    assert refused(rules.matrix, [[0, math.nan, 7]]) == ("finite", 0, 1)
    assert refused(rules.matrix, [[9, 9, 8]]) == ("category", 0, 2)
    whole = RowRules(columns=1, low=0, high=9, max_rows=2, dtype=np.int8, out_of_range="clip")
    assert whole.matrix([[10**30], [-1e30]]).tolist() == [[9], [0]]
    assert refused(whole.matrix, [[10.5]]) == ("integer", 0, 0)
    assert refused(whole.matrix, [[2**60], [10.5]]) == ("integer", 1, 0)


def test_a_foreign_array_is_copied() -> None:
    """The model gets an array that it may write to, though a body of bytes is none."""
    rules = RowRules(columns=2, low=0, high=255, max_rows=3, dtype=np.uint8)
    body = bytes([1, 2, 3, 4])
    rows = rules.judge(np.frombuffer(body, np.uint8).reshape(2, 2))
    rows[:] = 0
    assert body == bytes([1, 2, 3, 4])


def test_longer_floats_are_read_as_doubles() -> None:
    """An array of a wider floating-point dtype is judged as the doubles that the model gets."""
    rules = RowRules(columns=2, low=0, high=1, max_rows=2, dtype=np.float64)
    assert rules.judge(np.array([[0.5, 1]], np.longdouble)).dtype == np.float64
    with np.errstate(all="ignore"):
        wide = np.array([[1, 1]], np.longdouble) * np.longdouble(1e300) ** 2
    for dtype in ("float64", "int64"):
        rules = RowRules(columns=2, low=0, high=1, max_rows=2, dtype=dtype)
        assert refused(rules.judge, wide) == ("finite", 0, 0)


# Documentation ------------------------------------------------------------------------------------------------------


def item(**settings: Any) -> Any:
    usual: dict[str, Any] = {"columns": 2, "low": 0, "high": 9, "max_rows": 1, "dtype": "float64"}
    return RowRules(**{**usual, **settings}).row_schema()["items"]


def test_schemas_tell_kinds_and_common_bounds_only() -> None:
    """The schema says what may stand in a row, but neither which texts nor bounds that are not rules for all."""
    assert item() == {"type": "number", "minimum": 0.0, "maximum": 9.0}
    assert item(dtype="int16") == {"type": "integer", "minimum": 0, "maximum": 9}
    assert item(missing=[0]) == {"type": ["number", "null"], "minimum": 0.0, "maximum": 9.0}
    assert item(out_of_range="clip") == {"type": "number"}
    assert item(publish_bounds=False) == {"type": "number"}
    assert item(high=[9, 10]) == {"type": "number", "minimum": 0.0}
    assert item(categories={0: [5]}) == {"type": "number"}
    assert item(categories={0: ["secret"]}) == {"type": ["number", "string"]}
    assert item(categories={0: ["secret"], 1: ["s"]}, missing=True) == {"type": ["string", "null"]}


@given(specs(texts=False))
def test_examples_are_accepted(spec: Spec) -> None:
    """The documented example obeys the rules, whatever they are."""
    rules = spec.rules()
    assert rules.matrix([rules.example]).shape == (1, spec.columns)


def test_no_example_tells_a_secret() -> None:
    """There is no example where it would tell a text, or bounds that are not to be told."""
    guard = Features(columns=1, low=0, high=1, max_rows=1, categories={0: ["secret"]})
    assert "secret" not in str(guard.openapi_body())
    assert "example" not in guard.openapi_body()["content"]["application/json"]
    guard = Features(columns=1, low=41, high=43, max_rows=1, publish_bounds=False)
    assert "4" not in str(guard.openapi_body())
