"""The only file that knows FastAPI's internals.

They move between releases, so every difference between the supported versions is here: where the matched route's
dependency tree is, how scopes are spelled on it, how included routers are walked, how a route's response model is
applied.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import FunctionType
from typing import Any, get_args

import fastapi.routing
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
    websocket_request_validation_exception_handler,
)
from fastapi.exceptions import ResponseValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Scope

from mlguard._guard import Guard, Principal
from mlguard.errors import ConfigurationError

# FastAPI >= 0.137 keeps included routers as single entries and offers this to see through them. Before, routes are
# flat.
_iter_route_contexts: Callable[[Iterable[BaseRoute]], Iterator[Any]] = getattr(
    fastapi.routing, "iter_route_contexts", iter
)

#: What stands for a ready server-sent event, and what makes FastAPI send such events itself, in newer releases.
EVENT_TYPES: tuple[type, ...] = ()
EVENT_RESPONSES: tuple[type, ...] = ()
with contextlib.suppress(ImportError):
    from fastapi.sse import EventSourceResponse, ServerSentEvent

    EVENT_TYPES, EVENT_RESPONSES = (ServerSentEvent,), (EventSourceResponse,)

#: What FastAPI installs by default, and ``harden`` replaces.
DEFAULT_HTTP_HANDLER = http_exception_handler
DEFAULT_VALIDATION_HANDLER = request_validation_exception_handler
DEFAULT_WEBSOCKET_HANDLER = websocket_request_validation_exception_handler


def matched_route(scope: Scope) -> Any | None:
    """The route that the router chose, as it is in effect: with the dependencies of the routers that include it."""
    route = scope.get("route")
    nested = scope.get("fastapi")
    context = nested.get("effective_route_context") if isinstance(nested, dict) else None
    # In an app that is mounted in an included router, the context is still that of the mount.
    return context if context is not None and context.original_route is route else route


# A dependency tree ---------------------------------------------------------------------------------------------------


def scopes_of(dependant: Dependant) -> list[str]:
    """The scopes demanded at this node, its own and those of the nodes above it."""
    flat = getattr(dependant, "security_scopes", None)  # until FastAPI 0.122
    if flat is not None:
        return list(flat)
    parent = getattr(dependant, "parent_oauth_scopes", None) or []
    own = getattr(dependant, "own_oauth_scopes", None) or []
    return list(dict.fromkeys([*parent, *own]))


def takes_turns(dependant: Dependant) -> bool:
    """Whether calls of a node wait for each other (``Depends(..., max_concurrency=...)`` of newer FastAPIs).

    Who waits for a turn while it is held for them waits for ever, so only FastAPI may call it.
    """
    return getattr(dependant, "concurrency", None) is not None


def injected_response() -> Response:
    """What FastAPI gives an endpoint to set headers and the status on."""
    response = Response()
    del response.headers["content-length"]
    response.status_code = None  # type: ignore[assignment]  # FastAPI's way to say that nobody has set it
    return response


def body_read(request: Request) -> bytes | None:
    """The body of a request, if somebody has read all of it as bytes already. FastAPI and guards do, of most."""
    body: bytes | None = getattr(request, "_body", None)
    return body


def is_instrumented() -> bool:
    """Whether somebody (a tracer, say) has put functions of their own in the place of those that FastAPI calls."""
    watched = ("get_request_handler", "run_endpoint_function", "serialize_response")
    functions = [*(getattr(fastapi.routing, name) for name in watched), fastapi.routing.APIRoute.get_route_handler]
    return any(type(f) is not FunctionType or f.__globals__ is not vars(fastapi.routing) for f in functions)


_ROUTE_APP: Any = fastapi.routing.request_response(lambda _: Response())


def is_wrapped(route: Any) -> bool:
    """Whether somebody has put an ASGI app of their own in the place of the one that FastAPI has made of a route."""
    return getattr(route.app, "__code__", None) is not _ROUTE_APP.__code__


def is_traced(scope: Scope) -> bool:
    """Whether FastAPI, in newer releases, keeps a record of this request's steps for OpenTelemetry."""
    return "fastapi.telemetry" in scope


def exit_stack(scope: Scope) -> AsyncExitStack | None:
    """What FastAPI closes once the answer was sent, however that ends; None in releases that have no such thing."""
    stack: AsyncExitStack | None = scope.get("fastapi_middleware_astack")
    return stack


# Walking an app -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """One route of an app, seen through included routers and mounts."""

    path: str
    methods: frozenset[str]
    endpoint: Callable[..., Any] | None
    guards: tuple[Guard, ...]
    body_fields: tuple[Any, ...]
    dependencies: tuple[Any, ...]
    documented: bool
    streams_itself: bool


def routes_of(app: ASGIApp, prefix: str = "") -> Iterator[RouteInfo]:
    """Every FastAPI route of an app, with the guards in its dependency tree. Mounted apps are not documented."""
    for context in _iter_route_contexts(getattr(app, "routes", ())):
        route = getattr(context, "original_route", context)
        if isinstance(route, Mount):
            yield from routes_of(route.app, prefix + (context.path or ""))
        dependant = getattr(context, "dependant", None)
        if dependant is not None:
            yield RouteInfo(
                prefix + str(context.path_format),
                frozenset(getattr(context, "methods", None) or ()),
                context.endpoint,
                tuple(dict.fromkeys(_guards_in(dependant))),
                tuple(_body_fields(dependant)),
                tuple(_dependencies_in(dependant)),
                documented=not prefix and getattr(context, "include_in_schema", False),
                streams_itself=streams_itself(context),
            )


def streams_itself(route: Any) -> bool:
    """Whether FastAPI iterates over what the endpoint returns, whatever that is, and sends it as events."""
    response_class = getattr(route, "response_class", None)
    return isinstance(response_class, type) and issubclass(response_class, EVENT_RESPONSES)


def mounted_apps(app: ASGIApp, prefix: str = "") -> Iterator[tuple[str, FastAPI]]:
    """The FastAPI apps that are mounted in an app, and where."""
    for context in _iter_route_contexts(getattr(app, "routes", ())):
        route = getattr(context, "original_route", context)
        if isinstance(route, Mount):
            path = prefix + (context.path or "")
            if isinstance(route.app, FastAPI):
                yield path, route.app
            yield from mounted_apps(route.app, path)


def own_routes(app: FastAPI) -> Iterator[Any]:
    """The HTTP routes of an app and its included routers, as they are in effect, if it is this app that overrides."""
    for context in _iter_route_contexts(app.routes):
        route = getattr(context, "_route_context", None) or getattr(context, "route", context)
        if getattr(route, "dependency_overrides_provider", None) is app:
            yield route


def _guards_in(dependant: Dependant) -> Iterator[Guard]:
    for field in _fields(dependant):
        if _stands_for_guard(field.field_info):
            raise ConfigurationError(
                f"{dependant.path}: {field.name!r} is read from the request, where callers may write what they like; "
                "what a guard returns comes with Annotated[..., Depends(guard)]"
            )
    for child in dependant.dependencies:
        call: Any = child.call
        if isinstance(call, functools.partial) and isinstance(call.func, Guard):
            # FastAPI before 0.123 does not await what a partial of an object returns: nobody would be refused.
            raise ConfigurationError(f"Depends(partial({call.func!r})): give Depends the guard itself")
        if isinstance(call, Guard):
            if is_async(call) and not inspect.iscoroutinefunction(type(call).__call__):
                raise ConfigurationError(  # for the same reason
                    f"{type(call).__name__}.__call__ is wrapped by a function that is not async: make that one async"
                )
            yield call
        yield from _guards_in(child)


def _dependencies_in(dependant: Dependant) -> Iterator[Any]:
    """What FastAPI calls for the nodes below one."""
    for child in dependant.dependencies:
        yield child.call
        yield from _dependencies_in(child)


def _body_fields(dependant: Dependant) -> Iterator[Any]:
    """What FastAPI reads from the body for any node of a tree."""
    yield from dependant.body_params
    for child in dependant.dependencies:
        yield from _body_fields(child)


def _fields(dependant: Dependant) -> Iterator[Any]:
    """What a node reads from the request."""
    for place in ("path", "query", "header", "cookie", "body"):
        yield from getattr(dependant, f"{place}_params")


def _stands_for_guard(field: Any) -> bool:
    """Whether a parameter has a guard's value or a guard in it, but not the ``Depends`` that makes it one."""
    parts = [field.default, *field.metadata, *_parts(field.annotation)]
    return any(part is Principal or isinstance(part, Guard) for part in parts)


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def is_async(guard: Guard) -> bool:
    """Whether what a guard's call returns is to be awaited, and is neither a plain value nor a generator."""
    call: Any = getattr(type(guard), "__call__", None)  # noqa: B004  # every guard has one, but not the base class
    return inspect.iscoroutinefunction(inspect.unwrap(call))


def resolve(app: FastAPI, scope: Scope) -> Scope:
    """A copy of the scope as it will be once the router has chosen a route, without running anything."""
    for context in _iter_route_contexts(app.routes):
        match, child = context.matches(scope)
        if match is Match.FULL:
            resolved = {**scope, **child}
            if getattr(context, "_route_context", None) is not None:  # in an included router
                resolved["fastapi"] = {"effective_route_context": context._route_context}
                resolved.setdefault("route", context.original_route)
            mounted = getattr(getattr(context, "original_route", context), "app", None)
            return resolve(mounted, {**resolved, "app": mounted}) if isinstance(mounted, FastAPI) else resolved
    return scope


def docs_paths(app: FastAPI) -> frozenset[str]:
    """Where FastAPI serves the OpenAPI document and the pages that show it."""
    urls = (app.openapi_url, app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url)
    return frozenset(url for url in urls if url)


def remove_docs(app: FastAPI) -> None:
    """Take the OpenAPI document and its pages out of the app."""
    paths = docs_paths(app)
    app.router.routes[:] = [
        route
        for route in app.router.routes
        if not (isinstance(route, Route) and route.path in paths and not route.include_in_schema)
    ]
    app.openapi_url = app.docs_url = app.redoc_url = None


# A route's response model --------------------------------------------------------------------------------------------


def has_response_model(route: Any) -> bool:
    """Whether a route has a response model that can reject or keep back anything. ``-> Any`` alone is none."""
    if getattr(route, "response_field", None) is None:
        return False
    return route.response_model is not Any or bool(
        route.response_model_include is not None
        or route.response_model_exclude
        or not route.response_model_by_alias
        or route.response_model_exclude_unset
        or route.response_model_exclude_defaults
        or route.response_model_exclude_none
    )


def response_settings(route: Any) -> str:
    """What two routes have in common that answer alike what one endpoint returns."""
    settings = (
        route.path_format,
        route.status_code,
        getattr(route.response_class, "value", route.response_class),  # FastAPI wraps the default
        route.response_model,
        _in_order(route.response_model_include),
        _in_order(route.response_model_exclude),
        route.response_model_by_alias,
        route.response_model_exclude_unset,
        route.response_model_exclude_defaults,
        route.response_model_exclude_none,
    )
    return repr(settings)


def _in_order(fields: Any) -> Any:
    """What is the same text in every process: sets have no order."""
    if isinstance(fields, Mapping):
        return sorted((repr(name), _in_order(below)) for name, below in fields.items())
    return sorted(map(repr, fields)) if isinstance(fields, set | frozenset) else fields


def _place(step: Any) -> Any:
    """A step to what does not fit. One that is no name is a key of a dict: a number that the model predicts, say."""
    return step if isinstance(step, int) or step.isidentifier() else "..."


def apply_response_model(route: Any, content: Any) -> tuple[Any, Any]:
    """What the response model of a route lets out.

    FastAPI skips the model where an endpoint returns a ready ``Response``, and with it every field that the model keeps
    back. So what returns one must do what FastAPI would have done.

    Args:
        route: The route in effect, one that has a response model.
        content: What the endpoint returned, in plain Python.

    Returns:
        Plain data, after the include, exclude and alias settings of the route.

    Raises:
        ResponseValidationError: The content does not fit the model (500). It says where and why, without the content.
    """
    field = route.response_field
    value, errors = field.validate(content, {}, loc=("response",))
    if errors:
        # Messages and inputs may hold what the model predicts, and this text goes into a log.
        raise ResponseValidationError(errors=[{"type": e["type"], "loc": (*map(_place, e["loc"]),)} for e in errors])
    dump = functools.partial(
        field.serialize,
        value,
        include=route.response_model_include,
        exclude=route.response_model_exclude,
        by_alias=route.response_model_by_alias,
        exclude_unset=route.response_model_exclude_unset,
        exclude_defaults=route.response_model_exclude_defaults,
        exclude_none=route.response_model_exclude_none,
    )
    return dump(mode="python"), dump(mode="json")
