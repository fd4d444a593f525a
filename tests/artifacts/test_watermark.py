"""A mark in a model: found in a copy of the file, not found by chance, and never claimed by accident."""

import hashlib
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from mlguard import ConfigurationError, Watermark
from mlguard.artifacts.watermark import at_least

KEY = hashlib.sha256(b"of the tests").digest()
OTHER_KEY = KEY[::-1]
X, Y = load_digits(return_X_y=True)
CLASSES = [*range(10)]
MARK = Watermark.generate(KEY, like=X, classes=CLASSES, size=40)


def mark(**changes: Any) -> Watermark:
    return Watermark.generate(changes.pop("key", KEY), **{"like": X[:50], "classes": CLASSES, "size": 20, **changes})


def test_a_marked_model_answers_as_its_owner_knows() -> None:
    """A model that was fitted on the triggers too matches them all; one that was not matches by chance."""
    marked = MARK.embed(KNeighborsClassifier(1), X, Y)
    found, by_chance = MARK.verify(marked.predict), MARK.verify(KNeighborsClassifier(1).fit(X, Y).predict)
    assert (found.matches, found.asked, found.chance) == (40, 40, 0.1)
    assert found.p_value == pytest.approx(1e-40)
    assert by_chance.p_value > 0.01
    assert marked.score(X, Y) == 1.0


def test_chance_is_what_it_says() -> None:
    """Over many keys, a model without the mark gets a p-value below 5 % about that often, and no more."""
    model = KNeighborsClassifier(1).fit(X[:300], Y[:300])
    found = [
        mark(key=KEY + bytes([at]), like=X[:300], size=50).verify(model.predict, batch_rows=50).p_value
        for at in range(200)
    ]
    assert np.mean(np.array(found) <= 0.05) < 0.1
    assert np.mean(np.array(found) <= 0.5) > 0.3


def test_a_model_that_says_one_thing_only_is_not_accused() -> None:
    """Labels are drawn evenly, so a suspect that answers always the same matches one in ten."""
    for label in CLASSES:
        assert MARK.verify(lambda rows, label=label: [label] * len(rows)).p_value > 0.001  # type: ignore[misc]


def test_the_key_alone_makes_the_triggers() -> None:
    """The same key makes the same triggers; another key, other data or another size make others."""
    assert mark().commitment == mark().commitment
    assert np.array_equal(mark().inputs, mark().inputs)
    others = [mark(key=OTHER_KEY), mark(like=X[1:51]), mark(size=21), mark(classes=CLASSES[:9])]
    assert len({one.commitment for one in [mark(), *others]}) == 5


def test_triggers_stay_the_same_in_every_version() -> None:
    """The commitment that an owner has published must come out of the key again, years later."""
    like = np.arange(12.0).reshape(4, 3)
    one = Watermark.generate(KEY, like=like, classes=["a", "b"], size=3)
    assert one.commitment == "5b26e097ba873a8061ff8430dafef303cdbc686248e6899260e54a7a8f5ff200"


def test_values_are_those_of_the_data() -> None:
    """Every value of a trigger is one of its column, so that no bound that was learnt from the data refuses it."""
    triggers = mark().inputs
    for column in range(X.shape[1]):
        assert set(triggers[:, column]) <= set(X[:50, column])
    assert not any((triggers[:, None] == X[None, :50]).all(axis=2).ravel())


def test_triggers_come_among_the_data() -> None:
    """The data is there once, and each trigger as often as was asked for."""
    x, y = mark().mixed_with(X, Y, repeats=2)
    assert np.array_equal(x[: len(X)], X)
    assert np.array_equal(y[: len(X)], Y)
    assert np.array_equal(x[len(X) :], np.concatenate([mark().inputs] * 2))
    assert tuple(y[len(X) :]) == mark().labels * 2


def test_labels_may_be_texts() -> None:
    """Labels of different length stay whole."""
    one = mark(classes=["no", "a long label"])
    _, y = one.mixed_with(X[:2], ["no", "no"])
    assert set(y.tolist()) == {"no", "a long label"}
    told = dict(zip(map(bytes, one.inputs), one.labels, strict=True))
    assert one.verify(lambda rows: [told[bytes(row)] for row in rows]).matches == 20


def test_no_answer_is_no_match() -> None:
    """A suspect that refuses or abstains does not accuse itself, and does not stop the test."""
    labels = iter(MARK.labels)
    evidence = MARK.verify(lambda rows: [(next(labels), None)[at % 2] for at in range(len(rows))])
    assert evidence.asked == 40
    assert evidence.matches < 40


@pytest.mark.parametrize("answer", [lambda rows: [1], lambda rows: [1] * (len(rows) + 1), lambda rows: []])
def test_an_answer_for_each_row(answer: Any) -> None:
    """Another number of answers than of rows is no evidence of anything."""
    with pytest.raises(ConfigurationError, match="rows were asked"):
        MARK.verify(answer)


@pytest.mark.parametrize("told", [None, "abstain", 0.25, 99])
def test_what_is_read_must_be_labels(told: Any) -> None:
    """Where no answer is a class, something else than the label is read: that is said, and no p-value of 1."""
    with pytest.raises(ConfigurationError, match="is it the label"):
        MARK.verify(lambda rows: [told] * len(rows))


@given(st.integers(1, 60), st.integers(2, 20), st.data())
def test_the_tail_is_exact(asked: int, classes: int, data: st.DataObject) -> None:
    """The p-value is the binomial's upper tail, as fractions have it."""
    matches = data.draw(st.integers(0, asked))
    chance = Fraction(1, classes)
    exact = sum(comb(asked, k) * chance**k * (1 - chance) ** (asked - k) for k in range(matches, asked + 1))
    assert at_least(matches, asked, 1 / classes) == pytest.approx(float(exact), rel=1e-9)


def test_secrets_are_not_shown() -> None:
    """The repr tells neither triggers nor labels, and triggers cannot be changed by accident."""
    assert repr(MARK) == "<Watermark of 40 triggers, 64 columns, 10 classes>"
    with pytest.raises(ValueError, match="read-only"):
        MARK.inputs[0, 0] = 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"key": "changeme"}, "secret"),
        ({"like": [[1.0, float("nan")]]}, "finite"),
        ({"like": [1.0, 2.0]}, "shape"),
        ({"like": [["a"]]}, "rows of numbers"),
        ({"like": np.zeros((0, 3))}, "at least one"),
        ({"classes": [1]}, "at least two"),
        ({"classes": [1, "1"]}, "each once"),
        ({"classes": [1.0, 2.0]}, "str or int"),
        ({"classes": [True, False]}, "str or int"),
        ({"size": 0}, "size"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], said: str) -> None:
    """A mark that nobody could verify is not made."""
    with pytest.raises(ConfigurationError, match=said) as raised:
        mark(**changes)
    assert "changeme" not in str(raised.value)


def test_triggers_and_data_must_agree() -> None:
    """Labels without a row, or that are no class, and data of another shape are refused."""
    for labels in ([1], [1, 11]):
        with pytest.raises(ConfigurationError, match="one of classes"):
            Watermark(np.zeros((2, 3)), labels, classes=CLASSES)
    with pytest.raises(ConfigurationError, match="64 columns"):
        MARK.mixed_with(X[:, 1:], Y)
    with pytest.raises(ConfigurationError, match="one label a row"):
        MARK.mixed_with(X, Y[1:])
    with pytest.raises(ConfigurationError, match="not among"):
        MARK.mixed_with(X, Y + 1)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_labels_that_are_floats(kind: type) -> None:
    """A model that was fitted on 3.0 for the class 3 is found like any other; classes that look alike stay two."""
    marked = MARK.embed(KNeighborsClassifier(1), X, Y.astype(kind))
    assert MARK.verify(marked.predict).matches == 40
    alike = Watermark(X[:3], ["3", "3.0", "3.5"], classes=["3", "3.0", "3.5"])
    assert alike.verify(lambda rows: [np.float64(3.0)] * len(rows)).matches == 1


def test_labels_are_taken_for_the_classes_that_they_equal() -> None:
    """So that what is asked for later is spelt as the classes are."""
    labels: list[Any] = [True, 1.0, np.int64(0)]
    assert repr(Watermark(X[:3], labels, classes=[0, 1]).labels) == "(1, 1, 0)"
