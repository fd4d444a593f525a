"""What a model and the neighbours of a row say of a label that somebody has sent for it."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlguard.errors import ConfigurationError
from mlguard.inputs.labelled_rows import Classes, plain_label
from mlguard.inputs.row_rules import RowRules, Rows

#: Takes rows as the service's own predictions do; gives probabilities, shape (rows, classes), or a label for each row.
Predict = Callable[[Rows], Any]
Codes = NDArray[np.intp]
Support = NDArray[np.float64]

_AT_A_TIME = 1_280_000  # distances: those of 256 rows to 5 000 others, which take 10 MB
_SAMPLE = 5_000  # rows of the reference that say how far apart rows of it are
_ROUNDING = 1e-9  # of the largest number in a column: what varies by less is constant
_MOST_DEVIATIONS = 10.0  # from the mean of a column: one value in a column that hardly varies is not everything


class ModelOpinion:
    """How probable a model finds a label.

    Args:
        predict: The model.
        classes: The labels.
        where: Whose setting it is, for errors.

    Raises:
        ConfigurationError: No function, one that is to be awaited, or the method of a model with other classes.
    """

    def __init__(self, predict: Predict, classes: Classes, *, where: str) -> None:
        if not callable(predict) or isinstance(predict, type) or inspect.iscoroutinefunction(predict):
            raise ConfigurationError(f"{where}(predict=...) is a function such as model.predict_proba, and not async")
        self._predict = predict
        self._classes = classes
        self._where = where
        self._columns = self._columns_of(getattr(getattr(predict, "__self__", None), "classes_", None))

    def _columns_of(self, known: Any) -> Codes:
        """Where the model has the probability of each class: scikit-learn sorts them."""
        if known is None:
            return np.arange(len(self._classes.labels))
        codes = [self._classes.code(plain_label(label)) for label in known]
        if None in codes or len(codes) != len(self._classes.labels):
            raise ConfigurationError(
                f"{self._where}(labels=...) are not the classes_ of the model in predict=: give it "
                "labels=model.classes_, in which the number 1, the text 1 and True are three labels"
            )
        return np.argsort(np.array(codes, np.intp))

    def support(self, x: Rows, codes: Codes) -> Support:
        """The probability of each label; of a model that gives labels alone, 1 or 0.

        Raises:
            ConfigurationError: The model gives neither.
        """
        said = np.asarray(self._predict(x))
        if said.shape == (len(x), len(self._columns)) and said.dtype.kind == "f":
            return said[np.arange(len(x)), self._columns[codes]].astype(np.float64)
        if said.shape == (len(x),):
            same = [self._classes.code(label) == code for label, code in zip(said.tolist(), codes, strict=True)]
            return np.array(same, np.float64)
        raise ConfigurationError(
            f"{self._where}(predict=...) returned neither floats of shape (rows, {len(self._columns)}) nor a label for "
            "each row"
        )


class Neighbours:
    """The rows of a reference that are nearest to a row, and their labels.

    Distances are Euclidean, in standard deviations of each column of the reference. What is missing is its mean.

    Args:
        x: Rows whose labels were reviewed, shape ``(rows, columns)`` or ``(rows, *shape)``.
        y: Their labels.
        classes: The labels that there are.
        rules: What the rows must be.
        count: How many neighbours are asked.
        max_rows: How many rows are kept. Of more, each class keeps its share of them, drawn at random.
        where: Whose setting it is, for errors.

    Raises:
        ConfigurationError: No such rows, a label that is none, or hardly more rows than neighbours.
    """

    def __init__(
        self, x: ArrayLike, y: ArrayLike, *, classes: Classes, rules: RowRules, count: int, max_rows: int, where: str
    ) -> None:
        rows, codes = self._checked(x, y, classes, rules, where)
        if len(rows) < 2 * count:
            raise ConfigurationError(
                f"{where}(reference=...) has too few rows: {2 * count} are needed, better hundreds"
            )
        if len(rows) > max_rows:
            kept = _share_of_each(codes, max_rows)
            rows, codes = rows[kept], codes[kept]
        self._mean, self._deviation = _moments(rows)
        self._count = count
        self._codes = codes
        self._rows = self._scaled(rows)
        self._squares = np.einsum("ij,ij->i", self._rows, self._rows)
        sample = np.random.default_rng(0).permutation(len(rows))[:_SAMPLE]
        #: How far the last of the neighbours may be. None of these rows is further from its own.
        self.farthest = float(self._nearest(self._rows[sample], but=sample)[1].max())

    @staticmethod
    def _checked(x: ArrayLike, y: ArrayLike, classes: Classes, rules: RowRules, where: str) -> tuple[Rows, Codes]:
        try:
            rows, labels = np.asarray(x, np.float64), np.asarray(y)
        except (TypeError, ValueError):
            rows, labels = np.empty(0), np.empty(0)
        if labels.ndim != 1 or rows.shape != (*labels.shape, *rules.shape) or np.isinf(rows).any():
            raise ConfigurationError(
                f"{where}(reference=...) is a pair: finite numbers of shape (rows, "
                f"{', '.join(map(str, rules.shape))}), and a label for each row"
            )
        codes = [classes.code(label) for label in labels.tolist()]
        if None in codes:
            raise ConfigurationError(
                f"{where}(reference=...) has a label that is none of labels=, in which the number 1, the text 1 and "
                "True are three labels"
            )
        flat = rows.reshape(len(rows), rules.columns)
        if np.isnan(flat[:, [column for column in range(rules.columns) if column not in rules.missing]]).any():
            raise ConfigurationError(f"{where}(reference=...) has NaN where nothing may be missing")
        return flat, np.array(codes, np.intp)

    def _scaled(self, rows: Rows) -> Rows:
        deviations = (rows - self._mean) / self._deviation
        return np.clip(np.nan_to_num(deviations), -_MOST_DEVIATIONS, _MOST_DEVIATIONS)

    def ask(self, x: Rows, codes: Codes) -> tuple[Support, NDArray[np.bool_]]:
        """The share of the neighbours of each row that have its label, and which rows are far from all of them."""
        nearest, distance = self._nearest(self._scaled(x.reshape(len(x), -1).astype(np.float64)))
        return np.mean(self._codes[nearest] == codes[:, np.newaxis], axis=1), distance > self.farthest

    def _nearest(self, rows: Rows, *, but: Codes | None = None) -> tuple[Codes, Rows]:
        """The places of the nearest rows, and the distance of the last of them. ``but``: the places of the rows."""
        places, distances = [], []
        step = max(1, _AT_A_TIME // len(self._rows))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            squares = self._squares - 2 * some @ self._rows.T + np.einsum("ij,ij->i", some, some)[:, np.newaxis]
            if but is not None:
                squares[np.arange(len(some)), but[start : start + step]] = np.inf
            nearest = np.argpartition(squares, self._count - 1, axis=1)[:, : self._count]
            places.append(nearest)
            distances.append(np.take_along_axis(squares, nearest, axis=1).max(axis=1))
        return np.concatenate(places), np.sqrt(np.maximum(np.concatenate(distances), 0.0))


def _moments(rows: Rows) -> tuple[Rows, Rows]:
    """The mean and the standard deviation of each column, of the values that are there. 1 where nothing varies.

    The mean of equal numbers is not always exactly one of them, so a constant may seem to vary by its last digit.
    """
    known = ~np.isnan(rows)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, rows, 0.0).sum(axis=0) / count
    deviation = np.sqrt((np.where(known, rows - mean, 0.0) ** 2).sum(axis=0) / count)
    largest = np.abs(np.where(known, rows, 0.0)).max(axis=0)
    return mean, np.where(deviation > _ROUNDING * largest, deviation, 1.0)


def _share_of_each(codes: Codes, most: int) -> Codes:
    """Places of rows, of each class its share of so many, and one at least."""
    drawn = np.random.default_rng(0).permutation(len(codes))
    kept = []
    for code in np.unique(codes):
        mine = drawn[codes[drawn] == code]
        kept.append(mine[: max(1, len(mine) * most // len(codes))])
    return np.sort(np.concatenate(kept))
