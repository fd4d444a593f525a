"""Guards in the OpenAPI document, so that a person who opens ``/docs`` can authorise and try the call."""

import itertools
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from mlguard import _fastapi
from mlguard._guard import Control, Guard
from mlguard.auth.any_auth import Alternative, scheme_names
from mlguard.errors import (
    AddressNotAllowedError,
    BodyTooLargeError,
    InsufficientScopeError,
    InvalidInputError,
    MLGuardError,
    NotAuthenticatedError,
    RateLimitedError,
    StoreFullError,
    UnsupportedMediaTypeError,
)
from mlguard.outputs._documented import describe_answer

_REFUSALS: tuple[type[MLGuardError], ...] = (
    NotAuthenticatedError,
    InsufficientScopeError,
    BodyTooLargeError,
    UnsupportedMediaTypeError,
    InvalidInputError,
    RateLimitedError,
    StoreFullError,
)
_DESCRIPTIONS = {error.status: error.title for error in _REFUSALS}
_PROBLEM = "mlguard.Problem"  # a name that no Python class has

_PROBLEM_SCHEMA = {
    "title": "Problem",
    "description": "What was refused, and by which rule (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string", "description": "Names the rule."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string", "description": "Finds this answer in the service's log."},
    },
}


def document_guards(app: FastAPI) -> None:
    """Make ``app.openapi()`` show what each route's guards expect, how they refuse, and what leaves."""
    original = app.openapi
    described: dict[str, Any] | None = None

    def openapi() -> dict[str, Any]:
        nonlocal described
        schema = original()
        if schema is not described:  # FastAPI makes it once, and keeps it
            _describe(app, schema)
            described = schema
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI's documentation gives


def _describe(app: FastAPI, schema: dict[str, Any]) -> None:
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    schemas[_PROBLEM] = _PROBLEM_SCHEMA
    for route in _fastapi.routes_of(app):
        for method in route.methods if route.documented else ():
            operation = schema.get("paths", {}).get(route.path, {}).get(method.lower())
            if operation is not None:
                _describe_operation(operation, route)
                describe_answer(operation, route.endpoint, schemas)
    # FastAPI's own validation errors are answered as problems too, so their schemas are used no more.
    for name in ("HTTPValidationError", "ValidationError"):
        if f"'#/components/schemas/{name}'" not in str(schema):
            schemas.pop(name, None)


def _describe_operation(operation: dict[str, Any], route: _fastapi.RouteInfo) -> None:
    _describe_security(operation, route)
    responses = operation.setdefault("responses", {})
    refusals: dict[int, dict[str, None]] = {}
    for guard in route.guards:
        body = guard.openapi_body()
        if body is not None:
            operation.setdefault("requestBody", body)
        for status in guard.statuses:
            refusals.setdefault(status, {})[_title(status, guard)] = None
    for status, titles in refusals.items():
        responses.setdefault(str(status), _problem_response(" / ".join(titles)))
    if "requestBody" in operation:
        responses.setdefault("413", _problem_response(_title(413)))
    if "HTTPValidationError" in str(responses.get("422")):
        responses["422"] = _problem_response(_title(422))


def _describe_security(operation: dict[str, Any], route: _fastapi.RouteInfo) -> None:
    """Say which schemes are needed together, and which are alternatives: FastAPI lists all as alternatives."""
    scopes: dict[str, list[str]] = {}
    for entry in operation.get("security", ()):
        for name, demanded in entry.items():
            scopes[name] = list(dict.fromkeys([*scopes.get(name, []), *demanded]))
    if not scopes:
        return
    sets = [scheme_names(guard) for guard in route.guards if not isinstance(guard, Alternative)]
    if {name for names in sets for name in names} != scopes.keys():  # somebody else's schemes: only FastAPI knows
        return
    together = {frozenset(choice) for choice in itertools.product(*filter(None, sets))}
    fewest = [choice for choice in together if not any(other < choice for other in together)]
    order = [*scopes]
    listed = sorted(sorted(order.index(name) for name in choice) for choice in fewest)
    operation["security"] = [{order[at]: scopes[order[at]] for at in choice} for choice in listed]


def _title(status: int, guard: Guard | None = None) -> str:
    if guard is not None and guard.control is Control.ADDRESS:
        return AddressNotAllowedError.title  # who is refused for a scope gets a 403 too
    return _DESCRIPTIONS.get(status) or HTTPStatus(status).phrase


def _problem_response(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{_PROBLEM}"}}},
    }
