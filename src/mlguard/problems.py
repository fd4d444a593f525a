"""Answers for what went wrong: RFC 9457 problems that say which rule, and nothing about the inside."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, get_args

import orjson
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from pydantic_core.core_schema import ErrorType
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from mlguard._guard import RequestMemory
from mlguard.errors import GuardFailedError, MLGuardError
from mlguard.inputs.text import INVALID_TEXT
from mlguard.inputs.types import INVALID_FEATURES

logger = logging.getLogger("mlguard")

_INTERNAL = GuardFailedError
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1
_MAX_LOGGED = 200  # characters of one text that a caller may have chosen
_MAX_ERRORS = 10  # of a validation; a list of a million wrong numbers is one mistake
_VALIDATION_RULES = frozenset(get_args(ErrorType))
_OWN_MEMBERS = ("broken", "row", "column", "position")
_PLACES = frozenset({"body", "query", "path", "header", "cookie"})


def problem(
    status: int,
    *,
    rule: str,
    title: str,
    detail: str,
    request_id: str,
    members: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An ``application/problem+json`` response (RFC 9457)."""
    content = {
        "type": f"urn:mlguard:problem:{rule}",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
        **(members or {}),
    }
    return Response(
        orjson.dumps(content), status, media_type="application/problem+json", headers=dict(headers) if headers else None
    )


def crash_problem(request_id: str) -> Response:
    """What a caller sees of a crash: nothing but the request id that finds it in the log."""
    return problem(
        500, rule=_INTERNAL.rule, title=_INTERNAL.title, detail=_INTERNAL.default_detail, request_id=request_id
    )


def refusal_problem(conn: HTTPConnection, exc: HTTPException) -> Response:
    """The problem for a refusal, which is logged with the reason that the caller does not see."""
    memory = RequestMemory.of(conn.scope)
    memory.refused_with = exc
    request_id = memory.request_id
    _log_refusal(conn, exc, request_id)
    if isinstance(exc, MLGuardError):
        return problem(
            exc.status_code,
            rule=exc.rule,
            title=exc.title,
            detail=exc.detail,
            request_id=request_id,
            members=exc.members,
            headers=exc.headers,
        )
    if exc.status_code in {204, 205, 304} or exc.status_code < 200:
        return Response(status_code=exc.status_code, headers=exc.headers)
    title = _phrase(exc.status_code)
    members: dict[str, Any] = {}
    if exc.status_code >= 500:
        detail = _INTERNAL.default_detail  # often somebody's str(exception)
    elif isinstance(exc.detail, str):
        detail = exc.detail
    else:
        detail, members = title, {"info": jsonable_encoder(exc.detail)}
    return problem(
        exc.status_code,
        rule=title.lower().replace(" ", "-").replace("'", ""),
        title=title,
        detail=detail,
        request_id=request_id,
        members=members,
        headers=exc.headers,
    )


def validation_problem(conn: HTTPConnection, exc: RequestValidationError) -> Response:
    """The problem for FastAPI's own validation: places, positions and rules; no input, no names, no messages."""
    memory = RequestMemory.of(conn.scope)
    memory.refused_with = exc
    errors = [_scrub(error) for error in exc.errors()[:_MAX_ERRORS]]
    logger.warning("refused %s 422 request_id=%s rule=invalid-input %s", _where(conn), memory.request_id, errors)
    return problem(
        422,
        rule="invalid-input",
        title="Invalid input",
        detail="The request breaks a rule of this endpoint.",
        request_id=memory.request_id,
        members={"errors": errors},
    )


def _scrub(error: Mapping[str, Any]) -> dict[str, Any]:
    """One error of pydantic's, without anything that names a field or repeats the input."""
    place, *path = error.get("loc") or ("",)
    kind = error.get("type")
    scrubbed = {
        "in": place if place in _PLACES else "request",
        "at": [step for step in path if isinstance(step, int)],
        "broken": kind if kind in _VALIDATION_RULES else "invalid",
    }
    if kind in {INVALID_FEATURES, INVALID_TEXT}:  # our own types say which rule, and where
        scrubbed |= {name: error["ctx"][name] for name in _OWN_MEMBERS if name in error["ctx"]}
    return scrubbed


async def answer_refusal(conn: HTTPConnection, exc: Exception) -> Response | None:
    """Exception handler for ``HTTPException`` and ``RequestValidationError``, on requests and WebSockets."""
    exc = unwrap(exc)
    if isinstance(exc, RequestValidationError):
        response = validation_problem(conn, exc)
    elif isinstance(exc, HTTPException):
        response = refusal_problem(conn, exc)
    else:
        response = crash_problem(RequestMemory.of(conn.scope).request_id)
    if isinstance(conn, WebSocket):
        await _refuse_websocket(conn, response)
        return None
    return response


def unwrap(exc: Exception) -> Exception:
    """The one exception in a group, as a middleware that reads through a task group makes one."""
    while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


async def answer_websocket_validation(websocket: WebSocket, exc: Exception) -> None:  # noqa: ARG001  # Starlette's
    """Exception handler for a WebSocket whose parameters do not validate: closed, and nothing said."""
    request_id = RequestMemory.of(websocket.scope).request_id
    logger.warning("refused %s request_id=%s rule=invalid-input", _where(websocket), request_id)
    await websocket.close(_POLICY_VIOLATION)


async def _refuse_websocket(websocket: WebSocket, response: Response) -> None:
    unanswered = websocket.application_state is WebSocketState.CONNECTING
    if unanswered and "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(response)
    elif websocket.application_state is not WebSocketState.DISCONNECTED:
        await websocket.close(_POLICY_VIOLATION)


def log_crash(conn: HTTPConnection, exc: BaseException, request_id: str) -> None:
    """The whole story of a crash, once, for the operator."""
    logger.error("crashed %s request_id=%s", _where(conn), request_id, exc_info=exc)


def log_departure(conn: HTTPConnection, request_id: str) -> None:
    """A client that left before its request was complete: nobody's fault, and nothing to wake anybody for."""
    logger.info("left %s request_id=%s", _where(conn), request_id)


def _log_refusal(conn: HTTPConnection, exc: HTTPException, request_id: str) -> None:
    where = _where(conn)
    if not isinstance(exc, MLGuardError):
        level = logging.ERROR if exc.status_code >= 500 else logging.INFO
        detail = ascii(exc.detail)[:_MAX_LOGGED]
        logger.log(level, "answered %s %d request_id=%s %s", where, exc.status_code, request_id, detail)
        return
    logger.log(
        logging.ERROR if exc.status_code >= 500 else logging.WARNING,
        "refused %s %d request_id=%s rule=%s reason=%s",
        where,
        exc.status_code,
        request_id,
        exc.rule,
        exc.reason or exc.detail,
        exc_info=exc.__cause__,
    )


def _where(conn: HTTPConnection) -> str:
    """Method, path and address. The path is an attacker's text: escaped and cut, so that it cannot forge log lines."""
    method = conn.scope.get("method", "WEBSOCKET")
    address = conn.client.host if conn.client else "-"
    return f"{_escape(method)} {_escape(conn.scope['path'])} from {_escape(address)}"


def _escape(text: str) -> str:
    return ascii(text)[1:-1][:_MAX_LOGGED]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
