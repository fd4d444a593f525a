"""How an endpoint is decorated so that the scores that it returns have noise."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol

import numpy as np
from fastapi import BackgroundTasks, Depends
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from mlguard._numbers import whole
from mlguard.errors import ConfigurationError, UnsafeOutputError
from mlguard.outputs._canonical import is_foreign
from mlguard.outputs._changed_scores import change_scores
from mlguard.outputs._endpoint import OURS, add_settings, function_of, mark_bare, settings_of, signature_of
from mlguard.outputs._questions_by_row import rounded, rows_asked
from mlguard.outputs.dp_noise import DPNoise
from mlguard.outputs.rounding import FloatArray
from mlguard.traffic.epsilon import EpsilonLedger

_ACCOUNT = f"{OURS}account"
_OFF = 1e-3  # what a sum of probabilities may be off by: float16 is
_EXACT = 1e-12  # what it may be off by without being corrected


class Noise(Protocol):
    """Adds noise to scores."""

    def add(self, scores: FloatArray, arguments: Mapping[str, Any]) -> FloatArray:
        """Scores with noise.

        Args:
            scores: Finite scores, shape ``(rows, classes)``.
            arguments: What the endpoint was asked.
        """


class NoisyScores:
    """What becomes of the scores of an answer.

    Args:
        field: What they are called in it.
        keep_argmax: Whether the best class of each row stays the best.
        renormalise: Whether they are probabilities and stay such.

    Raises:
        ConfigurationError: An option that cannot work.
    """

    def __init__(self, field: str, *, keep_argmax: bool, renormalise: bool) -> None:
        if not isinstance(field, str) or not field:
            raise ConfigurationError("add_noise(scores=...) is the name of the field that holds the scores")
        if type(keep_argmax) is not bool or type(renormalise) is not bool:
            raise ConfigurationError("add_noise(keep_argmax=..., renormalise=...) are True or False")
        self._field = field
        self._keep_argmax = keep_argmax
        self._renormalise = renormalise

    def release(self, answer: Any, noise: Noise, arguments: Mapping[str, Any], *, most: int | None) -> Any:
        """A copy of the answer with noise on its scores.

        Args:
            answer: What the endpoint has returned.
            noise: What is added.
            arguments: What the endpoint was asked.
            most: How many rows were charged for. None: they cost nothing.

        Raises:
            UnsafeOutputError: The answer may not leave (500).
        """

        def change(scores: FloatArray) -> FloatArray:
            exact = self._as_rows(scores, arguments)
            if most is not None and len(exact) > most:
                raise UnsafeOutputError(f"the answer has {len(exact)} rows of scores, and {most} were charged for")
            if most is not None and not self._renormalise and scores.ndim == 1 and len(scores) not in {1, most}:
                raise UnsafeOutputError(  # predictions for rows that were not seen, or one row: nobody could tell
                    f"the answer has {len(scores)} scores in one dimension, and {most} rows were charged for: give "
                    "them two dimensions, and take rows as Features gives them"
                )
            return self._noisy(exact, noise, arguments).reshape(scores.shape)

        return change_scores(answer, self._field, change)

    def _as_rows(self, scores: FloatArray, arguments: Mapping[str, Any]) -> FloatArray:
        if scores.ndim == 2:
            return scores
        if scores.ndim == 1 and not self._renormalise and len(scores) == rows_asked(arguments):
            return scores[:, np.newaxis]  # one number for each row
        return scores.reshape(1, -1)

    def _noisy(self, exact: FloatArray, noise: Noise, arguments: Mapping[str, Any]) -> FloatArray:
        if exact.size == 0:
            return exact
        noisy = noise.add(_checked(exact) if self._renormalise else exact, arguments)
        if self._renormalise:
            noisy = as_probabilities(noisy)
        if self._keep_argmax:
            _swap_best(noisy, exact.argmax(axis=1))
        return noisy

    def __repr__(self) -> str:
        return repr((self._field, self._keep_argmax, self._renormalise))


def _checked(scores: FloatArray) -> FloatArray:
    """Rows of probabilities, which add up to 1: a sensitivity holds for no others.

    Raises:
        UnsafeOutputError: Some are nothing of the kind (500).
    """
    least, off = float(scores.min()), float(np.abs(scores.sum(axis=1) - 1.0).max())
    if least < -_OFF or off > _OFF:
        raise UnsafeOutputError(
            "a row of scores is no vector of probabilities: set add_noise(renormalise=False) for other scores"
        )
    return scores if least >= 0.0 and off < _EXACT else as_probabilities(scores)


def as_probabilities(scores: FloatArray) -> FloatArray:
    """Rows of probabilities: what is below 0 is 0, and each row is divided by its sum.

    Where nothing is above 0, the class that was nearest gets all.
    """
    clipped = np.maximum(scores, 0.0)
    total = clipped.sum(axis=1, keepdims=True)
    empty = total[:, 0] <= 0.0
    if empty.any():
        clipped[empty, scores[empty].argmax(axis=1)] = total[empty] = 1.0
    rows: FloatArray = clipped / total
    return rows


def _swap_best(noisy: FloatArray, best: Any) -> None:
    """Have the classes ``best`` and those that have become the best change their scores, in place."""
    rows = np.arange(len(noisy))
    found = noisy.argmax(axis=1)
    noisy[rows, best], noisy[rows, found] = noisy[rows, found], noisy[rows, best]


class Asked:
    """Which of an endpoint's arguments its noise depends on.

    Args:
        endpoint: The endpoint.
        inputs: Their names. None: all of them.
        decimals: How many decimals of their floats stay, for the model too. None: all.
        is_told_apart: Whether one input must be told from another.

    Attributes:
        name: What the endpoint is called, and the module that it is in.
        signature: Its signature.

    Raises:
        ConfigurationError: An option that cannot work, an endpoint that is decorated by one of ours already, or an
            argument by which inputs cannot be told apart.
    """

    def __init__(
        self,
        endpoint: Callable[..., Any],
        *,
        inputs: Sequence[str] | None,
        decimals: int | None,
        is_told_apart: bool,
    ) -> None:
        function = function_of(endpoint)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError("add_noise takes no generator: return the whole answer")
        if settings_of(endpoint):
            raise ConfigurationError(
                "add_noise stands once, next to the function, below truncate_output and repeat_cache"
            )
        self.name = str(getattr(function, "__module__", "")), function.__qualname__
        self.signature = signature_of(endpoint)
        kinds = {parameter.kind for parameter in self.signature.parameters.values()}
        if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            raise ConfigurationError(
                "add_noise takes an endpoint of which each argument has a name: no *args, no **kwargs"
            )
        if inputs is not None and (isinstance(inputs, str) or not inputs or set(inputs) - {*self.signature.parameters}):
            raise ConfigurationError('add_noise(inputs=...) lists arguments of the endpoint, as in inputs=["x"]')
        if decimals is not None:
            whole("add_noise(input_decimals=...)", decimals, least=0, most=15)
        self._decimals = decimals
        self._names = [
            parameter.name
            for parameter in self.signature.parameters.values()
            if (parameter.name in inputs if inputs is not None else not _is_outlet(parameter.annotation))
        ]
        for name in self._names if is_told_apart else ():
            if is_foreign(self.signature.parameters[name].annotation):
                raise ConfigurationError(
                    f"add_noise cannot tell one input from another by the argument {name!r} of the endpoint: name "
                    "those that the model sees in add_noise(inputs=[...])"
                )

    def prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All arguments by their names, rounded where that is asked for."""
        if args or len(kwargs) < len(self.signature.parameters):  # a developer's call
            bound = self.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            kwargs = dict(bound.arguments)
        if self._decimals is None:
            return kwargs
        return kwargs | {name: rounded(kwargs[name], self._decimals) for name in self._names}

    def of(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Those that the noise depends on."""
        return {name: kwargs[name] for name in self._names}

    def __repr__(self) -> str:
        return repr((self._names, self._decimals))


def _is_outlet(annotation: Any) -> bool:
    """Whether an argument is there to put something in."""
    return isinstance(annotation, type) and issubclass(annotation, Response | BackgroundTasks)


def wrap_noisy(
    endpoint: Callable[..., Any],
    noise: Noise,
    scores: NoisyScores,
    asked: Asked,
    *,
    ledger: EpsilonLedger | None,
    policy: str,
) -> Callable[..., Any]:
    """An endpoint whose answers have noise.

    Args:
        endpoint: A function, a method, a partial or a callable object.
        noise: What is added.
        scores: To what.
        asked: Which arguments it depends on.
        ledger: What is charged, where the noise has an epsilon.
        policy: The settings of all of it.
    """
    if isinstance(noise, DPNoise):
        wrapper = _wrap_charged(endpoint, noise, scores, asked)
    else:
        wrapper = _wrap(endpoint, noise, scores, asked)
    parameters = [*asked.signature.parameters.values()]
    if ledger is not None:
        annotation = Annotated[Any, Depends(ledger)]
        parameters.append(inspect.Parameter(_ACCOUNT, inspect.Parameter.KEYWORD_ONLY, annotation=annotation))
    wrapper.__signature__ = asked.signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # FastAPI
    wrapper.__name__ = getattr(endpoint, "__name__", type(endpoint).__name__)  # names the route
    mark_bare(endpoint, "add_noise")
    add_settings(wrapper, policy)
    return wrapper


def _wrap(endpoint: Callable[..., Any], noise: Noise, scores: NoisyScores, asked: Asked) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function_of(endpoint)):

        @functools.wraps(endpoint)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            kwargs = asked.prepare(args, kwargs)
            return scores.release(await endpoint(**kwargs), noise, asked.of(kwargs), most=None)

    else:

        @functools.wraps(endpoint)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            kwargs = asked.prepare(args, kwargs)
            return scores.release(endpoint(**kwargs), noise, asked.of(kwargs), most=None)

    return wrapper


def _wrap_charged(
    endpoint: Callable[..., Any], noise: DPNoise, scores: NoisyScores, asked: Asked
) -> Callable[..., Any]:
    """The same with fresh noise, which takes its time, so that it is drawn in a thread; and with the charge for it."""
    is_async = inspect.iscoroutinefunction(function_of(endpoint))

    @functools.wraps(endpoint)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        account = kwargs.pop(_ACCOUNT, None)
        kwargs = asked.prepare(args, kwargs)
        arguments = asked.of(kwargs)
        rows = rows_asked(arguments)
        if account is None:
            raise ConfigurationError("the endpoint was called by hand, and its ledger has nobody to charge")
        await account.spend(noise.epsilon, answers=rows)
        answer = await (endpoint(**kwargs) if is_async else run_in_threadpool(endpoint, **kwargs))
        return await run_in_threadpool(scores.release, answer, noise, arguments, most=rows)

    return wrapper
