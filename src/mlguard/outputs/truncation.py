"""Less of the model in each answer: ``truncate_output``."""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from mlguard._guard import Control, Guard, Principal
from mlguard.errors import ConfigurationError
from mlguard.outputs._answer import ANSWER, plain
from mlguard.outputs._endpoint import wrap_endpoint
from mlguard.outputs._paths import EVERY, Walk, spell, steps_of
from mlguard.outputs.digits import Digits
from mlguard.outputs.open_inference_answers import OpenInferenceAnswer
from mlguard.outputs.policy import BinsAs, OutputPolicy, policy_of
from mlguard.outputs.rounding import FEW, FloatArray
from mlguard.outputs.scores import Labels, Scores, label_names

P = ParamSpec("P")

Watcher = Callable[[FloatArray], None]

logger = logging.getLogger("mlguard")

ScoreArray = NDArray[np.floating[Any]] | NDArray[np.integer[Any]]


class DigitSettings(TypedDict, total=False):
    """The settings of an :class:`OutputPolicy` that leave the scores in their place."""

    decimals: int | None
    significant: int | None
    exact: bool


class PolicySettings(DigitSettings, total=False):
    """The settings of an :class:`OutputPolicy`."""

    top_k: int | None
    rest: str | None
    label_only: bool
    confidence: float | None
    min_confidence: float | None
    abstain: str | None
    bins: Sequence[float] | None
    bins_as: BinsAs


@overload
def truncate_output(
    target: None = None,
    /,
    *,
    policy: OutputPolicy | str | None = None,
    scores: str | Sequence[str] = "probabilities",
    labels: Labels | None = None,
    per_scope: Mapping[str, OutputPolicy | str] | None = None,
    by: Callable[..., Any] | Guard | None = None,
    answer: OpenInferenceAnswer | None = None,
    **settings: Unpack[PolicySettings],
) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...
@overload
def truncate_output(
    target: OutputPolicy | str,
    /,
    *,
    scores: str | Sequence[str] = "probabilities",
    labels: Labels | None = None,
    per_scope: Mapping[str, OutputPolicy | str] | None = None,
    by: Callable[..., Any] | Guard | None = None,
    answer: OpenInferenceAnswer | None = None,
) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...
@overload
def truncate_output(
    target: Callable[P, Any],
    /,
    *,
    policy: OutputPolicy | str | None = None,
    scores: str | Sequence[str] = "probabilities",
    labels: Labels | None = None,
    per_scope: Mapping[str, OutputPolicy | str] | None = None,
    by: Callable[..., Any] | Guard | None = None,
    answer: OpenInferenceAnswer | None = None,
    **settings: Unpack[PolicySettings],
) -> Callable[P, Any]: ...
@overload
def truncate_output(
    target: ScoreArray, /, *, labels: Labels | None = None, **settings: Unpack[DigitSettings]
) -> FloatArray: ...
@overload
def truncate_output(
    target: ScoreArray | Sequence[float] | Sequence[Sequence[float]],
    /,
    *,
    policy: OutputPolicy | str | None = None,
    labels: Labels | None = None,
    answer: OpenInferenceAnswer | None = None,
    **settings: Unpack[PolicySettings],
) -> Any: ...
def truncate_output(
    target: Any = None,
    /,
    *,
    policy: OutputPolicy | str | None = None,
    scores: str | Sequence[str] = "probabilities",
    labels: Labels | None = None,
    per_scope: Mapping[str, OutputPolicy | str] | None = None,
    by: Callable[..., Any] | Guard | None = None,
    answer: OpenInferenceAnswer | None = None,
    **settings: Unpack[PolicySettings],
) -> Any:
    """Answer with no more of the model's scores than the caller needs.

    Guards against model extraction and membership inference by way of the scores. Probabilities in full precision hand
    a linear model to anybody with one query more than it has features (Tramèr et al., 2016): measured on a small
    logistic regression of 30 features, 31 queries gave its weights to 14 digits. With two decimals the same 31 left an
    error of 17 %, and 310 one of 0.2 %; with one decimal 310 left 3 %, and 3 100 left 2 %. It does **not** stop
    extraction, it raises the price: queries chosen step by step got the same weights out of one decimal, and out of the
    label alone (but for their scale), with an error of 2e-5 in about 700. So limit the rows that each may ask for, too.
    Against membership inference rounding did nothing; ``label_only`` weakened it, and did not end it.

    Decorates an endpoint, sync or async, **below** the route's own decorator (above it, the route keeps the bare
    function)::

        @app.post("/predict")
        @truncate_output("balanced", labels=CLASSES)
        def predict(x: Annotated[np.ndarray, Depends(features)]):
            return {"probabilities": model.predict_proba(x)}

    What goes out is an :class:`OutputPolicy`: one of your own, a preset by its name, or its settings as keywords, as in
    ``truncate_output(decimals=1, top_k=3)``. The presets are ``"balanced"`` (all classes, two decimals), ``"private"``
    (the best label, and whole numbers) and ``"open"`` (numbers as they are).

    The route's response model, status code, injected headers and background tasks keep working; the model is applied
    first, to what the endpoint returned, and then the answer is truncated and written as JSON. Under ``harden``,
    OpenAPI shows the answer as it is sent. Called directly, outside a request, the endpoint returns the truncated plain
    data.

    A generator, sync or async, is streamed: one line of JSON for each item (``application/x-ndjson``), or one event
    where the route has ``response_class=EventStream``. Each item is an answer of its own.
    What fails before the first item is answered as anywhere else; what fails later ends the stream with a problem, as a
    last line or as an event named ``error``.

    Given scores instead of an endpoint, it returns the truncated scores: ``truncate_output(model.predict_proba(x))``.

    Every float anywhere in the answer is rounded. The other settings, and the rounding that keeps sums and the best
    class, act on the scores, or on the whole answer where that is a bare list or array. One dimension is the class
    vector of one row, two are a batch of rows. Copies of the scores under other names are only rounded.

    Args:
        target: An endpoint, scores, or the policy as in ``@truncate_output("private")``. Left out in
            ``@truncate_output(decimals=1)``.
        policy: The policy or the name of a preset, where ``target`` is something else. Instead of ``settings``.
        scores: The field that holds the scores, as it is in the answer (an alias, where there is one), or a path to it
            through objects and lists: ``"outputs.0.data"``, or ``"predictions.*.scores"`` for each item of a list. A
            name with a dot in it is written as a list, ``["my.scores"]``.
        labels: The name of each class, in the order of the columns; ``model.classes_`` will do. By default a class is
            called by its index.
        per_scope: Policies of those who hold a scope, the first one held wins. What is given as the policy itself is
            for everybody else, and so the strictest of all: one that plainly shows less is refused.
        by: Who is calling, with ``per_scope``: a guard such as ``APIKeyAuth`` or ``AnyAuth``, or a dependency of your
            own that returns a ``Principal``, or None for a caller it does not know. It becomes a dependency of the
            endpoint. Scopes are those that the principal has proved, whatever the request says.
        answer: Another form of the answer: :class:`OpenInferenceAnswer`.
        **settings: Of an :class:`OutputPolicy`: ``decimals``, ``significant``, ``exact``, ``top_k``, ``rest``,
            ``label_only``, ``confidence``, ``min_confidence``, ``abstain``, ``bins``, ``bins_as``.

    Returns:
        The decorated endpoint, a decorator, or the truncated scores: an array of float64 for an array, a list for a
        list, and a list (for one row, what stands for that row) where rows are replaced.

    Raises:
        ConfigurationError: A setting that cannot work, or an endpoint that takes a ``WebSocket``: what it sends over
            that passes no decorator.
        UnsafeOutputError: On answering. The answer holds NaN or an infinity, has no such scores although the policy
            needs them, has another number of classes than ``labels``, cannot be written as JSON, is the model itself,
            or is a ready ``Response``, which cannot be truncated (500).
        ResponseValidationError: On answering. The answer does not fit the route's response model (500).
    """
    if isinstance(target, str | OutputPolicy):
        if policy is not None:
            raise ConfigurationError("truncate_output was given two policies: choose one of them")
        target, policy = None, target
    if policy is not None and settings:
        raise ConfigurationError(f"truncate_output: {', '.join(settings)} and a policy exclude each other")
    default = policy_of(policy, "the policy") if policy is not None else OutputPolicy(**settings)
    make = functools.partial(
        _truncation, steps=steps_of(scores), labels=label_names(labels), answer=answer, varies=per_scope is not None
    )
    policies = Policies(make(default), _per_scope(per_scope, default, make), by)
    if target is None:
        return functools.partial(wrap_endpoint, policies=policies)
    if callable(target):
        return wrap_endpoint(target, policies=policies)
    if per_scope is not None or by is not None:
        raise ConfigurationError("per_scope and by are for an endpoint: nobody is calling where scores are given")
    return policies.default.release(target)


# What may leave ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Truncation:
    """One policy on the answers of one endpoint.

    Attributes:
        scores: What leaves of the scores.
        steps: Where they are.
        answer: The form of the answer, if it is not the endpoint's own.
        varies: Whether other callers see more or less.
    """

    scores: Scores
    steps: tuple[str, ...]
    answer: OpenInferenceAnswer | None
    varies: bool

    @property
    def digits(self) -> Digits:
        """How many digits stay of a number where a response model turns it into text."""
        return self.scores.digits

    def coarse(self) -> "Truncation":
        """The same with the label alone, for who is to learn no more; of a regression, one digit or its bin."""
        policy = self.scores.policy
        if policy.significant is not None:
            policy = OutputPolicy(significant=1)
        elif policy.bins is None:
            policy = OutputPolicy.named("private")
        needed = self.scores.needed
        scores = Scores(policy, self.scores.labels, required=self.scores.required, optional=not needed)
        return dataclasses.replace(self, scores=scores)

    def release(
        self,
        answer: Any,
        request_id: str | None = None,
        *,
        for_json: bool = False,
        watchers: Sequence[Watcher] = (),
    ) -> Any:
        """What may leave of an answer, as plain data and arrays that can be written as JSON.

        Args:
            answer: What the endpoint returned, after the response model.
            request_id: What the request calls itself, if the protocol has the answer repeat that.
            for_json: Whether it is to be written as JSON at once, and so may hold pieces that are.
            watchers: See :class:`~mlguard._guard.RequestMemory`.

        Raises:
            UnsafeOutputError: It may not leave at all (500).
        """
        watch = functools.partial(self._show, watchers) if watchers else None
        if self.answer is not None:
            return self.answer.of(answer, self.steps, self.scores, request_id, watch=watch)
        if type(answer) is not dict:
            answer = plain(answer, self.digits)
        release = functools.partial(self.scores.release, for_json=for_json)
        if watch is not None:
            release = functools.partial(self._release_watched, watch, release)
        if len(self.steps) == 1 and self.steps[0] != EVERY and not isinstance(answer, dict):
            return release(answer, ANSWER)
        return Walk(self.steps, self.digits, release, needed=self.scores.needed).through(answer)

    def _release_watched(
        self, watch: Callable[[Any], None], release: Callable[[Any, str], Any], value: Any, where: str
    ) -> Any:
        watch(value)
        return release(value, where)

    def _show(self, watchers: Sequence[Watcher], value: Any) -> None:
        """Show the scores to those who watch. What goes wrong with one of them does not keep back the answer."""
        scores = self.scores.raw(value)
        if scores is None:
            return
        finite = all(map(math.isfinite, scores.ravel().tolist())) if scores.size <= FEW else np.isfinite(scores).all()
        if not finite:  # which does not leave
            return
        scores = scores.view()
        scores.flags.writeable = False
        for watch in watchers:
            try:
                watch(scores)
            except Exception:
                logger.exception("a monitor could not look at the scores of an answer")

    def fingerprint(self) -> str:
        """Everything that decides what leaves, as one line of text."""
        return f"{self.scores.policy.fingerprint()} {spell(self.steps)!r} {self.scores.labels!r} {self.answer!r}"


@dataclasses.dataclass(frozen=True, slots=True)
class Policies:
    """Who sees how much of an endpoint's answers.

    Args:
        default: For everybody who holds none of the scopes.
        per_scope: For those who hold one, in the order in which they are asked for.
        by: The dependency that says who is calling.

    Attributes:
        coarse: For requests of which a guard has said that they get the label alone.

    Raises:
        ConfigurationError: Scopes without anybody to hold them, or the other way round.
    """

    default: Truncation
    per_scope: tuple[tuple[str, Truncation], ...] = ()
    by: Callable[..., Any] | Guard | None = None
    coarse: Truncation = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Check that scopes come with somebody to hold them."""
        object.__setattr__(self, "coarse", self.default.coarse())
        if bool(self.per_scope) != (self.by is not None):
            raise ConfigurationError("per_scope and by go together: the scopes are those that by=caller has proved")
        if isinstance(self.by, type) and issubclass(self.by, Guard):
            raise ConfigurationError(f"by={self.by.__name__} is the class: give it the guard that you made of it")
        if isinstance(self.by, Guard) and self.by.control is not Control.AUTHENTICATION:
            raise ConfigurationError(f"by: {type(self.by).__name__} does not say who is calling")
        if self.by is not None and not callable(self.by):
            raise ConfigurationError("by must be a guard such as APIKeyAuth, or a dependency that returns a Principal")

    def of(self, principal: Any) -> Truncation:
        """What a caller may see. Anything but a principal, which only a guard makes, holds no scope."""
        rank = self.rank(principal)
        return self.per_scope[rank - 1][1] if rank else self.default

    def rank(self, principal: Any) -> int:
        """Which of ``all`` that is."""
        if isinstance(principal, Principal):
            for rank, (scope, _) in enumerate(self.per_scope, 1):
                if scope in principal.scopes:
                    return rank
        return 0

    @property
    def all(self) -> tuple[Truncation, ...]:
        """Each of them, the strictest first."""
        return (self.default, *(truncation for _, truncation in self.per_scope))

    def fingerprint(self) -> str:
        """All policies as one line of text, the same in every process: a key for what depends on them."""
        scopes = [f"{scope!r}: {truncation.fingerprint()}" for scope, truncation in self.per_scope]
        return " | ".join([self.default.fingerprint(), *scopes])


def _truncation(
    policy: OutputPolicy,
    *,
    steps: tuple[str, ...],
    labels: tuple[str | int, ...] | None,
    answer: OpenInferenceAnswer | None,
    varies: bool,
) -> Truncation:
    if answer is not None:
        answer.check(policy, steps)
    return Truncation(Scores(policy, labels, required=answer is not None), steps, answer, varies)


def _per_scope(
    per_scope: Mapping[str, OutputPolicy | str] | None,
    default: OutputPolicy,
    make: Callable[[OutputPolicy], Truncation],
) -> tuple[tuple[str, Truncation], ...]:
    if per_scope is None:
        return ()
    if not isinstance(per_scope, Mapping) or not per_scope:
        raise ConfigurationError('per_scope must say which policy a scope has, as in {"trusted": "open"}')
    found = []
    for scope, policy in per_scope.items():
        if not isinstance(scope, str) or not scope or any(character.isspace() for character in scope):
            raise ConfigurationError("per_scope: a scope is text without spaces")
        more = policy_of(policy, f"per_scope[{scope!r}]")
        if more.shows_less_than(default):
            raise ConfigurationError(
                f"per_scope[{scope!r}] shows less than the policy itself, which is for everybody who holds no scope: "
                "give the strictest policy first"
            )
        found.append((scope, make(more)))
    return tuple(found)
