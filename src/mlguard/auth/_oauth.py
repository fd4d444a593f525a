"""How an OAuth 2.0 token endpoint is asked, and how it refuses (RFC 6749)."""

from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mlguard.auth._scopes import is_scope
from mlguard.errors import BodyTooLargeError, MLGuardError
from mlguard.problems import refusal_problem

FORM = "application/x-www-form-urlencoded"
#: Tokens are kept by nobody on the way (RFC 6749, section 5.1).
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_MAX_FORM_SIZE = 16_384
_MAX_FIELDS = 32


class OAuthError(MLGuardError):
    """A refusal of a token endpoint (RFC 6749, section 5.2), which is a problem after RFC 9457 at the same time."""

    error: ClassVar[str] = ""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, error=self.error, error_description=self.default_detail)


class InvalidRequestError(OAuthError):
    """The form lacks a field, has one twice, or is none (400)."""

    error = "invalid_request"
    rule = "invalid-request"
    title = "Invalid request"
    default_detail = "The request lacks a field, repeats one, or is not a form in application/x-www-form-urlencoded."


class InvalidGrantError(OAuthError):
    """Name, password or refresh token do not hold: the caller cannot tell which (400)."""

    error = "invalid_grant"
    rule = "invalid-grant"
    title = "Invalid grant"
    default_detail = "The name, the password or the refresh token is not valid."


class InvalidScopeError(OAuthError):
    """A scope is malformed, or nothing of what was asked for can be granted (400)."""

    error = "invalid_scope"
    rule = "invalid-scope"
    title = "Invalid scope"
    default_detail = "The scope is malformed, or cannot be granted."


class UnsupportedGrantTypeError(OAuthError):
    """Another grant type than this endpoint takes (400)."""

    error = "unsupported_grant_type"
    rule = "unsupported-grant-type"
    title = "Unsupported grant type"
    default_detail = "The grant type is not one that this endpoint takes."


def refused(request: Request, error: OAuthError) -> Response:
    """The answer to a refused request, which is logged with its reason."""
    response = refusal_problem(request, error)
    # Clients of RFC 6749 expect this type; the members of a problem are more than they look at.
    response.headers["content-type"] = "application/json"
    response.headers.update(NO_STORE)
    return response


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form. One without a value counts as left out (RFC 6749, section 3.2).

    Raises:
        InvalidRequestError: It is no form, not UTF-8, has a field twice, or too many of them.
        BodyTooLargeError: It is larger than any such form can be (413).
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise InvalidRequestError("not a form in application/x-www-form-urlencoded")
    fields = None
    with suppress(ValueError):  # one that quotes the form: raised anew below, without it
        text = (await _read(request)).decode()
        fields = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    if fields is None:
        raise InvalidRequestError("a form that cannot be read")
    form = dict(fields)
    if len(form) < len(fields):
        raise InvalidRequestError("a form that has a field twice")
    return {name: value for name, value in form.items() if value}


async def _read(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_FORM_SIZE:
                raise BodyTooLargeError(f"a form of more than {_MAX_FORM_SIZE} bytes")
    except ClientDisconnect:
        raise InvalidRequestError("the caller hung up") from None
    return bytes(body)


def required(form: dict[str, str], name: str) -> str:
    """A field that must be there.

    Raises:
        InvalidRequestError: It is not.
    """
    if name not in form:
        raise InvalidRequestError(f"a form without {name}")
    return form[name]


def requested_scopes(form: dict[str, str]) -> frozenset[str] | None:
    """The scopes that are asked for; None where the form does not say.

    Raises:
        InvalidScopeError: One is malformed.
    """
    names = [name for name in form.get("scope", "").split(" ") if name]
    if not all(map(is_scope, names)):
        raise InvalidScopeError("a malformed scope")
    return frozenset(names) or None


def describe_form(*names: str, grants: tuple[str, ...] = (), required: tuple[str, ...] = ()) -> dict[str, Any]:
    """The form for OpenAPI: FastAPI cannot see it, because it is read by hand."""
    secret = {"password", "refresh_token", "token", "client_secret"}
    properties: dict[str, Any] = {}
    if grants:
        properties["grant_type"] = {"type": "string", "enum": [*grants], "default": grants[0]}
    for name in names:
        properties[name] = {"type": "string", **({"format": "password"} if name in secret else {})}
        if name not in required:
            properties[name]["default"] = ""  # left out; without it the documentation page fills in "string"
    schema = {"type": "object", "properties": properties, **({"required": [*required]} if required else {})}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": schema}}}}


_ERRORS = [e.error for e in (InvalidRequestError, InvalidGrantError, InvalidScopeError, UnsupportedGrantTypeError)]

#: The refusal for OpenAPI.
ERROR_RESPONSE: dict[str, Any] = {
    "description": "The request was refused (RFC 6749, section 5.2).",
    "content": {
        "application/json": {
            "schema": {
                "title": "OAuthError",
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {"type": "string", "enum": _ERRORS},
                    "error_description": {"type": "string"},
                    "request_id": {"type": "string"},
                },
            }
        }
    },
}
