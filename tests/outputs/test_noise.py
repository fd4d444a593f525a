"""add_noise as attackers see it: what repeats, batches, jitter and other accounts tell them, and what not."""

import asyncio
import hashlib
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response, WebSocket
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from tests.asgi import call

from mlguard import (
    ConfigurationError,
    EpsilonLedger,
    Features,
    Gaussian,
    Laplace,
    MemoryStore,
    UnsafeOutputError,
    add_noise,
    harden,
    repeat_cache,
    truncate_output,
)
from mlguard.outputs._noisy_endpoint import as_probabilities

KEY = "Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jd"
OTHER_KEY = "Hq8wNc5uKr1Xe7Bv0Mz4Lt9Yp3Sg6Df"
Rows = NDArray[np.float64]
WEIGHTS = np.random.default_rng(5).normal(size=(4, 3))


def model(x: Rows) -> Rows:
    """A logistic regression of four features and three classes."""
    powers = np.exp(x @ WEIGHTS)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def noisy(mechanism: Any = None, **options: Any) -> Callable[..., Any]:
    """What a caller may ask of it: rows in, noisy probabilities out."""

    @add_noise(mechanism or Laplace(0.05), **{"key": KEY, **options})
    def predict(x: np.ndarray[Any, Any]) -> Any:
        return {"probabilities": model(x)}

    return lambda x: predict(x=x)["probabilities"]


X = np.random.default_rng(6).uniform(-1, 1, (50, 4))


# Averaging ------------------------------------------------------------------------------------------------------------


def off_by(answers: Any, x: Rows) -> float:
    """What is left of the noise when an attacker averages answers."""
    return float(np.abs(np.mean(answers, axis=0) - model(x)).mean())


def test_repeats_do_not_average_out() -> None:
    """A thousand answers to one question are one answer; noise drawn anew would be gone."""
    ask, x = noisy(), X[:1]
    answers = np.concatenate([ask(x) for _ in range(1_000)])
    assert len(np.unique(answers, axis=0)) == 1
    drawn_anew = model(x) + np.random.default_rng(7).laplace(scale=0.05, size=(1_000, 3))
    assert off_by(drawn_anew, x[0]) < 0.006
    many = [off_by(ask(X[row : row + 1]), X[row]) for row in range(50)]
    assert 0.02 < np.mean(many) < 0.08


def test_a_batch_of_one_row_is_one_answer() -> None:
    """The noise of a row is that of the row, in whatever batch and place it stands."""
    ask = noisy()
    alone = ask(X[:1])[0]
    # Not to the last bit: the model itself may round in other ways in a batch.
    np.testing.assert_allclose(ask(np.repeat(X[:1], 100, axis=0)), np.repeat([alone], 100, axis=0), rtol=0, atol=1e-12)
    for at in range(5):
        np.testing.assert_allclose(ask(np.roll(X, at, axis=0))[at], alone, rtol=0, atol=1e-12)


def test_jitter_averages_out_unless_inputs_are_rounded() -> None:
    """Inputs that differ by a millionth have noise of their own, and one answer where decimals are taken away."""
    jittered = np.round(X[:1], 2) + np.random.default_rng(8).uniform(-1e-6, 1e-6, (1_000, 4))
    assert off_by(noisy()(jittered), jittered[0]) < 0.006
    answers = noisy(input_decimals=4)(jittered)
    assert len(np.unique(answers, axis=0)) == 1


def test_rounded_inputs_are_what_the_model_sees() -> None:
    """Else two inputs with one noise would tell the exact difference of their scores, and so the model's slope."""
    step = 1e-5
    one, other = np.full((1, 4), 0.5), np.full((1, 4), 0.5)
    other[0, 0] += step
    ask = noisy(input_decimals=3)
    np.testing.assert_array_equal(ask(one), ask(other))
    different = noisy()(other) - noisy()(one)
    assert abs(different).max() > 1e-3  # not the slope times 1e-5


def test_another_account_has_the_same_noise() -> None:
    """Fifty accounts average nothing, as noise does not depend on who asks."""
    service = Service()
    answers = {service.ask([0.1, 0.2, 0.3, 0.4], client=f"192.0.2.{number}") for number in range(5)}
    assert len(answers) == 1


def test_an_argument_that_changes_nothing_is_left_out() -> None:
    """Where a caller can choose one, the developer names those that the model sees."""

    def predict(x: Rows, note: str) -> Any:
        return {"probabilities": model(x)}

    told_all, told_x = (add_noise(Laplace(0.05), key=KEY, inputs=i)(predict) for i in (None, ["x"]))
    notes = [str(number) for number in range(10)]
    assert len({told_all(x=X[:1], note=note)["probabilities"].tobytes() for note in notes}) == 10
    assert len({told_x(x=X[:1], note=note)["probabilities"].tobytes() for note in notes}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"key": OTHER_KEY},
        {"mechanism": Laplace(0.06)},
        {"mechanism": Gaussian(0.05)},
        {"model_version": "2"},
        {"input_decimals": 9},
        {"scores": "scores"},
    ],
    ids=str,
)
def test_no_two_settings_share_noise(change: dict[str, Any]) -> None:
    """Two answers with one noise in two sizes, or from two models, could be solved for what is behind it."""

    def signs(**options: Any) -> Any:
        name = options.get("scores", "probabilities")

        @add_noise(options.pop("mechanism", Laplace(0.05)), **{"key": KEY, "renormalise": False, **options})
        def predict(x: np.ndarray[Any, Any]) -> Any:
            return {name: model(x)}

        return predict(x=np.round(X, 3))[name] - model(np.round(X, 3))

    same, other = signs(), signs(**change)
    np.testing.assert_array_equal(same, signs())
    assert abs(np.corrcoef(same.ravel(), other.ravel())[0, 1]) < 0.4


def test_two_endpoints_share_no_noise() -> None:
    """They may have two models, whose difference would be exact."""

    def one(x: Rows) -> Any:
        return {"probabilities": model(x)}

    def other(x: Rows) -> Any:
        return {"probabilities": model(x)}

    noise = add_noise(Laplace(0.05), key=KEY, renormalise=False)
    answers = [noise(each)(x=X)["probabilities"] for each in (one, other)]
    assert not (answers[0] == answers[1]).any()


# What it looks like ---------------------------------------------------------------------------------------------------


def drawn(mechanism: Any, rows: int = 20_000, classes: int = 3) -> Rows:
    @add_noise(mechanism, key=KEY, renormalise=False)
    def predict(x: Rows) -> Rows:
        return np.zeros((rows, classes))

    return np.asarray(predict(x=np.arange(float(rows)).reshape(rows, 1)))


@pytest.mark.parametrize("mechanism", [Laplace(0.5), Gaussian(0.5)])
def test_noise_has_its_distribution(mechanism: Any) -> None:
    """Its quantiles are those of the distribution, in each class, and classes have nothing to do with each other."""
    noise = drawn(mechanism)
    levels = np.array([0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999])
    if isinstance(mechanism, Laplace):
        expected = [0.5 * math.copysign(math.log(1 - abs(2 * q - 1)), q - 0.5) for q in levels]
    else:
        expected = [-1.545, -0.8224, -0.3372, 0.0, 0.3372, 0.8224, 1.545]
    for column in noise.T:
        np.testing.assert_allclose(np.quantile(column, levels), expected, atol=0.03, rtol=0.12)
    assert abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03
    assert len(np.unique(noise)) == noise.size


@pytest.mark.parametrize("mechanism", [Laplace(1.0), Gaussian(1.0)])
@pytest.mark.parametrize("classes", [1, 2, 7, 8, 9, 17, 1_000])
def test_any_number_of_classes(mechanism: Any, classes: int) -> None:
    """Each has noise of its own, however many random words that takes."""
    noise = drawn(mechanism, rows=3, classes=classes)
    assert len(np.unique(noise)) == noise.size
    assert np.isfinite(noise).all()


@pytest.mark.parametrize("word", [0, 1, 2**11 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("mechanism", [Laplace(1.0), Gaussian(1.0)])
def test_no_random_word_gives_an_infinity(mechanism: Any, word: int) -> None:
    """Not even the one in 2**53 whose logarithm would be none."""
    bits = np.full((1, 4), word, np.uint64)
    noise = mechanism.draw(bits, 4)
    assert np.isfinite(noise).all()
    assert abs(noise).max() < 37


@given(
    weights=hnp.arrays(
        np.float64, st.tuples(st.integers(1, 3), st.integers(1, 4)), elements=st.floats(0, 1).map(lambda f: f + 1e-3)
    ),
    scale=st.floats(1e-3, 1e3),
    keep_argmax=st.booleans(),
)
def test_probabilities_stay_probabilities(weights: Rows, scale: float, *, keep_argmax: bool) -> None:
    """None is below 0, each row adds up to 1, and the best class stays the best where that is asked for."""
    exact = weights / weights.sum(axis=1, keepdims=True)

    @add_noise(Laplace(scale), key=KEY, keep_argmax=keep_argmax)
    def predict(x: Rows) -> Any:
        return exact

    released = np.asarray(predict(x=np.zeros((len(exact), 1))))
    assert (released >= 0).all()
    np.testing.assert_allclose(released.sum(axis=1), 1.0)
    if keep_argmax:
        np.testing.assert_array_equal(released.argmax(axis=1), exact.argmax(axis=1))


def test_a_row_without_anything_above_zero() -> None:
    """The class that is nearest to it gets all, and nothing is divided by zero."""
    rows = np.array([[-1.0, -0.5, -2.0], [0.5, -1.0, 0.5]])
    np.testing.assert_array_equal(as_probabilities(rows), [[0, 1, 0], [0.5, 0, 0.5]])


def test_sums_that_are_a_little_off_are_corrected() -> None:
    """Models in half precision do not add up to 1."""
    for off in ([0.25, 0.7504], [-1e-9, 1.0]):
        released = add_noise(Laplace(1e-9), key=KEY)(lambda x, off=off: off)(x=1.0)
        np.testing.assert_allclose(released, [max(0.0, off[0]), 1 - max(0.0, off[0])], atol=1e-3)
        assert sum(released) == pytest.approx(1.0)


# Forms of answers -----------------------------------------------------------------------------------------------------


@dataclass
class Scored:
    probabilities: list[float]
    label: str = "a"


class Modelled(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    scores: list[float] = Field(alias="probabilities")
    label: str = "a"


class Body(BaseModel):
    rows: list[list[float]]
    texts: list[str] = []


@pytest.mark.parametrize(
    ("answer", "scores_of"),
    [
        ({"probabilities": [0.25, 0.75], "label": "a"}, lambda a: a["probabilities"]),
        ({"probabilities": (0.25, 0.75)}, lambda a: a["probabilities"]),
        ({"probabilities": np.array([0.25, 0.75], "f4")}, lambda a: a["probabilities"].tolist()),
        (Scored([0.25, 0.75]), lambda a: a.probabilities),
        (Modelled(probabilities=[0.25, 0.75]), lambda a: a.scores),
        ([0.25, 0.75], lambda a: a),
        ([[0.25, 0.75]], lambda a: a[0]),
        (np.array([[0.25, 0.75]]), lambda a: a[0].tolist()),
    ],
    ids=str,
)
def test_answers_keep_their_form(answer: Any, scores_of: Callable[[Any], Any]) -> None:
    """Nothing but the scores has changed, and what the endpoint has returned is what it was."""
    before = repr(answer)
    released = add_noise(Laplace(0.05), key=KEY)(lambda: answer)()
    assert type(released) is type(answer)
    assert repr(answer) == before
    assert all(type(score) is float for score in scores_of(released))
    np.testing.assert_allclose(scores_of(released), [0.25, 0.75], atol=0.5)
    assert scores_of(released) != [0.25, 0.75]


def test_scores_of_other_kinds() -> None:
    """One number, one number a row, or logits: they have noise, and nothing else is done to them."""

    def ask(answer: Any, x: Any) -> Any:
        return add_noise(Laplace(1e-3), key=KEY, renormalise=False, scores="price")(lambda x: {"price": answer})(x=x)

    assert ask(250.0, [1.0])["price"] == pytest.approx(250.0, abs=0.05)
    assert ask(250, [1.0])["price"] != 250
    logits = ask([-3.0, 5.0], [1.0])["price"]
    np.testing.assert_allclose(logits, [-3.0, 5.0], atol=0.05)
    x = np.array([[1.0], [2.0], [1.0]])
    prices = np.asarray(ask(np.array([10.0, 20.0, 10.0]), x)["price"])
    assert prices[0] == prices[2]
    assert ask(np.zeros((0, 3)), np.zeros((0, 1)))["price"].shape == (0, 3)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"label": "a"}, "no field"),
        (Scored, "needs scores"),
        (Body(rows=[]), "no field"),
        (Response(), "needs scores"),
        ({"probabilities": ["a"]}, "needs scores"),
        ({"probabilities": [True, False]}, "needs scores"),
        ({"probabilities": None}, "needs scores"),
        ({"probabilities": [[[0.5, 0.5]]]}, "needs scores"),
        ({"probabilities": [[0.5, 0.5], [1.0]]}, "equal length"),
        ({"probabilities": np.ma.masked_array([0.5, 0.5], [True, False])}, "needs scores"),
        ({"probabilities": [math.nan, 1.0]}, "NaN"),
        ({"probabilities": [math.inf, 1.0]}, "NaN"),
        ({"probabilities": [0.5, 0.7]}, "no vector of probabilities"),
        ({"probabilities": [-0.5, 1.5]}, "no vector of probabilities"),
        ({"probabilities": [[0.5, 0.5]] * 2}, "which input a row of scores belongs to"),
    ],
    ids=str,
)
def test_what_may_not_leave(answer: Any, says: str) -> None:
    """Scores that have no noise are never sent instead."""
    with pytest.raises(UnsafeOutputError, match=says):
        add_noise(Laplace(0.05), key=KEY)(lambda x=1.0: answer)()


def test_a_path_to_scores_is_not_taken() -> None:
    """``truncate_output`` takes paths: the error says that noise does not."""
    noisy = add_noise(Laplace(0.05), key=KEY, scores="outputs.scores")
    with pytest.raises(UnsafeOutputError, match="takes no path"):
        noisy(lambda: {"outputs": {"scores": [0.5, 0.5]}})()


@dataclass
class Bare:
    other: int = 0


def test_a_dataclass_without_scores() -> None:
    """It may not leave either."""
    with pytest.raises(UnsafeOutputError, match="no field"):
        add_noise(Laplace(0.05), key=KEY)(lambda: Bare())()  # noqa: PLW0108  # a class is no endpoint


@pytest.mark.parametrize(
    ("inputs", "swapped"),
    [
        (np.array([[1.0], [2.0]]), np.array([[2.0], [1.0]])),
        ([[1.0], [2.0]], [[2.0], [1.0]]),
        (["a", "bb"], ["bb", "a"]),
        (np.array(["a", "bb"]), np.array(["bb", "a"])),
        ([Scored([1.0]), Scored([2.0])], [Scored([2.0]), Scored([1.0])]),
        (Body(rows=[[1.0], [2.0]]), Body(rows=[[2.0], [1.0]])),
    ],
    ids=str,
)
def test_rows_are_found_in_what_was_asked(inputs: Any, swapped: Any) -> None:
    """In arrays, lists of lists, of texts and of models, and in the fields of a pydantic model."""
    ask = add_noise(Laplace(0.05), key=KEY)(lambda x: [[0.5, 0.5]] * 2)
    one, other = ask(x=inputs)
    assert one != other
    assert ask(x=swapped) == [other, one]


@pytest.mark.parametrize("x", [np.array([1.0, 2.0]), [1.0, 2.0], "ab", {"a": 1, "b": 2}])
def test_rows_that_cannot_be_found(x: Any) -> None:
    """A vector of two features may be no two rows: noise would hang on one feature alone."""
    with pytest.raises(UnsafeOutputError, match="which input a row of scores belongs to"):
        add_noise(Laplace(0.05), key=KEY)(lambda x: [[0.5, 0.5]] * 2)(x=x)


class Optional(BaseModel):
    """A row with a field that may be left out."""

    a: Any
    b: float = 0.0
    _seen: int = PrivateAttr(default=0)


@dataclass
class Pair:
    """A row that is a dataclass."""

    a: Any
    b: float = 0.0


@pytest.mark.parametrize(
    "spellings",
    [
        [[1], [1.0], [True]],
        [[Decimal("1.0")], [Decimal("1.00")], [1]],
        [{"a": 1, "b": [2]}, {"a": 1.0, "b": [2.0]}],
        [Optional(a=1), Optional(a=1, b=0), Optional(a=1.0), Optional(a=True, b=-0.0)],
        [Pair(1), Pair(1.0, 0.0)],
    ],
    ids=str,
)
def test_no_spelling_of_an_input_has_noise_of_its_own(spellings: list[Any]) -> None:
    """Who could choose among many spellings of one row would average: 1 and 1.0, defaults sent and left out."""
    ask = add_noise(Laplace(0.05), key=KEY)(lambda x: [[0.5, 0.5]] * len(x))
    assert len({str(row) for row in ask(x=spellings)}) == 1
    assert len({str(ask(x=[spelling])) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1], [2]),
        (["1"], [1]),
        ([2**60], [2**60 + 1]),
        ([Decimal("NaN")], [Decimal(1)]),
        (Optional(a=1), Pair(1)),
        (Optional(a=1), Optional(a=1, b=1)),
    ],
)
def test_inputs_that_differ_have_noise_of_their_own(one: Any, other: Any) -> None:
    """The difference of two answers with one noise would be exact."""
    ask = add_noise(Laplace(0.05), key=KEY)(lambda x: [[0.5, 0.5]] * 2)
    first, second = ask(x=[one, other])
    assert first != second


def test_columns_share_no_noise_in_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that ask first at the same time agree on it: the difference of two columns would be exact."""
    both = threading.Barrier(2)
    blake2b = hashlib.blake2b

    def slow(**options: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            both.wait(1)
        return blake2b(**options)

    ask = add_noise(Laplace(0.05), key=KEY, renormalise=False)(lambda x: [[0.0] * 16])
    monkeypatch.setattr(hashlib, "blake2b", slow)
    with ThreadPoolExecutor(2) as threads:
        [*threads.map(lambda _: ask(x=1.0), range(2))]
    monkeypatch.undo()
    assert len(set(ask(x=1.0)[0])) == 16
    assert ask(x=1.0) == add_noise(Laplace(0.05), key=KEY, renormalise=False)(lambda x: [[0.0] * 16])(x=1.0)


def test_inputs_that_cannot_be_told_apart() -> None:
    """There would be one noise for all of them."""
    with pytest.raises(UnsafeOutputError, match="cannot tell one input from another"):
        add_noise(Laplace(0.05), key=KEY)(lambda x: [0.5, 0.5])(x=object())
    with pytest.raises(UnsafeOutputError, match="cannot tell one input from another"):
        add_noise(Laplace(0.05), key=KEY)(lambda x: [[0.5, 0.5]] * 2)(x=np.ma.masked_array(np.ones((2, 1))))


class Point(NamedTuple):
    x: float
    y: float


def test_whatever_holds_floats_is_rounded() -> None:
    """For the model too."""
    seen: list[Any] = []

    @add_noise(Laplace(0.05), key=KEY, input_decimals=1, inputs=["a", "b", "c", "d"])
    def ask(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
        seen[:] = [a, b, c, d, e]
        return [0.5, 0.5]

    ask(0.123, [1, (0.26, "x")], {"k": np.array([0.123, 7], "f4")}, Body(rows=[[0.123]]), 0.123)
    assert seen[0] == 0.1
    assert seen[1] == [1, (0.3, "x")]
    assert seen[2]["k"].dtype == np.float32
    assert seen[2]["k"].tolist() == [np.float32(0.1), 7]
    assert (seen[3], seen[4]) == (Body(rows=[[0.1]]), 0.123)
    ask([Pair(0.123)], Decimal("0.123"), Decimal("Infinity"), 0, 0)
    assert seen[:3] == [[Pair(0.1)], Decimal("0.1"), Decimal("Infinity")]
    ask(np.float64(0.123), None, np.array([3]), 2, 0)
    assert [type(value) for value in seen[:3]] == [np.float64, type(None), np.ndarray]
    assert seen[0] == 0.1
    with pytest.raises(UnsafeOutputError, match="cannot tell one input from another"):  # by its kind, after rounding
        ask(Point(0.123, 2.0), 0, 0, 0, 0)
    assert seen[0] == Point(0.1, 2.0)


@pytest.mark.parametrize("large", [1e305, -1e305, 2.0**1000])
def test_large_numbers_are_no_infinities_once_they_are_rounded(large: float) -> None:
    """The model would be given an infinity, which no guard has let in."""
    seen: list[Any] = []

    @add_noise(Laplace(0.05), key=KEY, input_decimals=6)
    def ask(a: Any, b: Any) -> Any:
        seen[:] = [a, b]
        return [0.5, 0.5]

    ask(large, np.array([large, 0.1234567]))
    assert seen[0] == large
    assert seen[1].tolist() == [large, 0.123457]


# In an app ------------------------------------------------------------------------------------------------------------


class Service:
    """The model behind all decorators."""

    def __init__(self, *, sync: bool = True, **options: Any) -> None:
        rows = Features(columns=4, low=-9, high=9, max_rows=100)
        self.app = FastAPI()
        harden(self.app)

        async def predict(x: Annotated[Rows, Depends(rows)]) -> Any:
            return {"probabilities": model(x)}

        def predict_in_thread(x: Annotated[Rows, Depends(rows)], tasks: BackgroundTasks, response: Response) -> Any:
            response.headers["x-mine"] = "yes"
            return {"probabilities": model(x)}

        noise = add_noise(Laplace(0.05), key=KEY, **options)
        self.app.post("/predict")(truncate_output(decimals=4)(noise(predict_in_thread if sync else predict)))
        self.app.post("/kept")(
            repeat_cache(key=OTHER_KEY, model_version="1")(truncate_output(decimals=4)(noise(predict)))
        )

    def ask(self, row: list[float], path: str = "/predict", client: str = "192.0.2.1") -> bytes:
        answer = call(
            self.app,
            path,
            headers=[(b"content-type", b"application/json")],
            chunks=[b'{"features": %s}' % str(row).encode()],
            client=(client, 1),
        )
        assert answer.status == 200, answer.body
        return answer.body


@pytest.mark.parametrize("sync", [True, False])
def test_in_an_app(*, sync: bool) -> None:
    """Below truncate_output, which rounds it; below repeat_cache, which keeps it; sync or async."""
    service = Service(sync=sync)
    assert service.ask([0.1, 0.2, 0.3, 0.4]) == service.ask([0.1, 0.2, 0.3, 0.4])
    assert service.ask([0.1, 0.2, 0.3, 0.4]) != service.ask([0.1, 0.2, 0.3, 0.5])
    assert service.ask([0.1, 0.2, 0.3, 0.4], "/kept") == service.ask([0.1, 0.2, 0.3, 0.4], "/kept")


def test_a_repeat_that_was_forgotten_is_the_same() -> None:
    """Keyed noise needs no memory: without the answer that was kept, it is drawn again as it was."""
    body = [0.1, 0.2, 0.3, 0.4]
    assert Service().ask(body, "/kept") == Service().ask(body, "/kept")


def test_by_hand() -> None:
    """Async endpoints stay async, and defaults are arguments too."""

    @add_noise(Laplace(0.05), key=KEY)
    async def predict(x: float = 1.0) -> Any:
        return [0.5, 0.5]

    assert asyncio.run(predict()) == asyncio.run(predict(1.0)) == asyncio.run(predict(x=1.0))


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", [Laplace, Gaussian])
@pytest.mark.parametrize("scale", [0, -1.0, math.inf, math.nan, "1", None, True])
def test_scales_that_cannot_work(mechanism: Any, scale: Any) -> None:
    """A scale is a number above 0."""
    with pytest.raises(ConfigurationError, match="above 0"):
        mechanism(scale)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key": None}, r"key=\.\.\."),
        ({"key": "short"}, r"key=\.\.\."),
        ({"scores": ""}, r"scores=\.\.\."),
        ({"keep_argmax": 1}, "True or False"),
        ({"renormalise": None}, "True or False"),
        ({"inputs": "x"}, "lists arguments"),
        ({"inputs": []}, "lists arguments"),
        ({"inputs": ["y"]}, "lists arguments"),
        ({"input_decimals": -1}, "from 0 to 15"),
        ({"input_decimals": 1.0}, "from 0 to 15"),
        ({"model_version": 1}, "model_version"),
        ({"ledger": EpsilonLedger("1/ever", store=MemoryStore())}, "only DPNoise has"),
        ({"mechanism": "laplace"}, "takes Laplace"),
        ({"mechanism": Laplace}, "takes Laplace"),
    ],
    ids=str,
)
def test_settings_that_cannot_work(options: dict[str, Any], says: str) -> None:
    """They stop the start-up, and say which they are."""
    with pytest.raises(ConfigurationError, match=says):
        add_noise(options.pop("mechanism", Laplace(1)), **{"key": KEY, **options})(lambda x: x)


def test_where_it_stands() -> None:
    """Next to the function, once, and neither on a stream nor on a WebSocket."""
    noise = add_noise(Laplace(1), key=KEY)

    def stream(x: int) -> Any:
        yield x

    async def astream(x: int) -> Any:
        yield x

    for endpoint in (truncate_output(lambda x: x), noise(lambda x: x)):
        with pytest.raises(ConfigurationError, match="stands once, next to the function"):
            noise(endpoint)
    for anything in (lambda *x: x, lambda **x: x):
        with pytest.raises(ConfigurationError, match="has a name"):
            noise(anything)
    for streaming in (stream, astream):
        with pytest.raises(ConfigurationError, match="no generator"):
            noise(streaming)

    async def socket(x: int, socket: WebSocket) -> None: ...

    with pytest.raises(ConfigurationError, match="WebSocket"):
        add_noise(Laplace(1), key=KEY, inputs=["x"])(socket)


def test_arguments_by_which_no_input_is_told() -> None:
    """An annotation that shows it stops the start-up, unless the model's inputs are named."""

    def predict(x: float, request: Request, response: Response, tasks: BackgroundTasks) -> Any:
        return [0.5, 0.5]

    with pytest.raises(ConfigurationError, match="by the argument 'request'"):
        add_noise(Laplace(1), key=KEY)(predict)
    add_noise(Laplace(1), key=KEY, inputs=["x"])(predict)
