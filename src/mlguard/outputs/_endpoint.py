"""How an endpoint is decorated so that what it returns can be truncated, and FastAPI notices nothing.

FastAPI drops a route's response model, status code and injected headers where an endpoint returns a ready ``Response``.
The wrapper asks FastAPI for the request and the injected response, and does what FastAPI would have done with them.
"""

import contextlib
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

import orjson
from fastapi.utils import is_body_allowed_for_status_code
from starlette.requests import Request
from starlette.responses import Response

from mlguard._fastapi import apply_response_model, has_response_model, matched_route
from mlguard.errors import ConfigurationError, UnsafeOutputError
from mlguard.outputs._answer import reconcile, without_arrays

Truncate = Callable[[Any], Any]

_MARK = "__mlguard_truncated__"
_BARE = "__mlguard_bare__"
_POLICY = "__mlguard_policy__"

#: How the arguments begin that a wrapper takes and the endpoint does not: the request and the response among them.
OURS = "_mlguard_"
REQUEST, RESPONSE = f"{OURS}request", f"{OURS}response"


@dataclasses.dataclass(frozen=True, slots=True)
class _Exchange:
    """Where a wrapper finds the request and the injected response among its keyword arguments."""

    request: str
    response: str
    added: tuple[str, ...]

    def take(self, arguments: dict[str, Any]) -> tuple[Any, Any]:
        taken = arguments.get(self.request), arguments.get(self.response)
        for name in self.added:
            arguments.pop(name, None)
        return taken


def wrap_endpoint(endpoint: Callable[..., Any], *, truncate: Truncate, decimals: int) -> Callable[..., Any]:
    """An endpoint of the same kind, sync or async, whose answers are truncated.

    Args:
        endpoint: A function, a method, a partial or a callable object.
        truncate: Makes plain data of an answer.
        decimals: How many decimals of a number may stay where a response model turns it into text.

    Raises:
        ConfigurationError: The endpoint is a generator or truncated already, or FastAPI could not read its annotations.
    """
    call = function_of(endpoint)
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise ConfigurationError("truncate_output cannot truncate a generator: return the whole answer")
    if hasattr(endpoint, _MARK):
        raise ConfigurationError("the endpoint has a truncate_output already: write both settings into one")
    signature, exchange = _extend(endpoint)
    release = functools.partial(_release, truncate=truncate, decimals=decimals)

    if inspect.iscoroutinefunction(call):

        @functools.wraps(endpoint)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            request, response = exchange.take(kwargs)
            return release(await endpoint(*args, **kwargs), request, response)

    else:

        @functools.wraps(endpoint)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            request, response = exchange.take(kwargs)
            return release(endpoint(*args, **kwargs), request, response)

    wrapper.__signature__ = signature  # type: ignore[attr-defined]  # what FastAPI reads first
    wrapper.__name__ = getattr(endpoint, "__name__", type(endpoint).__name__)  # names the route
    mark_truncating(wrapper)
    mark_bare(endpoint, "truncate_output")
    add_policy(wrapper, repr(getattr(truncate, "__self__", truncate)))
    return wrapper


def mark_truncating(wrapper: Callable[..., Any]) -> None:
    """Note that what a wrapper returns to FastAPI is a truncated answer, as a ``Response``."""
    setattr(wrapper, _MARK, wrapper)  # other decorators copy the mark, and are told apart by what it holds


def mark_bare(endpoint: Callable[..., Any], decorator: str) -> None:
    """Note which decorator of ours an endpoint has, so that a route is not left with the endpoint alone."""
    with contextlib.suppress(AttributeError):  # a bound method or a partial has no room for a mark
        setattr(endpoint, _BARE, (endpoint, decorator))


def add_policy(wrapper: Callable[..., Any], settings: str) -> None:
    """Note the settings of one more decorator: with other ones, answers are others."""
    setattr(wrapper, _POLICY, (*policy_of(wrapper), settings))


def policy_of(endpoint: Callable[..., Any]) -> tuple[str, ...]:
    """The settings of all decorators of ours around an endpoint, from within."""
    policy: tuple[str, ...] = getattr(endpoint, _POLICY, ())
    return policy


def is_truncating(endpoint: Callable[..., Any] | None) -> bool:
    """Whether an endpoint is the very function that ``truncate_output`` made, which answers with a ``Response``."""
    return endpoint is not None and getattr(endpoint, _MARK, None) is endpoint


def decorator_above(endpoint: Callable[..., Any] | None) -> str | None:
    """The decorator of ours that has decorated this very function, where a route should have the decorated one."""
    decorated, decorator = getattr(endpoint, _BARE, (None, None))
    return decorator if endpoint is not None and decorated is endpoint else None


def function_of(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a call of the endpoint runs."""
    while isinstance(endpoint, functools.partial):
        endpoint = endpoint.func
    return endpoint if inspect.isroutine(endpoint) else type(endpoint).__call__


def signature_of(endpoint: Callable[..., Any]) -> inspect.Signature:
    """The endpoint's signature, in which no annotation is a text.

    Raises:
        ConfigurationError: One cannot be read.
    """
    try:
        # Text annotations mean something only in the endpoint's own module, where FastAPI would not look.
        return inspect.signature(endpoint, eval_str=True)
    except NameError as error:
        raise ConfigurationError(
            f"an annotation of the endpoint names {error.name!r}, which its module does not have at run time: import it"
            " outside of TYPE_CHECKING, and define it outside of functions"
        ) from error


def _extend(endpoint: Callable[..., Any]) -> tuple[inspect.Signature, _Exchange]:
    """The endpoint's signature, with a Request and a Response added where it takes none itself."""
    signature = signature_of(endpoint)
    parameters = list(signature.parameters.values())
    names, added = [], []
    for kind, name in ((Request, REQUEST), (Response, RESPONSE)):
        own = next((p.name for p in parameters if _is_subclass(p.annotation, kind)), None)  # FastAPI fills only one
        names.append(own or name)
        if own is None:
            added.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind))
    last = len(parameters) - any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    parameters[last:last] = added
    return signature.replace(parameters=parameters), _Exchange(names[0], names[1], tuple(p.name for p in added))


def _is_subclass(annotation: Any, kind: type) -> bool:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return isinstance(annotation, type) and issubclass(annotation, kind)


def _release(
    answer: Any, request: Request | None, injected: Response | None, *, truncate: Truncate, decimals: int
) -> Any:
    if isinstance(answer, Response):
        raise UnsafeOutputError(f"the endpoint returned a {type(answer).__name__}: return the data, not a Response")
    if request is None or injected is None:  # called by a developer
        return truncate(answer)
    route = matched_route(request.scope)
    if not hasattr(route, "response_field"):  # its response model would be skipped
        raise UnsafeOutputError("truncate_output cannot tell which route this is, nor what its response model lets out")
    status = injected.status_code or getattr(route, "status_code", None) or 200
    body = b""
    if is_body_allowed_for_status_code(status):
        if has_response_model(route):
            answer = reconcile(*apply_response_model(route, without_arrays(answer)), decimals)
        body = _json(truncate(answer))
    response = Response(body, status, media_type=_json_media_type(route))
    response.raw_headers.extend(injected.raw_headers)  # FastAPI drops them for a ready Response
    return response


def _json_media_type(route: Any) -> str:
    """What the route's response class says it sends, if that is JSON."""
    kind = getattr(route.response_class, "value", route.response_class)  # FastAPI wraps the default
    media_type: str | None = kind.media_type
    if media_type is None or not re.fullmatch(r"application/(.+\+)?json", media_type):
        raise UnsafeOutputError(f"truncate_output sends JSON, and the route's response_class is {kind.__name__}")
    return media_type


def _json(answer: Any) -> bytes:
    try:
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        raise UnsafeOutputError(f"the answer cannot be written as JSON: {error}") from error
