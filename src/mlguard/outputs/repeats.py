"""The same question, the same answer: ``repeat_cache``."""

import asyncio
import functools
import hmac
import inspect
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mlguard._fastapi import matched_route, response_settings
from mlguard._guard import Guard, Principal, RequestMemory
from mlguard._numbers import is_number, whole
from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError, MLGuardError
from mlguard.outputs._canonical import NotCanonicalError, canonical, framed, is_foreign
from mlguard.outputs._endpoint import (
    CALLER,
    OURS,
    REQUEST,
    RESPONSE,
    headers_of,
    is_stream,
    is_truncating,
    mark_bare,
    mark_truncating,
    policies_of,
    settings_of,
)
from mlguard.outputs._kept_answers import AnswersInProcess, AnswersInStore, Kept, KeptAnswers
from mlguard.outputs.truncation import Policies
from mlguard.store import Store
from mlguard.traffic._by import By
from mlguard.traffic.reservations import apart

logger = logging.getLogger("mlguard")

P = ParamSpec("P")

_WHO = f"{OURS}who"
_MARK = "__mlguard_repeated__"
_MAX_BEGUN = 1024  # questions whose beginning is kept, of each endpoint: about 1 KB each


def repeat_cache(
    *,
    key: str | bytes,
    model_version: str | Callable[[], str],
    by: Callable[..., Any] | Guard | None = None,
    ttl: float = 3_600.0,
    max_entries: int = 10_000,
    max_bytes: int = 64 * 1_048_576,
    store: Store | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[Callable[P, Any]], Callable[P, Coroutine[Any, Any, Any]]]:
    """Give the same caller the same answer to the same question, byte for byte, without asking the model again.

    Guards against averaging: noise that is drawn anew at each answer is gone after a thousand repeats. It saves the
    model's time, too. It does **not** stop a question that is changed a little: that is another one.

    Decorates an endpoint, sync or async, between the route's own decorator and ``truncate_output``::

        @app.post("/predict", dependencies=[Depends(steady)])
        @repeat_cache(key=KEY, model_version="3", by=caller)
        @truncate_output(decimals=2)
        def predict(x: Annotated[np.ndarray, Depends(features)]): ...

    A question is an HMAC-SHA-256 (RFC 2104) over the caller (method, issuer and id) and its scopes, the endpoint, the
    route and its response model, the settings of ``truncate_output`` and of noise, the model's version, and all
    arguments of the endpoint: whoever differs in one of them never gets an answer that was made for another. Numbers
    are compared exactly, but for ``-0.0``, which is 0.0.

    Guards run as ever, so a repeated question uses up limits and budgets. Answers of status 200 are kept, and of those
    the body and its type: no header is. An error is never kept. Questions that are equal and come at once are put to
    the endpoint once; a caller that goes away takes nothing from the others.

    Called directly, outside a request, the endpoint does its work each time. It is async then, as it is decorated.

    Args:
        key: A secret of 128 bits or more, that only the service knows. Whoever has it can tell from a dump of the store
            whether a question was asked that they can guess, not what was answered.
        model_version: Which model answers, or a function that says so and does not wait: with another version, no old
            answer is given.
        by: Who is calling, as for ``RateLimit``: a guard, or a function or dependency that names the caller. None is
            the client address.
        ttl: Seconds for which an answer is kept.
        max_entries: How many answers this process keeps of each endpoint. Beyond it, the one unused for longest is
            forgotten.
        max_bytes: How large those of an endpoint are together, in bytes. One that is larger is not kept.
        store: Where several processes keep their answers together: a ``RedisStore``. They are kept there as they are
            sent, under digests. None keeps them in each process. ``max_entries`` and ``max_bytes`` do not hold there.
        clock: Seconds, never going backwards. For answers in this process.

    Returns:
        A decorator. What it returns is async.

    Raises:
        ConfigurationError: An option that cannot work; no ``truncate_output`` right below; an endpoint that takes
            something from which the question cannot be told, such as a ``Request``, an ``UploadFile`` or a session of a
            database. Where only the value shows that, nothing is kept, and the log says so once.
    """
    secret = secret_bytes(key, where="repeat_cache(key=...)")
    if not is_number(ttl) or not 0 < ttl < float("inf"):
        raise ConfigurationError("repeat_cache(ttl=...) is a number of seconds above 0")
    whole("repeat_cache(max_entries=...)", max_entries, least=1)
    whole("repeat_cache(max_bytes=...)", max_bytes, least=1)
    if not callable(model_version) and (not isinstance(model_version, str) or not model_version):
        raise ConfigurationError("repeat_cache(model_version=...) is a text that is not empty, or a function")
    if store is not None and (not isinstance(store, Store) or store.forgets_on_restart):
        raise ConfigurationError(
            "repeat_cache(store=...) is a store that several processes share, such as a RedisStore; leave it out to "
            "keep answers in this process"
        )
    caller = By(by, where="repeat_cache")

    def decorate(endpoint: Callable[P, Any]) -> Callable[P, Coroutine[Any, Any, Any]]:
        kept: KeptAnswers
        if store is None:
            kept = AnswersInProcess(max_entries=max_entries, max_bytes=max_bytes, ttl=ttl, clock=clock)
        else:
            kept = AnswersInStore(store, ttl=ttl)
        policies = _checked_policies(endpoint)
        repeats = _Repeats(endpoint, _Questions(endpoint, secret, caller, model_version, policies), kept, policies)

        @functools.wraps(endpoint)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await repeats.answer(args, kwargs)

        wrapper.__signature__ = _extend(endpoint, caller)  # type: ignore[attr-defined]  # what FastAPI reads first
        mark_truncating(wrapper)
        setattr(wrapper, _MARK, True)
        mark_bare(endpoint, "repeat_cache")
        return wrapper

    return decorate


def _checked_policies(endpoint: Callable[..., Any]) -> Policies:
    """Who sees how much of the endpoint's answers, if those are such as can be kept."""
    if hasattr(endpoint, _MARK):
        raise ConfigurationError("the endpoint has a repeat_cache already")
    policies = policies_of(endpoint)
    if policies is None or not is_truncating(endpoint):
        raise ConfigurationError("repeat_cache stands right above @truncate_output, which makes the answer: add one")
    if is_stream(endpoint):
        raise ConfigurationError("repeat_cache keeps whole answers, and no stream: leave it out")
    answer = policies.default.answer
    if answer is not None and answer.repeat_id:
        raise ConfigurationError(
            "repeat_cache gives the same answer to the same question, and this one repeats the id of the request: set "
            "OpenInferenceAnswer(repeat_id=False)"
        )
    for parameter in inspect.signature(endpoint).parameters.values():
        if not parameter.name.startswith(OURS) and is_foreign(parameter.annotation):
            raise ConfigurationError(
                f"repeat_cache cannot tell one question from another by the argument {parameter.name!r} of the "
                "endpoint: take the numbers, texts and models in it that the answer depends on, as arguments or by "
                "way of a dependency"
            )
    return policies


def _extend(endpoint: Callable[..., Any], caller: By) -> inspect.Signature:
    """The endpoint's signature, and what tells who is calling."""
    signature = inspect.signature(endpoint)
    added = [p.replace(name=_WHO, kind=inspect.Parameter.KEYWORD_ONLY) for p in caller.parameters()]
    parameters = list(signature.parameters.values())
    last = len(parameters) - any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return signature.replace(parameters=[*parameters[:last], *added, *parameters[last:]])


class _Questions:
    """What one endpoint may be asked.

    Args:
        endpoint: The endpoint.
        secret: The secret that was configured.
        caller: Who is calling.
        model_version: Which model answers.
        policies: Who sees how much of the answers.
    """

    def __init__(
        self,
        endpoint: Callable[..., Any],
        secret: bytes,
        caller: By,
        model_version: str | Callable[[], str],
        policies: Policies,
    ) -> None:
        self._caller = caller
        self._version = model_version if callable(model_version) else None
        self._fixed_version = model_version if isinstance(model_version, str) else ""
        self._policies = policies
        what = framed("repeat_cache", endpoint.__module__, endpoint.__qualname__, *settings_of(endpoint))
        # A key of its own for each endpoint and policy, so that the secret may serve for other purposes, too.
        self._mac = hmac.new(hmac.digest(secret, what, "sha256"), digestmod="sha256")
        #: Begun with a route and a caller, which are kept beside it so that their ids cannot be given to others.
        self._begun: dict[tuple[int, str, str | int, str, str], tuple[hmac.HMAC, Any, Any]] = {}

    def ask(self, request: Request, who: Any, arguments: dict[str, Any], sees: Any) -> bytes:
        """The digest of a question.

        Args:
            request: The request.
            who: Who is asking, as ``repeat_cache`` has it.
            arguments: Those of the endpoint.
            sees: Who is asking, as ``truncate_output`` has it, which shows more to some.

        Raises:
            NotCanonicalError: An argument cannot be told from others by what it holds.
        """
        caller = self._caller.caller(request, who)
        version = self._fixed_version if self._version is None else self._version()
        if not isinstance(version, str):
            raise ConfigurationError(
                f"repeat_cache(model_version=...) returned a {type(version).__name__}, and no text"
            )
        route = matched_route(request.scope)
        mount = str(request.scope.get("root_path", ""))  # apps that are mounted may have routes of one path
        place = (id(route), mount, caller if isinstance(caller, str) else id(caller), request.method, version)
        known = self._begun.get(place)
        if known is None:
            known = (self._begin(route, mount, caller, request.method, version), route, caller)
            if len(self._begun) >= _MAX_BEGUN:
                self._begun.clear()
            self._begun[place] = known
        mac = known[0].copy()
        rank = -1 if RequestMemory.of(request.scope).label_only else self._policies.rank(sees)
        mac.update(b"%d:" % rank + canonical(arguments))
        return mac.digest()

    def _begin(self, route: Any, mount: str, caller: Any, method: str, version: str) -> hmac.HMAC:
        """What all questions of one caller have in common."""
        if not hasattr(route, "response_field"):
            raise NotCanonicalError("which route it is at cannot be told")
        scopes = sorted(caller.scopes) if isinstance(caller, Principal) else ()
        identity = self._caller.identity(caller)
        names = (method, mount, response_settings(route), version, str(len(identity)), *identity, *scopes)
        mac = self._mac.copy()
        mac.update(b"%d:" % len(names) + framed(*names))
        return mac


class _Work:
    """An endpoint at work on a question, and how many wait for the answer.

    Args:
        task: Does it. Its result is the answer, and what is kept of it.
    """

    def __init__(self, task: "asyncio.Task[tuple[Any, Kept | None]]") -> None:
        self.task = task
        self.is_over = False
        self._waiting = 0

    async def wait(self) -> tuple[Any, Kept | None]:
        """The answer. Who goes away takes it from nobody else; when all have gone, the work ends too."""
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._waiting -= 1
            self.is_over = self.task.done() or not self._waiting
            if self.is_over:
                self.task.cancel()  # which does nothing to one that is done


class _Repeats:
    """An endpoint that is asked each question once.

    Args:
        endpoint: The endpoint, which answers with a ``Response``.
        questions: What it may be asked.
        kept: Where answers are kept.
        policies: Who sees how much of them.
    """

    def __init__(
        self, endpoint: Callable[..., Any], questions: _Questions, kept: KeptAnswers, policies: Policies
    ) -> None:
        self._endpoint = endpoint
        self._is_async = inspect.iscoroutinefunction(endpoint)
        self._questions = questions
        self._kept = kept
        self._policies = policies
        self._asked: dict[bytes, _Work] = {}
        self._has_warned = False

    async def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer to one request."""
        who = kwargs.pop(_WHO, None)
        request, injected = kwargs.get(REQUEST), kwargs.get(RESPONSE)
        if args or request is None or injected is None or injected.status_code not in {None, 200}:
            return await self._run(args, kwargs)  # a developer's call, or an answer that is not to be kept
        arguments = {name: value for name, value in kwargs.items() if not name.startswith(OURS)}
        try:
            question = self._questions.ask(request, who, arguments, kwargs.get(CALLER))
        except NotCanonicalError as error:
            self._warn(str(error))
            return await self._run(args, kwargs)
        known = await self._kept.get(question)
        if known is not None:
            return self._respond(known, injected)
        return await self._ask(question, injected, kwargs)

    async def _ask(self, question: bytes, injected: Response, kwargs: dict[str, Any]) -> Any:
        """Have the endpoint answer, or wait for the answer to the same question that it is at work on."""
        work = self._asked.get(question)
        is_own = work is None or work.task.get_loop() is not asyncio.get_running_loop()
        if work is None or is_own:
            work = self._asked[question] = _Work(apart(self._work(question, kwargs)))
        try:
            answer, kept = await work.wait()
        except MLGuardError:  # of a ledger, say: what one caller is refused is nothing to others who ask the same
            if is_own:
                raise
            answer, kept = None, None
        finally:
            if work.is_over and self._asked.get(question) is work:
                del self._asked[question]
        if kept is not None:
            return self._respond(kept, injected)
        return answer if is_own else await self._run((), kwargs)

    def _respond(self, kept: Kept, injected: Response) -> Response:
        return kept.respond(headers_of(injected, self._policies.default))  # they are the same of all policies

    async def _work(self, question: bytes, kwargs: dict[str, Any]) -> tuple[Any, Kept | None]:
        answer = await self._run((), kwargs)
        kept = Kept.of(answer)
        return answer, None if kept is None else await self._kept.put(question, kept)

    async def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_async:
            return await self._endpoint(*args, **kwargs)
        return await run_in_threadpool(self._endpoint, *args, **kwargs)

    def _warn(self, why: str) -> None:
        if not self._has_warned:
            logger.warning("repeat_cache keeps no answer of %s: %s", self._endpoint.__qualname__, why)
        self._has_warned = True
