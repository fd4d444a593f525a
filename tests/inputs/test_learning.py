"""``Features.from_data``: bounds and categories learnt from data, and what a caller can learn of the data by them."""

import asyncio
import json
import math
from fractions import Fraction
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
from fastapi import Depends, FastAPI
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.preprocessing import OrdinalEncoder

from mlguard import ConfigurationError, MemoryStore, QueryBudget, harden
from mlguard.inputs.features import Features
from tests.inputs.reading import rows_of

RNG = np.random.default_rng(7)
NORMAL = RNG.normal(50, 10, (1_000, 2))


def learn(data: Any, **settings: Any) -> Features:
    return Features.from_data(data, **{"max_rows": 10, **settings})


def bounds(guard: Features) -> list[tuple[Any, Any]]:
    return [*zip(guard._rules.low.tolist(), guard._rules.high.tolist(), strict=True)]


# What is learnt -----------------------------------------------------------------------------------------------------


def test_bounds_are_quantiles_with_a_margin_rounded_outwards() -> None:
    """The statistics are the documented ones: two quantiles, a margin in their distance, two digits of it."""
    column = np.arange(1000.0)  # at 1 in 1000: ranks 5 and 994, because 5 are always left out; their distance is 989
    assert bounds(learn(column[:, None], margin=0)) == [(0, 1000)]
    assert bounds(learn(column[:, None])) == [(-990, 1990)]
    assert bounds(learn(column[:, None] / 1000, margin=0.5, quantiles=(0.1, 0.9))) == [(-0.3, 1.3)]
    assert bounds(learn(column[::-1, None], margin=0.25, quantiles=(0.25, 0.75))) == [(120, 880)]


def test_unseen_rows_of_known_data_sets_pass() -> None:
    """Bounds learnt from one half of a data set refuse few rows of the other."""
    for load in (datasets.load_iris, datasets.load_wine, datasets.load_diabetes, datasets.load_breast_cancer):
        data = np.random.default_rng(0).permutation(load(return_X_y=True)[0])
        half = max(len(data) // 2, 100)
        rules = learn(data[:half])._rules
        within = np.all((data >= rules.low) & (data <= rules.high), axis=1)
        assert within[:half].mean() > 0.97
        assert within[half:].mean() > 0.97


@pytest.mark.parametrize(
    ("constant", "expected"),
    [(0.0, (-1, 1)), (5.0, (0, 10)), (-40.0, (-80, 0)), (0.25, (-0.8, 1.3)), (1e300, (0, 2e300)), (5e-324, (-1, 1))],
)
def test_a_column_of_one_value_gets_room(constant: float, expected: Any) -> None:
    """What never varied in the data may vary a little, by the size of the value, and at least by 1."""
    assert bounds(learn(np.full((100, 1), constant))) == [expected]


def test_rare_values_count_where_the_quantiles_see_none() -> None:
    """A column that is nearly always 0 still allows what it was in six rows."""
    column = np.zeros(10_000)
    column[:6] = 7
    assert bounds(learn(column[:, None])) == [(-7, 14)]
    column[0] = 0  # now in five
    assert bounds(learn(column[:, None])) == [(-1, 1)]


def test_bounds_fit_the_dtype() -> None:
    """Integers get whole bounds that the dtype can hold, and no bound is infinite."""
    ages = RNG.integers(18, 90, (500, 1))
    assert bounds(learn(ages))[0][0] < 0
    guard = learn(ages, dtype=np.uint8)
    assert [type(bound) for bound in bounds(guard)[0]] == [int, int]
    assert bounds(guard)[0][0] == 0
    assert bounds(learn(ages * 500, dtype=np.uint16))[0] == (0, 2**16 - 1)
    huge = np.repeat([-1.7e308, 1.7e308], 100)[:, None]
    assert bounds(learn(huge)) == [(-np.finfo(float).max, np.finfo(float).max)]
    assert bounds(learn(huge, dtype=np.float32)) == [(-float(np.finfo("f4").max), float(np.finfo("f4").max))]
    largest = np.arange(2**64 - 200, 2**64 - 1, dtype=np.uint64)[:, None]
    assert bounds(learn(largest, dtype=np.uint64)) == [(0, 2**64 - 1)]
    for data, dtype in ((NORMAL, np.int64), (ages - 100, np.uint8), (ages * 500, np.int16)):
        with pytest.raises(ConfigurationError, match="column 0 holds numbers that a"):
            learn(data, dtype=dtype)


def test_known_bounds_stay_as_they_are() -> None:
    """What is known without the data need not be learnt: nobody is younger than 0."""
    guard = learn(NORMAL, low={0: 0, 1: Fraction(1, 2)}, high={1: 120})
    assert [low for low, _ in bounds(guard)] == [0, 0.5]
    assert bounds(guard)[1][1] == 120
    assert bounds(guard)[0][1] == bounds(learn(NORMAL))[0][1]


def test_missing_values_are_only_where_they_are_declared() -> None:
    """Data with gaps are refused unless the column may have them; then the others decide."""
    data = NORMAL.copy()
    data[::3, 1] = np.nan
    with pytest.raises(ConfigurationError, match="column 1 has missing values"):
        learn(data)
    for missing in ([1], True):
        guard = learn(data, missing=missing)
        assert bounds(guard)[0] == bounds(learn(NORMAL))[0]
        assert guard._rules.missing >= {1}
    data[90:, 1] = np.nan
    with pytest.raises(ConfigurationError, match="column 1 has fewer than 100 values"):
        learn(data, missing=[1])


# Kinds of data ------------------------------------------------------------------------------------------------------


class Frame:
    """A data frame that nobody imports: columns, and each by its name."""

    def __init__(self, **columns: Any) -> None:
        self.columns = list(columns)
        self._columns = columns

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]


def test_arrays_lists_and_frames_tell_the_same() -> None:
    """Rules depend on the values, not on what holds them."""
    expected = bounds(learn(NORMAL))
    assert bounds(learn(NORMAL.tolist())) == expected
    assert bounds(learn([tuple(row) for row in NORMAL.tolist()])) == expected
    assert bounds(learn(NORMAL.astype(object))) == expected
    assert bounds(learn(NORMAL.astype(">f8"))) == expected
    guard = learn(Frame(age=NORMAL[:, 0], weight=NORMAL[:, 1].tolist()), missing=["weight"])
    assert bounds(guard) == expected
    assert guard.names == ("age", "weight")
    assert guard._rules.missing == {1}


def test_data_frames_of_pandas_are_read() -> None:
    """Names, nullable integers, booleans, strings and pandas' own missing values are understood."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "age": NORMAL[:, 0],
            "visits": pandas.array([None, *range(999)], dtype="Int64"),
            "smoker": NORMAL[:, 1] > 50,
            "sex": pandas.Series(["f", "m"] * 500, dtype="category"),
            "ward": pandas.Series([*(["b", "a"] * 499), "a", None]),
        }
    )
    guard = learn(frame, missing=["visits", "ward"], categories=["sex", "ward"])
    assert guard.names == ("age", "visits", "smoker", "sex", "ward")
    assert bounds(guard)[0] == bounds(learn(NORMAL))[0]
    assert bounds(guard)[2] == (-1, 2)
    assert {index: allowed.values for index, allowed in guard._rules.categories.items()} == {
        3: ("f", "m"),
        4: ("a", "b"),
    }
    numbered = learn(pandas.DataFrame(NORMAL))
    assert (numbered.columns, numbered.names) == (2, None)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "data frame"),
        (1, "data frame"),
        ("abc", "data frame"),
        ([], "data frame"),
        (NORMAL[:, 0], "data frame"),
        (NORMAL[None], "data frame"),
        ([[1, 2], [3]], "data frame"),
        ([[[1]]], "data frame"),
        ([np.zeros((2, 2)), np.zeros((2, 3))], "data frame"),
        (NORMAL[:99], "fewer than 100"),
        (NORMAL[:0], "fewer than 100"),
        (NORMAL[:, :0], "columns"),
        (Frame(a=[{}] * 100), "column 'a' holds what is no number"),
        (Frame(), "columns"),
        (Frame(**{"": NORMAL[:, 0]}), "names"),
        (np.where(NORMAL > 60, np.inf, NORMAL), "column 0 holds an infinity"),
        ([[10**400]] * 100, "column 0 holds an infinity"),
        ([["1"]] * 100, "column 0 holds what is no number"),
        (np.array([["1"]] * 100), "column 0 holds what is no number"),
        (np.zeros((100, 1), "datetime64[s]"), "column 0 holds what is no number"),
        (np.zeros((100, 1), complex), "column 0 holds what is no number"),
        ([[1j]] * 100, "column 0 holds what is no number"),
        (Frame(age=["a"] * 100), "column 'age' holds what is no number"),
        ([[1], [None]] * 100, "column 0 has missing values"),
        ([[1], [math.nan]] * 100, "column 0 has missing values"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_other_data_are_refused(data: Any, text: str) -> None:
    """What nothing can be learnt from stops the start-up, and the text says where and why."""
    with pytest.raises(ConfigurationError, match=text):
        learn(data)


def test_columns_must_be_told_apart() -> None:
    """Two columns of one name, or some with a name and some without, are refused."""
    frame = Frame(a=NORMAL[:, 0])
    both: list[Any] = [["a", "a"], ["a", 1]]
    for columns in both:
        frame.columns = columns
        with pytest.raises(ConfigurationError, match="names"):
            learn(frame)


WRONG: dict[str, list[Any]] = {
    "margin": [-0.1, math.nan, math.inf, 1e9, None, "1", True],
    "quantiles": [
        *[(0, 1), (0.0, 0.9), (0.1, 1.0), (0.9, 0.1), (0.5, 0.9), (0.1, 0.5), 0.1, (0.1,), (0.1, 0.2, 0.9)],
        *[("a", "b"), (math.nan, 0.9), None, (True, 0.9)],
    ],
    "low": [[0], 0, {2: 0}, {"a": 0}, {0: None}, {0: 1e9}, {0: math.nan}],
    "high": [[0], {-1: 0}, {0: "1"}, {0: -1e9}],
    "missing": [["a"], 2, None],
    "categories": [["a"], [2], 1, [0, 0], {0: []}],
    "dtype": ["complex", None],
    "max_rows": [0, None],
    "publish_bounds": [None],
    "field": [""],
}


@pytest.mark.parametrize(
    ("setting", "value"), [(name, value) for name, wrong in WRONG.items() for value in wrong], ids=repr
)
def test_settings_that_cannot_work_are_refused(setting: str, value: Any) -> None:
    """Exact extremes as quantiles, and everything else that cannot work, name the setting."""
    with pytest.raises(ConfigurationError, match=setting):
        learn(NORMAL, **{setting: value})


@pytest.mark.parametrize("setting", ["low", "high"])
def test_one_bound_for_all_columns_is_refused_with_an_example(setting: str) -> None:
    """``low=0``, as ``Features`` takes it, says how to write it here."""
    with pytest.raises(ConfigurationError, match=rf"{setting} must be a mapping .* such as \{{0: 0\}}"):
        learn(NORMAL, **{setting: 0})
    named = Frame(age=NORMAL[:, 0])
    with pytest.raises(ConfigurationError, match=r"such as \{'age': 0\}"):
        learn(named, **{setting: [0]})


# Categories ---------------------------------------------------------------------------------------------------------


def test_categories_are_numbered_as_scikit_learn_does() -> None:
    """The model gets the numbers that it was trained with."""
    texts = np.array([["b", "A", "a", "\u00e9", "e\u0301"][number % 5] for number in range(500)])[:, None]
    guard = learn(texts.tolist(), categories=[0])
    encoder = OrdinalEncoder().fit(texts)
    for text in encoder.categories_[0]:
        body = json.dumps({"features": [[str(text)]]}).encode()
        assert rows_of(guard, body).tolist() == encoder.transform([[text]]).tolist()


def test_categories_may_be_numbers_or_stated() -> None:
    """Numbers stay numbers, and what is stated for a column is not looked for in the data."""
    data = [[number % 3 * 1000, "a"] for number in range(300)]
    guard = learn(data, categories={0: [0, 1000, 2000, 3000], 1: ["z", "a"]})
    assert guard._rules.matrix([[3000, "a"]]).tolist() == [[3000, 1]]
    assert learn(data, categories=[1, 0])._rules.categories[0].values == (0, 1000, 2000)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (["a"] * 200 + ["rare"] * 4, "fewer than 5 rows"),
        ([f"name {number}" for number in range(1_001)] * 5, "more than 1000"),
        (["a", 1] * 100, "either texts or numbers"),
        (["a", True] * 100, "either texts or numbers"),
        ([{"a": 1}] * 100, "either texts or numbers"),
        (["a", None] * 100, "missing"),
    ],
)
def test_categories_that_would_tell_somebody_are_not_learnt(column: list[Any], text: str) -> None:
    """A category of a few rows, or of names, tells by being accepted that it is in the data."""
    with pytest.raises(ConfigurationError, match=text) as refused:
        learn([[cell] for cell in column], categories=[0])
    assert "rare" not in str(refused.value)


# Attacks ------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=100, max_size=130),
    st.lists(st.floats(0, 1e300), min_size=10, max_size=10),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([(0.001, 0.999), (1e-9, 0.9999), (0.1, 0.6)]),
)
@example([0.0] * 100, [1e300] * 10, 1.0, (0.001, 0.999))
def test_no_bound_depends_on_the_outermost_values(column: Any, further: Any, margin: float, quantiles: Any) -> None:
    """However extreme the five smallest and five largest values become, the bounds stay where they are."""
    usual = sorted(column)
    moved = usual.copy()
    moved[:5] = [low - step for low, step in zip(usual[:5], further[:5], strict=True)]
    moved[-5:] = [high + step for high, step in zip(usual[-5:], further[5:], strict=True)]
    before, after = (
        bounds(learn(np.array(values)[:, None], margin=margin, quantiles=quantiles)) for values in (usual, moved)
    )
    assert before == after


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=100, max_size=110), st.sampled_from("fdBqQ"))
def test_bounds_are_finite_and_in_order(column: Any, dtype: str) -> None:
    """Any data give bounds that work, or say why they cannot, and the values between the quantiles are within."""
    values = np.array(column)[:, None]
    whole = bool((values == np.trunc(values)).all())
    try:
        (low, high) = bounds(learn(values, dtype=dtype))[0]
    except ConfigurationError:
        assert dtype in "BqQ"
        assert not whole or values.min() < 0 or values.max() > 255
        return
    assert low <= high
    if dtype == "d":
        assert low <= np.sort(column)[50] <= high


def service(guard: Features, budget: str) -> FastAPI:
    app = FastAPI()
    harden(app)
    rows = QueryBudget(budget, cost=guard, store=MemoryStore())

    @app.post("/predict", dependencies=[Depends(rows)])
    def predict(x: Annotated[Any, Depends(guard)]) -> int:
        return len(x)

    return app


class Prober:
    """A caller who finds bounds by halving, through the endpoint."""

    def __init__(self, app: FastAPI) -> None:
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
        self.asked = 0

    async def accepts(self, number: float) -> bool:
        answer = await self._client.post("/predict", json={"features": [[number]]})
        if answer.status_code == 429:
            raise PermissionError
        self.asked += 1
        assert answer.status_code == 200 or answer.json()["broken"] == "range"
        return answer.status_code == 200

    async def bound(self, inside: float, outside: float) -> float:
        """The last number that is accepted on the way from inside to outside."""
        while (middle := (inside + outside) / 2) not in {inside, outside}:
            if await self.accepts(middle):
                inside = middle
            else:
                outside = middle
        return inside


def test_probing_finds_a_rounded_bound_and_no_value_of_the_data() -> None:
    """Who halves until a bound is known to the last bit has learnt two digits of a spread, not anybody's value."""
    incomes = np.random.default_rng(1).lognormal(10, 1, 5_000)
    guard = learn(incomes[:, None])

    async def attack() -> tuple[float, float]:
        prober = Prober(service(guard, "1000000/month"))
        return await prober.bound(20_000.0, -1e9), await prober.bound(20_000.0, 1e9)

    found = asyncio.run(attack())
    assert found == bounds(guard)[0]
    usual = np.sort(incomes)[5:-5]
    for bound, extreme in zip(found, (incomes.min(), incomes.max()), strict=True):
        assert bound not in incomes
        assert bound != extreme
        # The two equations low = a - (b - a) and high = b + (b - a) give no value of the data either.
        assert bound == round(bound, -4)
    a, b = (2 * found[0] + found[1]) / 3, (found[0] + 2 * found[1]) / 3
    assert not np.isin([a, b], incomes).any()
    assert usual.min() > found[0]


def test_each_probe_costs_a_row() -> None:
    """Refused probes are charged as accepted ones are: a budget ends the search."""

    async def attack() -> int:
        prober = Prober(service(learn(NORMAL[:, :1]), "20/month"))
        with pytest.raises(PermissionError):
            await prober.bound(50.0, 1e9)
        return prober.asked

    assert asyncio.run(attack()) == 20


@pytest.mark.parametrize("columns", [1, 2])
def test_openapi_tells_no_learnt_bound(columns: int) -> None:
    """Bounds that come from data are not published, not even where they are the same for all columns."""
    data = np.repeat(NORMAL[:, :1], columns, axis=1)
    guard = learn(Frame(**{f"secret{number}": column for number, column in enumerate(data.T)}))
    body = guard.openapi_body()
    number = body["content"]["application/json"]["schema"]["properties"]["features"]["oneOf"][1]["items"]
    assert number == {"type": "number"}
    assert "example" not in body["content"]["application/json"]
    assert "secret" not in json.dumps(body)
    shown = learn(data, publish_bounds=True).openapi_body()
    assert "minimum" in json.dumps(shown)
    assert "example" in shown["content"]["application/json"]


def test_learnt_rules_are_saved_and_loaded(tmp_path: Any) -> None:
    """The file beside the model holds what was learnt, and publishing stays off."""
    guard = learn(NORMAL, missing=[1], field="rows", out_of_range="clip")
    guard.save(tmp_path / "rules.json")
    loaded = Features.load(tmp_path / "rules.json")
    assert bounds(loaded) == bounds(guard)
    assert loaded.openapi_body() == guard.openapi_body()
    assert loaded._rules.clips
