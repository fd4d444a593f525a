"""What traffic is compared with: histograms, in a JSON file beside the model. Reading one runs nothing."""

import itertools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlguard._files import open_regular, replace_file
from mlguard._numbers import whole
from mlguard._strict_json import strict_json
from mlguard.errors import ConfigurationError
from mlguard.monitoring._histograms import Floats, Histograms, cut, with_counts

#: What a histogram may be of.
Of = Literal["input", "output", "classes", "latency"]
#: ``probabilities`` and ``scores`` have one column for each class, ``values`` are those of a regression.
Kind = Literal["probabilities", "scores", "values"]

FEWEST_ROWS = 100
_FEW_CLASSES = 20
_MOST_CLASSES = 1_000
_MOST_COLUMNS = 100_000
_LARGEST = 1 << 26  # bytes
_MOST_CELLS = 10_000_000  # of a table as long as the longest column: more than 100 000 columns in 50 bins have
_MOST_ROWS = 1 << 48


@dataclass(frozen=True, slots=True, eq=False)
class DriftReference:
    """How the data were on which a model is known to work: one histogram for each column. No row is in it.

    It is made by :meth:`learn`, and kept in a file beside the model. Who can change that file can hide drift, or cause
    alarms: sign it with the model. A bin's share and edges say roughly how a column is spread, and an edge is a value
    that some row had; it is no anonymous statistic.

    Attributes:
        histograms: ``input``: one column for each feature. ``output``: entropy and confidence, or the value of a
            regression. ``classes``: the index of the class with the highest score. ``latency``: seconds.
        kind: What the scores are, if there were any.
        classes: How many classes the model has; 0 without scores, or for a regression.
    """

    histograms: dict[Of, Histograms]
    kind: Kind | None = None
    classes: int = 0

    @classmethod
    def learn(
        cls, rows: ArrayLike, *, scores: ArrayLike | None = None, latency: ArrayLike | None = None, bins: int = 10
    ) -> "DriftReference":
        """Learn how data are, from rows that the model has not been trained on: there it is too sure of itself.

        Args:
            rows: Shape (rows, columns), or (rows, ...): at least 100, and better several thousand. NaN stands for
                what is missing.
            scores: What the model gives for them, of any number of rows: shape (rows, classes), or (rows,) for a
                regression. What has no negative numbers and sums to 1 in each row are probabilities; of other scores
                the softmax is taken.
            latency: Seconds that the model has taken, each for one request: until ``truncate_output`` has its scores.
            bins: Into how many bins of as many rows each a column is cut, 4 to 50.

        Raises:
            ConfigurationError: Too few rows, no numbers, an infinity, or NaN anywhere but in ``rows``.
        """
        bins = whole("DriftMonitor.learn(bins=...)", bins, least=4, most=50)
        sample = _numbers("rows", rows)
        if sample.ndim < 2:
            raise ConfigurationError("DriftMonitor.learn(rows) has the shape (rows, columns)")
        flat = sample.reshape(len(sample), -1)
        if not 1 <= flat.shape[1] <= _MOST_COLUMNS:
            raise ConfigurationError(f"DriftMonitor.learn(rows) has 1 to {_MOST_COLUMNS:,} columns")
        histograms: dict[Of, Histograms] = {"input": cut(flat, bins)}
        kind: Kind | None = None
        classes = 0
        if scores is not None:
            given = _numbers("scores", scores, missing=False)
            kind, classes = _kind_of(given)
            columns, best = outputs(given, kind)
            histograms["output"] = cut(columns, bins)
            if best is not None:
                histograms["classes"] = with_counts(np.arange(0.5, classes - 1)[:, None], best)
        if latency is not None:
            seconds = _numbers("latency", latency, missing=False)
            if seconds.ndim != 1 or (seconds < 0).any():
                raise ConfigurationError("DriftMonitor.learn(latency=...) has the shape (requests,), none below 0")
            histograms["latency"] = cut(seconds[:, None], bins)
        return cls(histograms, kind, classes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it into a JSON file, or put a new one in its place in one step.

        Raises:
            ConfigurationError: It would be too large to be read back.
            OSError: It cannot be written. An old one is as it was.
        """
        document = {
            "mlguard": "DriftReference",
            "version": 1,
            "kind": self.kind,
            "classes": self.classes,
            "histograms": {of: _written(one) for of, one in self.histograms.items()},
        }
        content = json.dumps(document, allow_nan=False).encode() + b"\n"
        if len(content) > _LARGEST:
            raise ConfigurationError(f"{path} would be larger than {_LARGEST} bytes; learn with fewer bins")
        replace_file(Path(path).resolve(), content, new_mode=0o644)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "DriftReference":
        """Read it from a file, which is trusted with nothing but the numbers in it.

        Raises:
            ConfigurationError: There is no such file, or it holds something else.
        """
        try:
            with open_regular(path) as file:
                content = file.read(_LARGEST + 1)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
        if len(content) > _LARGEST:
            raise ConfigurationError(f"{path} is larger than {_LARGEST} bytes; no file by DriftReference.save is")
        try:
            found = _File.model_validate(strict_json(content))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the document"
            raise ConfigurationError(
                f"{path} was not written by DriftReference.save: {place}: {first['msg']}"
            ) from None
        except ValueError:
            raise ConfigurationError(f"{path} is not JSON in UTF-8 as DriftReference.save writes it") from None
        return cls({of: one.histograms() for of, one in found.histograms.items()}, found.kind, found.classes)

    @property
    def columns(self) -> int:
        """How many columns the input has."""
        return self.histograms["input"].columns

    def __repr__(self) -> str:
        return f"DriftReference({self.columns} columns, {', '.join(self.histograms)})"


# What is watched of a model's answers ---------------------------------------------------------------------------------


def outputs(scores: Floats, kind: Kind) -> tuple[Floats, Floats | None]:
    """What is watched of scores.

    Returns:
        Entropy and confidence of each row, shape (rows, 2), and the index of the class with the highest score, shape
        (rows, 1); or the values of a regression, shape (rows, 1), and None.
    """
    if kind == "values":
        return scores.reshape(-1, 1), None
    if len(scores) == 1 and scores.shape[1] <= _FEW_CLASSES:
        return _outputs_of_one(scores[0].tolist(), kind)
    best: Floats = scores.argmax(axis=1)[:, None].astype(np.float64)
    if kind == "scores":
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    # 0 times its logarithm is 0. What rounding has left below 0 counts as 0, too.
    entropy = -(scores * np.log(np.maximum(scores, np.finfo(np.float64).tiny))).sum(axis=1)
    return np.stack([entropy, scores.max(axis=1)], axis=1), best


def _outputs_of_one(scores: list[float], kind: Kind) -> tuple[Floats, Floats]:
    """The same for one row: numpy needs longer for few numbers than Python does."""
    largest = max(scores)
    best = scores.index(largest)
    if kind == "scores":
        powers = [math.exp(score - largest) for score in scores]
        total = sum(powers)
        scores = [power / total for power in powers]
    entropy = -sum([score * math.log(score) for score in scores if score > 0])
    return np.array([[entropy, scores[best]]]), np.array([[float(best)]])


def _kind_of(scores: Floats) -> tuple[Kind, int]:
    if scores.ndim == 1 or (scores.ndim == 2 and scores.shape[1] == 1):
        return "values", 0
    if scores.ndim != 2 or scores.shape[1] > _MOST_CLASSES:
        raise ConfigurationError(
            f"DriftMonitor.learn(scores=...) has the shape (rows, classes), up to {_MOST_CLASSES:,} classes, or (rows,)"
        )
    sums_to_one = np.allclose(scores.sum(axis=1), 1, atol=1e-3) and (scores >= 0).all()
    return ("probabilities" if sums_to_one else "scores"), scores.shape[1]


def _numbers(name: str, given: ArrayLike, *, missing: bool = True) -> Floats:
    where = f"DriftMonitor.learn({name}{'' if name == 'rows' else '=...'})"
    try:
        array: NDArray[Any] = np.asarray(given)
        if array.dtype.kind not in "fiub":
            raise TypeError
        numbers = array.astype(np.float64)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{where} is an array of numbers") from None
    if numbers.ndim == 0 or len(numbers) < FEWEST_ROWS:
        raise ConfigurationError(f"{where} has at least {FEWEST_ROWS} rows")
    if np.isinf(numbers).any() or (not missing and np.isnan(numbers).any()):
        raise ConfigurationError(f"{where} has an infinity{'' if missing else ' or NaN'} in it")
    return numbers


# Files ----------------------------------------------------------------------------------------------------------------


class _Column(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    edges: Annotated[list[int | float], Field(min_length=1, max_length=_MOST_CLASSES)]
    counts: list[Annotated[int, Field(ge=0, le=_MOST_ROWS)]]


class _Histograms(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    missing: bool
    columns: Annotated[list[_Column], Field(min_length=1, max_length=_MOST_COLUMNS)]

    def model_post_init(self, _: object) -> None:
        rows = sum(self.columns[0].counts)
        if not FEWEST_ROWS <= rows <= _MOST_ROWS:
            raise ValueError("too few or too many rows")
        # Or one long column among many short ones makes gigabytes of a small file.
        if max(len(column.edges) for column in self.columns) * len(self.columns) > _MOST_CELLS:
            raise ValueError("too many bins for so many columns")
        for column in self.columns:
            edges, counts = column.edges, column.counts
            # NaN fails this, too.
            if not all(map(math.isfinite, map(_float, edges))) or not all(a < b for a, b in itertools.pairwise(edges)):
                raise ValueError("edges ascend")
            if len(counts) != len(edges) + 2 or sum(counts) != rows or (counts[-1] and not self.missing):
                raise ValueError("counts fit to edges and rows")

    def histograms(self) -> Histograms:
        longest = max(len(column.edges) for column in self.columns)
        edges = np.full((longest, len(self.columns)), np.nan)
        counts = np.zeros((longest + 2, len(self.columns)), np.int64)
        for place, column in enumerate(self.columns):
            edges[: len(column.edges), place] = column.edges
            counts[: len(column.edges) + 1, place] = column.counts[:-1]
            counts[-1, place] = column.counts[-1]
        return Histograms(edges, counts, self.missing)


class _File(BaseModel):
    """Everything that a file holds. All of it must be there, and nothing else."""

    model_config = ConfigDict(strict=True, extra="forbid")

    mlguard: Literal["DriftReference"]
    version: Annotated[int, Field(ge=1, le=1)]  # a literal 1 would be True and 1.0 as well
    kind: Kind | None
    classes: Annotated[int, Field(ge=0, le=_MOST_CLASSES)]
    histograms: dict[Of, _Histograms]

    def model_post_init(self, _: object) -> None:
        expected: set[str] = {"input"}
        columns = {"classes": 1, "latency": 1}
        if self.kind is not None:
            expected.add("output")
            columns["output"] = 1 if self.kind == "values" else 2
        if self.classes:
            expected.add("classes")
        if not expected <= self.histograms.keys() <= expected | {"latency"}:
            raise ValueError("a histogram is missing, or there is one too many")
        if (self.classes >= 2) != (self.kind in {"probabilities", "scores"}) or self.classes == 1:
            raise ValueError("classes fit to the kind of scores")
        for of, number in columns.items():
            one = self.histograms.get(of)  # type: ignore[call-overload]  # one of them
            if one is not None and (len(one.columns) != number or one.missing):
                raise ValueError("only the input has many columns, and may have values missing")
        if self.classes and len(self.histograms["classes"].columns[0].edges) != self.classes - 1:
            raise ValueError("classes fit to their histogram")


def _float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer beyond all floats
        return math.inf


def _written(histograms: Histograms) -> dict[str, Any]:
    columns = []
    for edges, counts in zip(histograms.edges.T, histograms.counts.T, strict=True):
        known = edges[~np.isnan(edges)]
        columns.append({"edges": known.tolist(), "counts": [*counts[: len(known) + 1].tolist(), int(counts[-1])]})
    return {"missing": histograms.missing, "columns": columns}
