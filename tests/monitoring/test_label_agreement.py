"""What a model and neighbours say of a label."""

from typing import Any

import numpy as np
import pytest

from mlguard.errors import ConfigurationError
from mlguard.inputs.features import Features
from mlguard.inputs.labelled_rows import Classes
from mlguard.monitoring import _label_agreement
from mlguard.monitoring._label_agreement import ModelOpinion, Neighbours

CLASSES = Classes(["b", "a", "c"], where="test")
RULES = Features(columns=2, low=-1e6, high=1e6, max_rows=1_000).rules
RANDOM = np.random.default_rng(1)
PLACES = np.array([[0.0, 0.0], [100.0, 1.0], [0.0, 2.0]])  # of the classes b, a and c
CODES = RANDOM.integers(0, 3, 600)
X = PLACES[CODES] + RANDOM.normal(size=(600, 2)) * [1.0, 0.01]
Y = np.array(CLASSES.labels)[CODES]


class Sorted:
    """A model whose probabilities are in the order of its classes, as scikit-learn has it."""

    classes_ = np.array(["a", "b", "c"])

    def predict_proba(self, x: Any) -> Any:
        return np.tile([0.7, 0.2, 0.1], (len(x), 1))


class Others(Sorted):
    classes_ = np.array(["a", "b"])


def neighbours(x: Any = X, y: Any = Y, *, rules: Any = RULES, count: int = 10, max_rows: int = 5_000) -> Neighbours:
    return Neighbours(x, y, classes=CLASSES, rules=rules, count=count, max_rows=max_rows, where="test")


def codes(*labels: str) -> Any:
    return np.array([CLASSES.code(label) for label in labels], np.intp)


def test_probabilities_are_in_the_order_of_the_model() -> None:
    """A model sorts its classes, whatever order the labels were given in."""
    opinion = ModelOpinion(Sorted().predict_proba, CLASSES, where="test")
    assert opinion.support(X[:3], codes("a", "b", "c")).tolist() == [0.7, 0.2, 0.1]


def test_probabilities_of_a_function_are_in_the_order_of_the_labels() -> None:
    """A function has no classes."""
    opinion = ModelOpinion(lambda x: Sorted().predict_proba(x).astype(np.float32), CLASSES, where="test")
    assert opinion.support(X[:3], codes("a", "b", "c")).tolist() == pytest.approx([0.2, 0.7, 0.1])


def test_a_model_may_say_labels_alone() -> None:
    """What it says is supported, and nothing else."""
    opinion = ModelOpinion(lambda x: np.array(["a", "b", "?"]), CLASSES, where="test")
    assert opinion.support(X[:3], codes("a", "c", "c")).tolist() == [1.0, 0.0, 0.0]


def test_a_model_with_other_classes_is_no_judge() -> None:
    """It is refused when the guard is built."""
    with pytest.raises(ConfigurationError, match="classes_ of the model"):
        ModelOpinion(Others().predict_proba, CLASSES, where="test")
    with pytest.raises(ConfigurationError, match="classes_ of the model"):
        ModelOpinion(Sorted().predict_proba, Classes(["a", "b", "d"], where="test"), where="test")


class Yes(Sorted):
    classes_ = np.array([False, True])

    def predict_proba(self, x: Any) -> Any:
        return np.tile([0.3, 0.7], (len(x), 1))


def test_a_model_that_has_learnt_booleans() -> None:
    """They are labels as others are, and neither 0 nor 1."""
    opinion = ModelOpinion(Yes().predict_proba, Classes([True, False], where="test"), where="test")
    assert opinion.support(X[:2], np.array([0, 1])).tolist() == [0.7, 0.3]
    with pytest.raises(ConfigurationError, match=r"give it labels=model\.classes_, in which the number 1"):
        ModelOpinion(Yes().predict_proba, Classes([0, 1], where="test"), where="test")


async def asynchronous(x: Any) -> Any:
    return x


@pytest.mark.parametrize("predict", [None, "predict", Sorted, asynchronous])
def test_what_is_no_function(predict: Any) -> None:
    """A class, or a function that would have to be awaited, cannot be called in a thread."""
    with pytest.raises(ConfigurationError, match=r"predict=\.\.\."):
        ModelOpinion(predict, CLASSES, where="test")


@pytest.mark.parametrize(
    "said", [np.ones((3, 2)), np.ones((3, 3), int), np.ones((2, 3)), np.ones((3, 3, 1)), 1.0, None]
)
def test_what_says_nothing_of_the_labels(said: Any) -> None:
    """Another shape would be read as something that it does not mean."""
    with pytest.raises(ConfigurationError, match="returned neither"):
        ModelOpinion(lambda x: said, CLASSES, where="test").support(X[:3], codes("a", "b", "c"))


def test_neighbours_support_the_label_of_their_place() -> None:
    """Columns count by how they vary: the second one tells two classes apart although its numbers are small."""
    support, far = neighbours().ask(np.concatenate([PLACES, PLACES]), codes("b", "a", "c", "c", "b", "a"))
    assert support.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert not far.any()


def test_what_is_like_nothing_is_far() -> None:
    """Of rows unlike all others, nobody knows the label."""
    _, far = neighbours().ask(np.array([[50.0, 1.0], [1e6, -1e6], [0.0, 0.0]]), codes("a", "a", "b"))
    assert far.tolist() == [True, True, False]


@pytest.mark.parametrize("at_a_time", [1, 6_000, 10**6])
def test_many_rows_are_asked_in_pieces(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are those of one row at a time, however many fit into the memory that there is for them."""
    monkeypatch.setattr(_label_agreement, "_AT_A_TIME", at_a_time)
    one_by_one = [neighbours().ask(X[at : at + 1], CODES[at : at + 1]) for at in range(0, 600, 60)]
    support, far = neighbours().ask(X, CODES)
    assert [one.item() for one, _ in one_by_one] == support[::60].tolist()
    assert [one.item() for _, one in one_by_one] == far[::60].tolist()


def test_no_more_rows_are_kept_than_may_be() -> None:
    """Each class keeps its share, and a rare one is not lost."""
    rare = np.array([0] * 500 + [1] * 99 + [2])
    kept = neighbours(X, np.array(CLASSES.labels)[rare], max_rows=60)._codes
    assert np.bincount(kept).tolist() == [50, 9, 1]


def test_what_is_missing_is_ordinary() -> None:
    """A value that is not there says nothing, in the reference or in what was sent."""
    rules = Features(columns=2, low=-1e6, high=1e6, max_rows=9, missing=[1]).rules
    x = X.copy()
    x[::7, 1] = np.nan
    support, far = neighbours(x, rules=rules).ask(np.array([[100.0, np.nan]]), codes("a"))
    assert support.tolist() == [1.0]
    assert not far.any()
    with pytest.raises(ConfigurationError, match="NaN"):
        neighbours(x)


def test_tensors_and_columns_that_never_vary() -> None:
    """Rows of any shape are compared value by value."""
    rules = Features(shape=(2, 2), low=-1e6, high=1e6, max_rows=9).rules
    x = np.concatenate([X, np.ones((600, 2))], axis=1).reshape(600, 2, 2)
    support, _ = neighbours(x, rules=rules).ask(x[:5], CODES[:5])
    assert support.tolist() == [1.0] * 5


@pytest.mark.parametrize("constant", [0.1, 0.0, 1e6])
def test_a_column_that_never_varies_makes_nothing_far(constant: float) -> None:
    """Also where the mean of its numbers is another one than they are, by the last digit."""
    rules = Features(columns=3, low=-1e6, high=1e6, max_rows=9).rules
    x = np.column_stack([X, np.full(600, constant)])
    sent = x[:5] + np.array([0, 0, 1e-3])
    support, far = neighbours(x, rules=rules).ask(sent, CODES[:5])
    assert support.tolist() == [1.0] * 5
    assert not far.any()


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y[:-1]), (X[:, :1], Y), (X[0], Y), (X, Y[:, np.newaxis]), ("x", Y), (X, None), ([[1, 2], [3]], Y),
        (np.where(X > 90, np.inf, X), Y), (X[:19], Y[:19]), (X, CODES), (X, np.where(Y == "a", "?", Y)),
    ],
)  # fmt: skip
def test_references_that_cannot_work(x: Any, y: Any) -> None:
    """A reference is finite rows of the right shape, enough of them, with labels that there are."""
    with pytest.raises(ConfigurationError, match=r"test\(reference"):
        neighbours(x, y)
