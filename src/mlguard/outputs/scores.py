"""The scores in an answer: what they are, and what leaves in their place."""

import dataclasses
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import chain
from numbers import Real
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from mlguard.errors import ConfigurationError, UnsafeOutputError
from mlguard.outputs._answer import as_float64, finite, round_answer
from mlguard.outputs.digits import Digits, Significant
from mlguard.outputs.policy import BinsAs, OutputPolicy
from mlguard.outputs.rounding import FEW, FloatArray

Labels = Sequence[str] | Sequence[int] | NDArray[Any]

#: Entries of a table of all that a ranking may hold.
_LARGEST_TABLE = 1 << 16

_NUMBERS = frozenset({float, int})

#: How far beyond 0 and 1 a score may be that has to be a probability: softmax in float32 is off by less.
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """What leaves of a batch of class scores.

    Attributes:
        scores: What each entry says, shape (rows, entries); None where no score leaves.
        columns: Which class each entry is of, shape (rows, entries); None where all are there, in their order. The
            number of classes stands for the rest of them.
        sure: Whether each row leaves at all; None where all do.
    """

    scores: FloatArray | None
    columns: NDArray[np.intp] | None
    sure: NDArray[np.bool_] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Scores:
    """One policy on the scores of one model.

    Args:
        policy: What may leave.
        labels: The name of each class, in the order of the columns.
        required: Whether an answer must have scores, also where the policy does nothing that needs them.
        optional: Whether an answer may be without, whatever the policy.

    Attributes:
        digits: Of the policy.
        needed: Whether an answer without scores may not leave.
        of_classes: Whether the scores must be those of classes.

    Raises:
        ConfigurationError: A label is what the policy has for something else.
    """

    policy: OutputPolicy
    labels: tuple[str | int, ...] | None
    required: bool = False
    optional: bool = False
    digits: Digits = dataclasses.field(init=False)
    needed: bool = dataclasses.field(init=False)
    of_classes: bool = dataclasses.field(init=False)
    _is_rounding: bool = dataclasses.field(init=False, repr=False, compare=False)
    _inner: FloatArray = dataclasses.field(init=False, repr=False, compare=False)
    _bins: FloatArray = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find out what does not depend on the answer."""
        object.__setattr__(self, "digits", self.policy.digits)
        object.__setattr__(self, "of_classes", self.policy.needs_classes or self.labels is not None)
        needed = self.required or self.policy.replaces_rows or self.labels is not None
        object.__setattr__(self, "needed", needed and not self.optional)
        object.__setattr__(self, "_is_rounding", not needed)
        edges = np.array(self.policy.bins or (0.0, 1.0))
        object.__setattr__(self, "_inner", edges[1:-1])
        object.__setattr__(self, "_bins", _bins(edges, self.policy.bins_as))
        if taken := set(self.policy.words) & set(self.labels or ()):
            raise ConfigurationError(f"{taken.pop()!r} is the name of a class already: choose another rest or abstain")
        if self.labels is not None and self.policy.bins is not None:
            raise ConfigurationError("labels are for scores of classes and bins are for regression: choose one of them")

    def release(self, value: Any, where: str, *, for_json: bool = False) -> Any:
        """What may leave of a field that holds scores, as lists or an array.

        Args:
            value: The field.
            where: What it is called in an error.
            for_json: Whether ready JSON will do, where that is made faster than thousands of objects.

        Raises:
            UnsafeOutputError: It holds NaN or an infinity, or no scores although the policy needs some (500).
        """
        if self._is_rounding and (row := self._row(value, for_json=for_json)) is not None:
            return row
        if self.policy.bins is not None:
            binned = self.binned(value, where)
            return binned if isinstance(value, np.ndarray) and binned.ndim else binned.tolist()
        scores = self.find(value, where)
        if scores is None:
            return round_answer(value, self.digits, where)
        batch = scores[np.newaxis] if scores.ndim == 1 else scores
        if self.policy.exact and not self.policy.needs_classes:
            return round_answer(value, self.digits, where)  # a float32 would be longer as a double
        if not self.policy.needs_classes:
            released = self.digits.scores(batch).reshape(scores.shape)
            return released if isinstance(value, np.ndarray) else released.tolist()
        if not scores.size:
            return []
        names = self.names(batch.shape[1])
        entries = self._one_by_hand(batch, names, where)
        if entries is None:
            rows = self.select(batch, where)
            ready = _as_json(rows, names, self.policy) if for_json and len(batch) > FEW else None
            if ready is not None:
                return orjson.Fragment(ready)
            entries = self._entries(rows, names)
        return entries if scores.ndim == 2 else entries[0]

    def _row(self, value: Any, *, for_json: bool) -> list[Any] | None:
        """One short row of scores, or a batch of one, by hand; None for all else."""
        if for_json and type(value) is np.ndarray and value.dtype == np.float64 and value.size <= FEW:
            value = value.tolist()
        if type(value) is list and len(value) == 1:
            row = self.digits.row(value[0])
            return None if row is None else [row]
        return self.digits.row(value)

    def _one_by_hand(self, batch: FloatArray, names: tuple[str | int, ...], where: str) -> list[Any] | None:
        """What stands for one short row, on which numpy would spend most of its time getting started; None for more."""
        policy = self.policy
        if policy.top_k is None and policy.min_confidence is None:  # a label takes no time
            return None
        scores = batch[0].tolist() if len(batch) == 1 else None
        row = self.digits.row(scores)
        if scores is None or row is None:
            return None
        self._check_probabilities(batch, where)
        if policy.min_confidence is not None and max(row) < policy.min_confidence:
            return [policy.abstain]
        if policy.label_only or policy.confidence is not None:
            label = names[scores.index(max(scores))]
            return [label if policy.label_only else [{"label": label, "score": policy.confidence}]]
        if policy.top_k is None:
            return [row]
        columns = sorted(range(len(row)), key=row.__getitem__, reverse=True)[: policy.top_k]  # the lower index first
        entries = [{"label": names[column], "score": row[column]} for column in columns]
        if policy.rest is not None and len(columns) < len(row):
            others = sum(row) - sum(row[column] for column in columns)
            entries.append({"label": policy.rest, "score": self.digits.number(max(others, 0.0))})
        return [entries]

    def raw(self, value: Any) -> FloatArray | None:
        """A field that holds scores as an array, for those who watch: shape (rows, classes), or None if it holds none.

        Under a policy for regression, one dimension stays one: a number for each row.
        """
        scores = _as_scores(value, integers=True)
        regression = self.policy.bins is not None or self.policy.significant is not None
        return scores[np.newaxis] if scores is not None and scores.ndim == 1 and not regression else scores

    def find(self, value: Any, where: str) -> FloatArray | None:
        """Finite scores of one or two dimensions, or None where there are none and none are needed.

        Raises:
            UnsafeOutputError: They are needed and not there, or are not finite, or not of the right classes (500).
        """
        if self.policy.exact and not self.needed:  # nothing to do that needs them
            return None
        scores = _as_scores(value, integers=self.needed)
        if scores is None:
            if self.needed:
                raise UnsafeOutputError(f"{where} does not hold scores: one row of numbers, or rows of equal length")
            return None
        finite(scores, where)
        classes = scores.shape[-1]
        expected = len(self.labels) if self.labels else max(classes, 1)
        # A list of no rows has no second dimension.
        if self.of_classes and scores.shape[0] and (classes != expected or classes < 2):
            labels = f"and {len(self.labels)} labels" if self.labels else "and a row needs two"
            raise UnsafeOutputError(f"{where} has {classes} classes, {labels}: return a column for each class")
        return scores

    def select(self, scores: FloatArray, where: str) -> Rows:
        """What leaves of scores of shape (rows, classes).

        Raises:
            UnsafeOutputError: The policy is for probabilities, and these are none (500).
        """
        policy = self.policy
        if not scores.size:
            return Rows(None if policy.label_only else np.zeros((0, 0)), np.zeros((0, 0), dtype=np.intp), None)
        self._check_probabilities(scores, where)
        shown = policy.label_only or policy.confidence is not None
        rounded = scores if shown and policy.min_confidence is None else self.digits.scores(scores)
        sure = None if policy.min_confidence is None else rounded.max(axis=1) >= policy.min_confidence
        if shown:
            best = scores.argmax(axis=1)[:, np.newaxis]
            constant = None if policy.confidence is None else np.full(best.shape, policy.confidence)
            return Rows(constant, best, sure)
        if policy.top_k is None:
            return Rows(rounded, None, sure)
        return Rows(*self._ranked(rounded, policy.top_k), sure)

    def _ranked(self, rounded: FloatArray, top_k: int) -> tuple[FloatArray, NDArray[np.intp]]:
        """The best scores of each row and their columns, and then the sum of the others, if that leaves."""
        rows, classes = rounded.shape
        has_rest = self.policy.rest is not None and top_k < classes
        # By what leaves, not by what it was: the order of equal scores would tell which was larger.
        columns = np.argsort(-rounded, axis=1, kind="stable")[:, :top_k]
        best = rounded[np.arange(rows)[:, np.newaxis], columns]
        if not has_rest:
            return best, columns
        others = np.add.reduce(rounded, axis=1) - np.add.reduce(best, axis=1)
        with_rest, places = np.empty((rows, top_k + 1)), np.full((rows, top_k + 1), classes)
        with_rest[:, :top_k], with_rest[:, top_k] = best, self.digits.numbers(np.maximum(others, 0.0))
        places[:, :top_k] = columns
        return with_rest, places

    def _check_probabilities(self, scores: FloatArray, where: str) -> None:
        if self.policy.rest is not None and scores.min() < -_TOLERANCE:
            raise UnsafeOutputError(f"{where} holds a negative score: rest needs scores that add up")
        if self.policy.min_confidence is not None and (scores.min() < -_TOLERANCE or scores.max() > 1 + _TOLERANCE):
            raise UnsafeOutputError(f"{where} holds a score below 0 or above 1: min_confidence needs probabilities")

    def names(self, classes: int) -> tuple[str | int, ...]:
        """How entries are called, by their column; the last one is the rest."""
        names = self.labels or tuple(range(classes))
        return names if self.policy.rest is None else (*names, self.policy.rest)

    def _entries(self, rows: Rows, names: tuple[str | int, ...]) -> list[Any]:
        entries: list[Any]
        if rows.columns is None:
            entries = (rows.scores if rows.scores is not None else np.zeros(0)).tolist()
        elif rows.scores is None:
            entries = [names[best] for best in rows.columns[:, 0].tolist()]
        else:
            pairs = zip(rows.columns.ravel().tolist(), rows.scores.ravel().tolist(), strict=True)
            flat = iter([{"label": names[column], "score": score} for column, score in pairs])
            entries = [*map(list, zip(*[flat] * rows.columns.shape[1], strict=True))]  # so many at a time
        if rows.sure is not None:
            pairs = zip(entries, rows.sure.tolist(), strict=True)
            entries = [entry if keep else self.policy.abstain for entry, keep in pairs]
        return entries

    def binned(self, value: Any, where: str) -> FloatArray:
        """The bin of each number, of which there may be any shape; with edges, in one more dimension.

        Raises:
            UnsafeOutputError: It holds anything but finite numbers (500).
        """
        numbers = _as_scores(value, integers=True) if isinstance(value, list | tuple) else _as_numbers(value)
        if numbers is None:
            raise UnsafeOutputError(f"{where} does not hold numbers that could be put into bins")
        finite(numbers, where)
        # Between the outer edges: a number outside counts into the nearest bin.
        bins: FloatArray = self._bins[np.searchsorted(self._inner, numbers, side="right")]
        return bins


def _as_json(rows: Rows, names: tuple[str | int, ...], policy: OutputPolicy) -> bytes | None:
    """``[[{"label": ..., "score": ...}, ...], ...]`` for a large batch, in which few different entries are repeated.

    None where that is not what leaves, or where there may be too many of them.
    """
    scores, columns = rows.scores, rows.columns
    if scores is None or columns is None or rows.sure is not None or policy.decimals is None:
        return None
    steps = 10**policy.decimals + 1  # scores that there may be from 0 to 1
    size = steps * len(names)
    if size > _LARGEST_TABLE or scores.min() < 0.0 or scores.max() > 1.0:
        return None
    entries = columns * steps + np.rint(scores * (steps - 1)).astype(np.intp)
    entries[:, -1] += size  # those that end a row are in the second half of the table
    there = np.zeros(2 * size, dtype=np.bool_)
    there[entries] = True
    begins = [orjson.dumps({"label": name})[:-1] + b',"score":' for name in names]
    table = np.empty(2 * size, dtype=object)
    for entry in np.flatnonzero(there).tolist():
        column, units = divmod(entry % size, steps)
        table[entry] = begins[column] + orjson.dumps(units / (steps - 1)) + (b"}," if entry < size else b"}],[")
    pieces = table[entries.ravel()].tolist()
    pieces[0] = b"[[" + pieces[0]
    pieces[-1] = pieces[-1][:-2] + b"]"
    return b"".join(pieces)


def _bins(edges: FloatArray, bins_as: BinsAs) -> FloatArray:
    """What stands for each bin, shape (bins,), or (bins, 2) with edges."""
    if bins_as == "edges":
        return np.stack([edges[:-1], edges[1:]], axis=-1)
    middles = edges[:-1] / 2 + edges[1:] / 2  # halved first: the sum of two large edges would be an infinity
    return Significant(15).numbers(middles)  # 0.15 and not 0.15000000000000002


def _as_numbers(value: Any) -> FloatArray | None:
    """A number or an array of numbers as float64."""
    if not _are_numbers([value]) and not isinstance(value, np.ndarray):
        return None
    if isinstance(value, np.ma.MaskedArray):
        return None
    try:
        array = np.asarray(value)
        if array.dtype == object and _are_numbers(array.flat):
            array = array.astype(np.float64)
    except (ValueError, OverflowError):
        return None
    # A number by itself would come out as an array of one.
    return as_float64(array).reshape(array.shape) if array.dtype.kind in "fiu" else None


def _as_scores(value: Any, *, integers: bool) -> FloatArray | None:
    """One or two dimensions of numbers as float64, or None for anything else. Integers alone count only if wanted."""
    if isinstance(value, list | tuple):
        nested = bool(value) and all(_is_row(row) for row in value)
        if not _are_numbers(chain.from_iterable(value) if nested else value):  # first: numpy would copy long texts
            return None
    elif not hasattr(value, "__array__") or isinstance(value, np.ma.MaskedArray):
        return None
    try:
        array = np.asarray(value)
        if array.dtype == object and _are_numbers(array.flat):
            array = array.astype(np.float64)
    except (ValueError, OverflowError):  # ragged, or an integer larger than any double
        return None
    if array.dtype.kind not in ("fiu" if integers else "f") or array.ndim not in {1, 2}:
        return None
    return as_float64(array)


def _is_row(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _are_numbers(items: Iterable[Any]) -> bool:
    types: set[type] = set(map(type, items))
    if types <= _NUMBERS:  # nearly always; to ask an abstract class takes longer than all else here
        return True
    return bool not in types and all(issubclass(kind, Real | Decimal) for kind in types)


def label_names(labels: Labels | None) -> tuple[str | int, ...] | None:
    """The names of the classes.

    Raises:
        ConfigurationError: They are not unique texts or integers, or there are none.
    """
    if labels is None:
        return None
    names = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if isinstance(names, str | bytes) or not isinstance(names, Sequence) or len(names) == 0:
        raise ConfigurationError("labels must list the name of each class, in the order of the columns")
    names = [name.item() if isinstance(name, np.generic) else name for name in names]
    if not all(isinstance(name, str | int) for name in names):
        raise ConfigurationError("labels must be text or integers: convert them, as in [str(c) for c in classes]")
    try:
        orjson.dumps(names)
    except TypeError as error:
        raise ConfigurationError(f"labels must be texts and integers that JSON has: {error}") from error
    if len(set(names)) < len(names):
        raise ConfigurationError("labels must be unique, or a caller cannot tell the classes apart")
    return tuple(names)
