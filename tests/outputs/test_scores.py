"""What leaves in the place of scores: batches and single rows, as callers see them."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import orjson
import pytest
from fastapi import FastAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.asgi import call

from mlguard import ConfigurationError, OutputPolicy, UnsafeOutputError, harden, truncate_output
from mlguard.outputs._endpoint import policies_of, to_json
from mlguard.outputs.rounding import FloatArray

UNTIMED = settings(deadline=None, max_examples=20)  # a deadline would measure the machine
CLASSES = ["cat", "dog", "owl"]

# Rows on which others have gone wrong: ties, all equal, one-hot, dust, sums that are a little off, a close second.
HARD = np.array(
    [
        [0.4, 0.4, 0.2],
        [1 / 3, 1 / 3, 1 / 3],
        [0.0, 1.0, 0.0],
        [1e-17, 1.0, -1e-17],
        [0.333333, 0.333333, 0.333333],
        [0.3333337, 0.3333337, 0.3333336],
        [0.0049999, 0.0050001, 0.99],
        [0.4999999, 0.5000001, 0.0],
        [0.005, 0.005, 0.99],
    ]
)

PROBABILITIES: st.SearchStrategy[FloatArray] = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 40), st.integers(2, 12)),
    elements=st.floats(1e-6, 1.0) | st.sampled_from([0.25, 0.5, 0.5000000000000001, 1.0]),
).map(lambda rows: rows / rows.sum(axis=1, keepdims=True))

POLICIES = [
    OutputPolicy(),
    OutputPolicy(decimals=1),
    OutputPolicy(decimals=0),
    OutputPolicy(significant=2),
    OutputPolicy(exact=True),
    OutputPolicy(top_k=1),
    OutputPolicy(top_k=2, decimals=1),
    OutputPolicy(top_k=2, rest="other"),
    OutputPolicy(top_k=2, exact=True),
    OutputPolicy(top_k=2, rest="other", exact=True),
    OutputPolicy(top_k=99, rest="other"),
    OutputPolicy(label_only=True),
    OutputPolicy(confidence=0.75),
    OutputPolicy(min_confidence=0.5),
    OutputPolicy(min_confidence=0.5, label_only=True),
    OutputPolicy(min_confidence=0.5, top_k=2, rest="other", abstain=None),
    OutputPolicy(min_confidence=0.5, confidence=1),
    OutputPolicy(bins=[0, 0.1, 0.5, 0.9, 1]),
    OutputPolicy(bins=[0, 0.1, 0.5, 0.9, 1], bins_as="edges"),
]


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("policy", POLICIES, ids=OutputPolicy.fingerprint)
@UNTIMED
@given(PROBABILITIES)
@example(HARD)
@example(HARD[:1])
@example(np.tile(HARD, (10, 1)))
def test_a_batch_is_answered_as_its_rows_are(policy: OutputPolicy, batch: FloatArray) -> None:
    """No row's answer depends on the others, nor on whether it came as an array, a list, or in another order."""
    together = plain(truncate_output(batch, policy=policy))
    assert together == [plain(truncate_output(row, policy=policy)) for row in batch]
    assert together == [truncate_output(row.tolist(), policy=policy) for row in batch]
    assert together == plain(truncate_output(np.asfortranarray(batch), policy=policy))
    assert together == plain(truncate_output(batch.tolist(), policy=policy))
    assert together == plain(truncate_output(batch[::-1], policy=policy))[::-1]


@pytest.mark.parametrize("policy", POLICIES, ids=OutputPolicy.fingerprint)
@UNTIMED
@given(PROBABILITIES)
@example(np.tile(HARD, (10, 1)))
def test_what_is_sent_is_what_a_developer_sees(policy: OutputPolicy, batch: FloatArray) -> None:
    """The JSON of an answer, which is made faster for large batches, has the very data of a direct call."""
    labels = None if policy.bins else [f'"{n}" \\ é' for n in range(batch.shape[1])]
    endpoint = truncate_output(policy=policy, labels=labels)(lambda: {"probabilities": batch})
    policies = policies_of(endpoint)
    assert policies is not None
    sent = to_json(policies.default.release({"probabilities": batch}, for_json=True))
    assert orjson.loads(sent) == orjson.loads(to_json(endpoint()))


@pytest.mark.parametrize("decimals", [0, 2, 6, 15])
@pytest.mark.parametrize("scale", [1.0, -1.0, 30.0])
def test_rankings_of_large_batches_of_any_scores(scale: float, decimals: int) -> None:
    """Log-odds, counts and scores of many decimals are ranked like any others."""
    batch = scale * np.random.default_rng(5).dirichlet(np.ones(5), size=60)
    policies = policies_of(truncate_output(top_k=3, decimals=decimals)(plain))
    assert policies is not None
    sent = orjson.loads(to_json(policies.default.release(batch, for_json=True)))
    assert sent == [truncate_output(row, top_k=3, decimals=decimals) for row in batch]


@UNTIMED
@given(PROBABILITIES, st.integers(1, 12), st.integers(0, 6))
@example(np.tile(HARD[:3], (20, 1)), 2, 2)
def test_the_rest_makes_a_row_add_up(batch: FloatArray, top_k: int, decimals: int) -> None:
    """The best classes and the one entry for all others add up to exactly one, in units of the last decimal."""
    rows = truncate_output(batch, policy=OutputPolicy(top_k=top_k, decimals=decimals, rest="other"))
    for row in rows:
        units = [round(entry["score"] * 10**decimals) for entry in row]
        assert [unit / 10**decimals for unit in units] == [entry["score"] for entry in row]
        assert sum(units) == 10**decimals
        assert min(units) >= 0
        assert [entry["label"] for entry in row].count("other") == (top_k < batch.shape[1])
        assert "other" not in [entry["label"] for entry in row[:-1]]


def test_labels_on_hard_batches() -> None:
    """Each row of a batch has the label of its own best class, the lower index among equals (ART's is another)."""
    assert truncate_output(HARD, label_only=True, labels=CLASSES) == [
        "cat", "cat", "dog", "dog", "cat", "cat", "owl", "dog", "owl",
    ]  # fmt: skip
    assert truncate_output(HARD.astype(np.float32), label_only=True) == HARD.astype(np.float32).argmax(axis=1).tolist()


@pytest.mark.parametrize("decimals", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.longdouble])
def test_hard_rows_add_up_and_keep_their_best_class(decimals: int, dtype: Any) -> None:
    """Ties, one-hot rows, dust and sums that are a little off round to vectors that sum to one (ART's do not)."""
    rows = HARD.astype(dtype)
    rounded = truncate_output(rows, decimals=decimals)
    assert (np.rint(rounded.sum(axis=1) * 10**decimals) == 10**decimals).all()
    assert (rounded >= 0).all()
    assert (rounded.argmax(axis=1) == rows.argmax(axis=1)).all()
    assert not np.signbit(rounded).any()


def test_a_constant_confidence_says_nothing_of_the_model() -> None:
    """Every row has its best label and the same score, whatever the model thinks."""
    rows = truncate_output(HARD, policy=OutputPolicy(confidence=0.75), labels=CLASSES)
    assert {len(row) for row in rows} == {1}
    assert {row[0]["score"] for row in rows} == {0.75}
    assert [row[0]["label"] for row in rows] == truncate_output(HARD, label_only=True, labels=CLASSES)
    assert truncate_output(HARD[0], confidence=1, labels=CLASSES) == [{"label": "cat", "score": 1.0}]


def test_a_row_that_is_not_sure_has_no_score() -> None:
    """What stands for it is a word, in every form of the answer."""
    row = [0.4, 0.35, 0.25]
    for form in ({}, {"label_only": True}, {"top_k": 2}, {"top_k": 1, "rest": "other"}, {"confidence": 1.0}):
        assert truncate_output([row, [0.0, 0.9, 0.1]], min_confidence=0.5, **form)[0] == "abstain"
        assert truncate_output(row, min_confidence=0.5, abstain="don't know", **form) == "don't know"
    assert truncate_output(row, min_confidence=0.4) == row, "the confidence is judged as it leaves"
    assert truncate_output([0.396, 0.304, 0.3], min_confidence=0.4) == [0.4, 0.3, 0.3]


@pytest.mark.parametrize(
    ("scores", "options"),
    [
        ([-0.5, 1.5], {"min_confidence": 0.5}),
        ([2.5, 0.5], {"min_confidence": 0.5}),
        ([-3.0, 2.0, 1.0], {"top_k": 1, "rest": "other"}),
        ([[0.5, 0.5], [0.5, -0.1]], {"top_k": 1, "rest": "other"}),
    ],
)
def test_scores_that_are_no_probabilities_are_refused_where_they_must_be(scores: Any, options: Any) -> None:
    """A confidence or a remainder of log-odds would be a number without a meaning."""
    with pytest.raises(UnsafeOutputError, match="score"):
        truncate_output(scores, **options)


def test_log_odds_keep_their_order_where_nothing_needs_probabilities() -> None:
    """Labels and rankings are those of the scores, whatever they are."""
    scores = np.array([[-3.21, 0.17, -0.4], [5.0, 5.0, -5.0]])
    assert truncate_output(scores, label_only=True) == [1, 0]
    assert [row[0]["label"] for row in truncate_output(scores, top_k=1)] == [1, 0]


@pytest.mark.parametrize("options", [{"top_k": 2, "rest": "dog"}, {"min_confidence": 0.5, "abstain": "owl"}])
def test_a_word_cannot_be_a_class(options: dict[str, Any]) -> None:
    """Else a caller could not tell the class from what stands for none."""
    with pytest.raises(ConfigurationError, match="name of a class already"):
        truncate_output(labels=CLASSES, **options)


@pytest.mark.parametrize("labels", [["\ud800", "b"], [2**70, 1]], ids=repr)
def test_labels_that_json_does_not_have_are_refused_at_once(labels: list[Any]) -> None:
    """They would be a 500 on every answer."""
    with pytest.raises(ConfigurationError, match="JSON"):
        truncate_output(labels=labels)


# Regression ---------------------------------------------------------------------------------------------------------

BINS = [0, 10, 100, 1000]


@pytest.mark.parametrize(
    ("value", "midpoint", "edges"),
    [
        (3.7, 5.0, [0.0, 10.0]),
        (10.0, 55.0, [10.0, 100.0]),
        (1000.0, 550.0, [100.0, 1000.0]),
        (-5.5, 5.0, [0.0, 10.0]),
        (5e300, 550.0, [100.0, 1000.0]),
        (7, 5.0, [0.0, 10.0]),
        (np.float32(99.9), 55.0, [10.0, 100.0]),
        (Decimal("99.9"), 55.0, [10.0, 100.0]),
        (Fraction(1, 3), 5.0, [0.0, 10.0]),
        ([3.7, 250], [5.0, 550.0], [[0.0, 10.0], [100.0, 1000.0]]),
        (np.array([[3.7], [250.0]]), [[5.0], [550.0]], [[[0.0, 10.0]], [[100.0, 1000.0]]]),
        (np.array(3.7), 5.0, [0.0, 10.0]),
        (np.array([Decimal("3.7")], dtype=object), [5.0], [[0.0, 10.0]]),
        (np.zeros((2, 2, 2)), [[[5.0] * 2] * 2] * 2, [[[[0.0, 10.0]] * 2] * 2] * 2),
        ([], [], []),
    ],
    ids=repr,
)
def test_bins(value: Any, midpoint: Any, edges: Any) -> None:
    """A number of any kind is the bin that it falls into; outside of all, it is the nearest one."""
    answer = {"price": value, "seconds": 0.123456}
    found = truncate_output(bins=BINS, scores="price")(lambda: answer)()
    assert orjson.loads(to_json(found)) == {"price": midpoint, "seconds": 0.12}
    found = truncate_output(bins=BINS, scores="price", bins_as="edges")(lambda: answer)()
    assert orjson.loads(to_json(found)) == {"price": edges, "seconds": 0.12}


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "3.7",
        [True],
        ["3.7"],
        [[1.0], [1.0, 2.0]],
        {"a": 3.7},
        1 + 2j,
        float("nan"),
        [float("inf")],
        np.array([np.nan]),
        np.array(["a"]),
        np.array([True]),
        np.array([None, 1.0]),
        np.ma.masked_array([3.7], mask=[True]),
        10**400,
        Decimal("NaN"),
        np.array([Decimal("sNaN")], dtype=object),
    ],
    ids=repr,
)
def test_what_fits_into_no_bin_does_not_leave(value: Any) -> None:
    """Anything but finite numbers is a 500, never passed through."""
    with pytest.raises(UnsafeOutputError):
        truncate_output(bins=BINS, scores="price")(lambda: {"price": value})()


def test_scores_of_other_classes_say_how_many_there_are() -> None:
    """Too few labels, or what ``predict`` has returned in the place of probabilities, is named in the log."""
    with pytest.raises(UnsafeOutputError, match="has 3 classes, and 2 labels: return a column for each class"):
        truncate_output(labels=["a", "b"])(lambda: {"probabilities": [0.2, 0.3, 0.5]})()
    with pytest.raises(UnsafeOutputError, match="has 1 classes, and a row needs two"):
        truncate_output(label_only=True)(lambda: {"probabilities": [1.0]})()


def test_bins_need_their_field() -> None:
    """An answer without it may hold the number under another name."""
    with pytest.raises(UnsafeOutputError, match="no field 'price'"):
        truncate_output(bins=BINS, scores="price")(lambda: {"cost": 3.7})()
    with pytest.raises(ConfigurationError, match="labels are for"):
        truncate_output(bins=BINS, labels=CLASSES)


def test_midpoints_are_short_and_finite() -> None:
    """Neither 0.15000000000000002 nor the infinity that two large edges add up to."""
    assert truncate_output(0.12 * np.ones(1), bins=[0.1, 0.2]) == [0.15]
    assert truncate_output(np.ones(1), bins=[-1e308, 0.0, 1.7e308]).tolist() == [8.5e307]


def test_significant_digits_of_regression_outputs() -> None:
    """Numbers of any size keep three digits, each by itself."""
    released = truncate_output(significant=3)(lambda: {"prices": [123456.7, 0.00123456, -9.999], "n": 123456})()
    assert released == {"prices": [123000.0, 0.00123, -10.0], "n": 123456}


# As they are --------------------------------------------------------------------------------------------------------


def test_open_sends_numbers_as_they_are_and_still_no_nan() -> None:
    """All digits of doubles and of float32, and a 500 for what JSON does not have."""
    app = FastAPI()
    answers: dict[str, Any] = {
        "double": 0.1 + 0.2,
        "single": np.array([0.1, 0.7], dtype=np.float32),
        "probabilities": np.array([[0.1, 0.9]], dtype=np.float32),
    }

    @app.get("/predict")
    @truncate_output("open")
    def predict(bad: bool = False) -> Any:
        return {**answers, "x": np.array([np.nan if bad else 1], dtype=np.float32)}

    harden(app)
    assert call(app, method="GET").body == (
        b'{"double":0.30000000000000004,"single":[0.1,0.7],"probabilities":[[0.1,0.9]],"x":[1.0]}'
    )
    assert call(app, "/predict?bad=1", method="GET").status == 500
    labelled = truncate_output("open", labels=["a", "b"])(lambda: answers)
    assert to_json(labelled()["probabilities"]) == b"[[0.1,0.9]]"
