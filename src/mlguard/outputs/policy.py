"""Less of the model in each answer: ``truncate_output``."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import chain
from numbers import Real
from typing import Any, Literal, ParamSpec, overload

import numpy as np
from numpy.typing import NDArray

from mlguard.errors import ConfigurationError, UnsafeOutputError
from mlguard.outputs._answer import ANSWER, as_float64, finite, plain, round_answer, round_fields
from mlguard.outputs._endpoint import wrap_endpoint
from mlguard.outputs.rounding import FloatArray, round_row, round_scores

P = ParamSpec("P")

Scores = NDArray[np.floating[Any]] | NDArray[np.integer[Any]]
Labels = Sequence[str] | Sequence[int] | NDArray[Any]


@overload
def truncate_output(
    target: None = None,
    /,
    *,
    decimals: int = 2,
    top_k: int | None = None,
    label_only: bool = False,
    min_confidence: float | None = None,
    scores: str = "probabilities",
    labels: Labels | None = None,
) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...
@overload
def truncate_output(
    target: Callable[P, Any],
    /,
    *,
    decimals: int = 2,
    top_k: int | None = None,
    label_only: bool = False,
    min_confidence: float | None = None,
    scores: str = "probabilities",
    labels: Labels | None = None,
) -> Callable[P, Any]: ...
@overload
def truncate_output(
    target: Scores,
    /,
    *,
    decimals: int = 2,
    top_k: None = None,
    label_only: Literal[False] = False,
    min_confidence: None = None,
    scores: str = "probabilities",
    labels: Labels | None = None,
) -> FloatArray: ...
@overload
def truncate_output(
    target: Scores | Sequence[float] | Sequence[Sequence[float]],
    /,
    *,
    decimals: int = 2,
    top_k: int | None = None,
    label_only: bool = False,
    min_confidence: float | None = None,
    scores: str = "probabilities",
    labels: Labels | None = None,
) -> Any: ...
def truncate_output(
    target: Any = None,
    /,
    *,
    decimals: int = 2,
    top_k: int | None = None,
    label_only: bool = False,
    min_confidence: float | None = None,
    scores: str = "probabilities",
    labels: Labels | None = None,
) -> Any:
    """Answer with no more of the model's scores than the caller needs.

    Guards against model extraction and membership inference by way of the scores. Probabilities in full precision hand
    a linear model to anybody with one query more than it has features (Tramèr et al., 2016): measured on a small
    logistic regression of 30 features, 31 queries gave its weights to 14 digits. With two decimals the same 31 left an
    error of about one half, and 310 one of 0.7 %; with one decimal 310 left 7 %, and 3 100 left 2.4 %. It does **not**
    stop extraction, it raises the price: queries chosen step by step got the same weights out of one decimal in about
    1 500, and out of the label alone (but for their scale) in about 800, so limit the rows each caller may ask for as
    well. Against membership inference rounding did nothing; ``label_only`` weakened it, and did not end it.

    Decorates an endpoint, sync or async, **below** the route's own decorator (above it, the route keeps the bare
    function)::

        @app.post("/predict")
        @truncate_output(decimals=2, top_k=3, labels=CLASSES)
        def predict(x: Annotated[np.ndarray, Depends(features)]):
            return {"probabilities": model.predict_proba(x)}

    The route's response model, status code, injected headers and background tasks keep working; the model is applied
    first, to what the endpoint returned, and then the answer is truncated and written as JSON. OpenAPI goes on to show
    the model. Called directly, outside a request, the endpoint returns the truncated plain data.

    Given scores instead of an endpoint, it returns the truncated scores: ``truncate_output(model.predict_proba(x))``.

    Every float anywhere in the answer is rounded. The other options, and the rounding that keeps sums and the best
    class, act on the scores: the field that ``scores`` names at the top level of the answer, or the whole answer where
    that is a bare list or array. One dimension is the class vector of one row, two are a batch of rows. Copies of the
    scores under other names are only rounded.

    Args:
        target: An endpoint, or scores. Left out in ``@truncate_output(decimals=1)``.
        decimals: Decimals that stay of every float, 0 to 15. Rounded scores still add up to what they did, and the best
            class stays the best; each is less than two units of the last decimal from where it was.
        top_k: Replace each row by its best classes, ``[{"label": ..., "score": ...}, ...]`` in falling order of the
            rounded score (the lower index first).
        label_only: Replace each row by its best label, without a score.
        min_confidence: Replace a row whose best rounded score is lower than this by null, above 0 and up to 1.
        scores: The name of the field that holds the scores, as it is in the answer (an alias, where there is one).
        labels: The name of each class, in the order of the columns; ``model.classes_`` will do. By default a class is
            called by its index.

    Returns:
        The decorated endpoint, a decorator, or the truncated scores: an array of float64 for an array, a list for a
        list, and a list (for one row, what stands for that row) where rows are replaced.

    Raises:
        ConfigurationError: An option that cannot work, or a generator: streamed answers are not supported.
        UnsafeOutputError: On answering. The answer holds NaN or an infinity, has no such scores although an option asks
            for them, has another number of classes than ``labels``, cannot be written as JSON, or is a ready
            ``Response``, which cannot be truncated (500).
        ResponseValidationError: On answering. The answer does not fit the route's response model (500).
    """
    policy = _Policy(decimals, top_k, label_only, min_confidence, scores, _label_names(labels))
    if target is None:
        return functools.partial(wrap_endpoint, truncate=policy.truncate, decimals=decimals)
    if callable(target):
        return wrap_endpoint(target, truncate=policy.truncate, decimals=decimals)
    return policy.truncate(target)


# What may leave ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Policy:
    decimals: int
    top_k: int | None
    label_only: bool
    min_confidence: float | None
    scores: str
    labels: tuple[str | int, ...] | None

    def __post_init__(self) -> None:
        if type(self.decimals) is not int or not 0 <= self.decimals <= 15:
            raise ConfigurationError("decimals must be an integer from 0 to 15")
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 1):
            raise ConfigurationError("top_k must be a positive integer, or None for every class")
        if type(self.label_only) is not bool:
            raise ConfigurationError("label_only must be True or False")
        if self.label_only and self.top_k is not None:
            raise ConfigurationError("label_only sends no scores and top_k sends some: choose one of them")
        if self.min_confidence is not None and (
            type(self.min_confidence) not in {int, float} or not 0 < self.min_confidence <= 1
        ):
            raise ConfigurationError("min_confidence must be a number above 0 and up to 1, or None")
        if not isinstance(self.scores, str) or not self.scores:
            raise ConfigurationError("scores must be the name of the field that holds the scores")

    @property
    def needs_scores(self) -> bool:
        """Whether an answer without scores breaks the policy."""
        return self.replaces_rows or self.labels is not None

    @property
    def replaces_rows(self) -> bool:
        """Whether something else than rounded scores takes the place of a row."""
        return self.label_only or self.top_k is not None or self.min_confidence is not None

    def truncate(self, answer: Any) -> Any:
        """What may leave of an answer, as plain data and arrays that can be written as JSON."""
        if type(answer) is not dict:
            answer = plain(answer, self.decimals)
        if isinstance(answer, dict):
            released = round_fields(answer, self.decimals, ANSWER, self._truncate_field)
            if self.needs_scores and self.scores not in released:
                raise UnsafeOutputError(
                    f"the answer has no field {self.scores!r}: name its scores in truncate_output(scores=...)"
                )
            return released
        return self._truncate_scores(answer, ANSWER)

    def _truncate_field(self, name: Any, value: Any) -> Any:
        if name != self.scores and type(value) is str:
            return value
        if name == self.scores and not self.needs_scores and (row := round_row(value, self.decimals)) is not None:
            return row
        truncate = self._truncate_scores if name == self.scores else self._round
        return truncate(value, f"field {name!r}")

    def _round(self, value: Any, where: str) -> Any:
        return round_answer(value, self.decimals, where)

    def _truncate_scores(self, value: Any, where: str) -> Any:
        scores = _as_scores(value, integers=self.needs_scores)
        if scores is None:
            if self.needs_scores:
                raise UnsafeOutputError(f"{where} does not hold scores: one row of numbers, or rows of equal length")
            return self._round(value, where)
        finite(scores, where)
        batch = scores[np.newaxis] if scores.ndim == 1 else scores
        rows, classes = (0, 0) if scores.shape == (0,) else batch.shape  # a list of no rows has no second dimension
        expected = len(self.labels) if self.labels else max(classes, 1)
        if self.needs_scores and rows and (classes != expected or classes < 2):
            raise UnsafeOutputError(f"{where} has {classes} classes: a row needs two, and as many as there are labels")
        rounded = round_scores(batch, self.decimals)
        if not self.replaces_rows:
            released = rounded.reshape(scores.shape)
            return released if isinstance(value, np.ndarray) else released.tolist()
        replaced = self._replace_rows(batch, rounded) if rows else []
        return replaced if scores.ndim == 2 or not rows else replaced[0]

    def _replace_rows(self, scores: FloatArray, rounded: FloatArray) -> list[Any]:
        names = self.labels or range(scores.shape[1])
        released: list[Any]
        if self.label_only:
            released = [names[best] for best in scores.argmax(axis=1).tolist()]
        elif self.top_k is not None:
            # By what leaves, not by what it was: the order of equal scores would tell which was larger.
            order = np.argsort(-rounded, axis=1, kind="stable")[:, : self.top_k]
            best = np.take_along_axis(rounded, order, axis=1)
            released = [
                [{"label": names[column], "score": score} for column, score in zip(*row, strict=True)]
                for row in zip(order.tolist(), best.tolist(), strict=True)
            ]
        else:
            released = rounded.tolist()
        if self.min_confidence is not None:
            sure = (rounded.max(axis=1) >= self.min_confidence).tolist()
            released = [row if keep else None for row, keep in zip(released, sure, strict=True)]
        return released


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
    return bool not in types and all(issubclass(kind, Real | Decimal) for kind in types)


def _label_names(labels: Labels | None) -> tuple[str | int, ...] | None:
    if labels is None:
        return None
    names = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if isinstance(names, str | bytes) or not isinstance(names, Sequence) or len(names) == 0:
        raise ConfigurationError("labels must list the name of each class, in the order of the columns")
    names = [name.item() if isinstance(name, np.generic) else name for name in names]
    if not all(isinstance(name, str | int) for name in names):
        raise ConfigurationError("labels must be text or integers: convert them, as in [str(c) for c in classes]")
    if len(set(names)) < len(names):
        raise ConfigurationError("labels must be unique, or a caller cannot tell the classes apart")
    return tuple(names)
