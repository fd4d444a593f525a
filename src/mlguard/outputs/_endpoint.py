"""How an endpoint is decorated so that what it returns can be truncated, and FastAPI notices nothing.

FastAPI drops a route's response model, status code and injected headers where an endpoint returns a ready ``Response``.
The wrapper asks FastAPI for the request and the injected response, and does what FastAPI would have done with them.
"""

import contextlib
import dataclasses
import functools
import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import orjson
from fastapi import Depends
from fastapi.utils import is_body_allowed_for_status_code
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from mlguard._fastapi import (
    EVENT_TYPES,
    apply_response_model,
    body_read,
    has_response_model,
    matched_route,
    streams_itself,
)
from mlguard._guard import RequestMemory
from mlguard.errors import ConfigurationError, UnsafeOutputError
from mlguard.outputs._answer import reconcile, without_arrays
from mlguard.outputs.open_inference_answers import id_of, repeatable
from mlguard.outputs.streaming import EVENTS, LINES, TruncatedStream

if TYPE_CHECKING:
    from mlguard.outputs.truncation import Policies, Truncation

_MARK = "__mlguard_truncated__"
_BARE = "__mlguard_bare__"
_POLICIES = "__mlguard_policies__"
_SETTINGS = "__mlguard_settings__"
_STREAMS = "__mlguard_streams__"

#: How the arguments begin that a wrapper takes and the endpoint does not: request, response and caller among them.
OURS = "_mlguard_"
REQUEST, RESPONSE, CALLER = f"{OURS}request", f"{OURS}response", f"{OURS}caller"

#: FastAPI would iterate over the answer in worker threads, one for each client that listens.
NOT_BY_FASTAPI = (
    "truncate_output sends a generator's events itself: give the route response_class=mlguard.EventStream in the place "
    "of FastAPI's EventSourceResponse"
)

#: Headers that tell how long the model has taken, which tells about its inside. FastAPI's documentation has the first.
TIMING_HEADERS = frozenset({b"x-process-time", b"server-timing", b"x-response-time", b"x-runtime"})

_GENERATORS = {AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator}


@dataclasses.dataclass(frozen=True, slots=True)
class _Exchange:
    """Where a wrapper finds the request, the injected response and the caller among its keyword arguments."""

    request: str
    response: str
    caller: str
    added: tuple[str, ...]

    def take(self, arguments: dict[str, Any]) -> tuple[Any, Any, Any]:
        taken = arguments.get(self.request), arguments.get(self.response), arguments.get(self.caller)
        for name in self.added:
            arguments.pop(name, None)
        return taken


def wrap_endpoint(endpoint: Callable[..., Any], *, policies: "Policies") -> Callable[..., Any]:
    """An endpoint of the same kind, sync or async, whose answers are truncated. A generator becomes a stream.

    Args:
        endpoint: A function, a method, a partial or a callable object.
        policies: Who sees how much.

    Raises:
        ConfigurationError: The endpoint is truncated already, FastAPI could not read its annotations, or it is a
            generator and the answer is to be a single one.
    """
    call = function_of(endpoint)
    if hasattr(endpoint, _MARK):
        raise ConfigurationError("the endpoint has a truncate_output already: write both settings into one")
    streams = inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call)
    if streams and policies.default.answer is not None:
        raise ConfigurationError(
            "an Open Inference answer is a single one: truncate_output cannot make it of a generator"
        )
    signature, exchange = _extend(endpoint, policies, streams=streams)
    release = _stream if streams else _release

    if inspect.iscoroutinefunction(call):

        @functools.wraps(endpoint)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            request, response, caller = exchange.take(kwargs)
            return release(await endpoint(*args, **kwargs), request, response, policies, caller)

    else:

        @functools.wraps(endpoint)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            request, response, caller = exchange.take(kwargs)
            return release(endpoint(*args, **kwargs), request, response, policies, caller)

    if streams:
        del wrapper.__wrapped__  # newer FastAPIs look there for a generator, which they would stream themselves
    wrapper.__signature__ = signature  # type: ignore[attr-defined]  # what FastAPI reads first
    wrapper.__name__ = getattr(endpoint, "__name__", type(endpoint).__name__)  # names the route
    mark_truncating(wrapper)
    mark_bare(endpoint, "truncate_output")
    add_settings(wrapper, policies.fingerprint())
    setattr(wrapper, _POLICIES, policies)
    setattr(wrapper, _STREAMS, streams)
    return wrapper


def mark_truncating(wrapper: Callable[..., Any]) -> None:
    """Note that what a wrapper returns to FastAPI is a truncated answer, as a ``Response``."""
    setattr(wrapper, _MARK, wrapper)  # other decorators copy the mark, and are told apart by what it holds


def mark_bare(endpoint: Callable[..., Any], decorator: str) -> None:
    """Note which decorator of ours an endpoint has, so that a route is not left with the endpoint alone."""
    with contextlib.suppress(AttributeError):  # a bound method or a partial has no room for a mark
        setattr(endpoint, _BARE, (endpoint, decorator))


def add_settings(wrapper: Callable[..., Any], settings: str) -> None:
    """Note the settings of one more decorator: with other ones, answers are others."""
    setattr(wrapper, _SETTINGS, (*settings_of(wrapper), settings))


def settings_of(endpoint: Callable[..., Any]) -> tuple[str, ...]:
    """The settings of all decorators of ours around an endpoint, from within."""
    settings: tuple[str, ...] = getattr(endpoint, _SETTINGS, ())
    return settings


def policies_of(endpoint: Callable[..., Any] | None) -> "Policies | None":
    """What an endpoint lets out, through other decorators too; None where ``truncate_output`` is not there."""
    return getattr(endpoint, _POLICIES, None)


def is_stream(endpoint: Callable[..., Any] | None) -> bool:
    """Whether an endpoint's answers are sent item by item, through other decorators too."""
    return bool(getattr(endpoint, _STREAMS, False))


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
        ConfigurationError: One cannot be read, or it takes a WebSocket.
    """
    try:
        # Text annotations mean something only in the endpoint's own module, where FastAPI would not look.
        signature = inspect.signature(endpoint, eval_str=True)
    except NameError as error:
        raise ConfigurationError(
            f"an annotation of the endpoint names {error.name!r}, which its module does not have at run time: import it"
            " outside of TYPE_CHECKING, and define it outside of functions"
        ) from error
    if any(_is_subclass(parameter.annotation, WebSocket) for parameter in signature.parameters.values()):
        raise ConfigurationError(
            "the endpoint takes a WebSocket, and what it sends over that passes no decorator: send what is left of the "
            "scores, truncate_output(scores, decimals=2)"
        )
    return signature


def _extend(
    endpoint: Callable[..., Any], policies: "Policies", *, streams: bool
) -> tuple[inspect.Signature, _Exchange]:
    """The endpoint's signature, with a Request and a Response added where it takes none itself, and who is calling."""
    signature = signature_of(endpoint)
    parameters = list(signature.parameters.values())
    names, added = [], []
    for kind, name in ((Request, REQUEST), (Response, RESPONSE)):
        own = next((p.name for p in parameters if _is_subclass(p.annotation, kind)), None)  # FastAPI fills only one
        names.append(own or name)
        if own is None:
            added.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind))
    if policies.by is not None:
        annotation = Annotated[Any, Depends(policies.by)]
        added.append(inspect.Parameter(CALLER, inspect.Parameter.KEYWORD_ONLY, annotation=annotation))
    last = len(parameters) - any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    parameters[last:last] = added
    returned = _item_of(signature.return_annotation) if streams else signature.return_annotation
    signature = signature.replace(parameters=parameters, return_annotation=returned)
    return signature, _Exchange(names[0], names[1], CALLER, tuple(p.name for p in added))


def _item_of(annotation: Any) -> Any:
    """What a generator says it yields, which FastAPI then takes for the response model."""
    if get_origin(annotation) in _GENERATORS:
        item = get_args(annotation)[0]
        return inspect.Signature.empty if _is_subclass(item, EVENT_TYPES) else item
    return annotation if _is_subclass(annotation, Response) else inspect.Signature.empty


def _is_subclass(annotation: Any, kind: type | tuple[type, ...]) -> bool:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return isinstance(annotation, type) and issubclass(annotation, kind)


def _release(answer: Any, request: Request | None, injected: Response | None, policies: "Policies", caller: Any) -> Any:
    if isinstance(answer, Response):
        raise UnsafeOutputError(f"the endpoint returned a {type(answer).__name__}: return the data, not a Response")
    if request is None or injected is None:  # called by a developer
        return policies.of(caller).release(answer)
    memory = RequestMemory.of(request.scope)
    truncation = policies.coarse if memory.label_only else policies.of(caller)
    route = _route_of(request)
    status = _status_of(route, injected)
    body = b""
    if is_body_allowed_for_status_code(status):
        repeats_id = truncation.answer is not None and truncation.answer.repeat_id
        asked = _id_of(request, memory) if repeats_id else None
        released = truncation.release(
            _through_model(answer, route, truncation), asked, for_json=True, watchers=memory.watchers
        )
        body = to_json(released)
    response = Response(body, status, media_type=_json_media_type(route))
    response.raw_headers.extend(headers_of(injected, truncation))  # FastAPI drops them for a ready Response
    return response


def _id_of(request: Request, memory: RequestMemory) -> str | None:
    call = memory.inference_call  # from Features, which has read the body
    return repeatable(call.id) if call is not None else id_of(body_read(request))


def _stream(items: Any, request: Request | None, injected: Response | None, policies: "Policies", caller: Any) -> Any:
    truncation = policies.of(caller)
    if request is None or injected is None:  # called by a developer
        return _released(items, truncation) if isinstance(items, Iterator) else _released_soon(items, truncation)
    route = _route_of(request)
    if streams_itself(route):
        raise UnsafeOutputError(NOT_BY_FASTAPI)
    memory = RequestMemory.of(request.scope)

    def write(item: Any) -> bytes:
        shown = policies.coarse if memory.label_only else truncation  # also from the middle of a stream on
        content = _through_model(item, route, shown)
        return to_json(shown.release(content, for_json=True, watchers=memory.watchers))

    return TruncatedStream(
        items,
        write,
        request,
        media_type=_stream_media_type(route),
        start=lambda: (_status_of(route, injected), headers_of(injected, truncation)),
    )


def _released(items: Iterator[Any], truncation: "Truncation") -> Iterator[Any]:
    for item in items:
        yield truncation.release(item)


async def _released_soon(items: AsyncIterator[Any], truncation: "Truncation") -> AsyncIterator[Any]:
    async for item in items:
        yield truncation.release(item)


def _through_model(answer: Any, route: Any, truncation: "Truncation") -> Any:
    if not has_response_model(route):
        return answer
    return reconcile(*apply_response_model(route, without_arrays(answer)), truncation.digits)


def _route_of(request: Request) -> Any:
    route = matched_route(request.scope)
    if not hasattr(route, "response_field"):  # its response model would be skipped
        raise UnsafeOutputError("truncate_output cannot tell which route this is, nor what its response model lets out")
    return route


def _status_of(route: Any, injected: Response) -> int:
    status: int = injected.status_code or getattr(route, "status_code", None) or 200
    return status


def headers_of(injected: Response, truncation: "Truncation") -> list[tuple[bytes, bytes]]:
    """The headers of an answer: those that were set for it, but for what tells of the inside."""
    headers = [header for header in injected.raw_headers if header[0].lower() not in TIMING_HEADERS]
    if truncation.varies and not any(name.lower() == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))  # what one caller may see is not for the next one
    return headers


def _json_media_type(route: Any) -> str:
    """What the route's response class says it sends, if that is JSON."""
    kind = _response_class(route)
    media_type: str | None = kind.media_type
    if media_type is None or not re.fullmatch(r"application/(.+\+)?json", media_type):
        raise UnsafeOutputError(f"truncate_output sends JSON, and the route's response_class is {kind.__name__}")
    return media_type


def _stream_media_type(route: Any) -> str:
    """Events or lines in the media type of the route's response class, or lines where that is plain JSON."""
    kind = _response_class(route)
    media_type: str | None = kind.media_type
    if media_type == EVENTS or (
        media_type is not None and re.fullmatch(r"application/(x-)?(ndjson|jsonl)", media_type)
    ):
        return media_type
    if kind.media_type is not None and not re.fullmatch(r"application/(.+\+)?json", kind.media_type):
        raise UnsafeOutputError(f"truncate_output streams JSON, and the route's response_class is {kind.__name__}")
    return LINES


def _response_class(route: Any) -> Any:
    return getattr(route.response_class, "value", route.response_class)  # FastAPI wraps the default


def to_json(answer: Any) -> bytes:
    """Plain data and arrays as JSON.

    Raises:
        UnsafeOutputError: It holds something that JSON does not have (500).
    """
    try:
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        raise UnsafeOutputError(f"the answer cannot be written as JSON: {error}") from error
