"""``/token``, ``/token/refresh`` and ``/token/revoke``: a service that logs its own users in."""

import inspect
import logging
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlguard._guard import request_id
from mlguard.auth import _oauth
from mlguard.auth._login_brakes import LoginBrakes
from mlguard.auth._oauth import InvalidGrantError, InvalidRequestError, InvalidScopeError, OAuthError
from mlguard.auth.issuer import TokenIssuer, Tokens
from mlguard.auth.passwords import Passwords
from mlguard.auth.users import User, UserDirectory
from mlguard.errors import ConfigurationError, InsufficientScopeError, NotAuthenticatedError
from mlguard.monitoring.events import record_event
from mlguard.traffic.rate import RateLimit

logger = logging.getLogger("mlguard")

_MAX_NAME = 320  # characters; the longest mail address, RFC 3696, section 3


def token_router(
    users: UserDirectory,
    issuer: TokenIssuer,
    *,
    passwords: Passwords | None = None,
    failures_by_account: Sequence[str] = ("10/15 minutes", "100/day"),
    failures_by_address: RateLimit | Sequence[str] = ("30/15 minutes", "300/day"),
) -> APIRouter:
    """A router with the endpoints of the OAuth 2.0 password flow, as FastAPI's documentation page expects them.

    It guards against guessing passwords, finding out who has an account, and floods of logins. A wrong name, a wrong
    password and a disabled user get the same answer after the same work. Failures are counted by address and by
    account; a success takes none of them back. All who guess at one account from addresses that it was never logged in
    to from share one count; who has logged in from an address in the last 30 days has a count of their own there, so
    that strangers cannot shut them out.

    ``POST /token``
        takes the form ``username``, ``password`` and perhaps ``scope``, and gives tokens for as many of these scopes as
        the user has, or for all. With ``grant_type=refresh_token`` it does what the next one does.
    ``POST /token/refresh``
        takes the form ``refresh_token`` and perhaps ``scope``, and gives new tokens. The old refresh token is used up.
    ``POST /token/revoke``
        takes the form ``token``: an access token, or a refresh token, which ends its session (RFC 7009).

    Refusals have the members of RFC 6749, section 5.2, and those of a problem (RFC 9457). ``client_id`` and
    ``client_secret`` are accepted, and mean nothing: all clients are public.

    Args:
        users: Where accounts are kept.
        issuer: Mints the tokens.
        passwords: Checks passwords. Default: ``Passwords()``.
        failures_by_account: Limits on failed logins to one account.
        failures_by_address: Limits on failed logins from one address, or a ``RateLimit`` by a function that says what
            an address is. Behind a proxy that is ``ClientAddress(trusted_proxies=[...])``, or everybody shares one.

    Raises:
        ConfigurationError: ``users`` or ``issuer`` cannot be used, or a limit cannot be read.
    """
    if not isinstance(users, UserDirectory) or not all(map(inspect.iscoroutinefunction, (users.find, users.get))):
        raise ConfigurationError(
            "token_router(users=...) needs async find(name) and async get(id), as Users({...}) has"
        )
    if not isinstance(issuer, TokenIssuer):
        raise ConfigurationError("token_router(issuer=...) must be a TokenIssuer")
    if passwords is not None and not isinstance(passwords, Passwords):
        raise ConfigurationError("token_router(passwords=...) must be Passwords(...), which takes a hasher")
    brakes = LoginBrakes(failures_by_account, failures_by_address, issuer=issuer.issuer, store=issuer.store)
    endpoints = _Endpoints(users, issuer, passwords or Passwords(), brakes)
    router = APIRouter()
    clients = ("scope", "client_id", "client_secret")
    for path, endpoint, form, answer, dependencies in (
        (
            "/token",
            endpoints.token,
            _oauth.describe_form(
                "username", "password", "refresh_token", *clients, grants=("password", "refresh_token")
            ),
            _TOKENS,
            [Depends(brakes.guard)],
        ),
        (
            "/token/refresh",
            endpoints.refresh,
            _oauth.describe_form("refresh_token", *clients, grants=("refresh_token",), required=("refresh_token",)),
            _TOKENS,
            [],
        ),
        (
            "/token/revoke",
            endpoints.revoke,
            _oauth.describe_form("token", "token_type_hint", *clients[1:], required=("token",)),
            {"description": "The token does not hold, whether it did before or not."},
            [],
        ),
    ):
        router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            response_model=None,
            dependencies=dependencies,
            openapi_extra=form,
            responses={200: answer, 400: _oauth.ERROR_RESPONSE},
        )
    return router


class _Endpoints:
    """What the three endpoints do."""

    def __init__(self, users: UserDirectory, issuer: TokenIssuer, passwords: Passwords, brakes: LoginBrakes) -> None:
        self._users = users
        self._issuer = issuer
        self._passwords = passwords
        self._brakes = brakes

    async def token(self, request: Request) -> Response:
        """Give tokens for a name and a password, or for a refresh token."""
        grants = {"password": self._log_in, "refresh_token": self._refresh}
        return await _answer(request, grants, default="password")

    async def refresh(self, request: Request) -> Response:
        """Give new tokens for a refresh token, which is used up."""
        return await _answer(request, {"refresh_token": self._refresh}, default="refresh_token")

    async def revoke(self, request: Request) -> Response:
        """Take back an access token, or with a refresh token its whole session."""
        try:
            token = _oauth.required(await _oauth.read_form(request), "token")
        except OAuthError as error:
            return _oauth.refused(request, error)
        await self._issuer.revoke_token(token)
        return Response(headers=_oauth.NO_STORE)

    async def _log_in(self, request: Request, form: dict[str, str]) -> Tokens:
        name, password = _oauth.required(form, "username"), _oauth.required(form, "password")
        if len(name) > _MAX_NAME or any(unicodedata.category(one) == "Cc" for one in name):
            raise InvalidRequestError("a name that no account can have")
        asked = _oauth.requested_scopes(form)
        await self._brakes.look_up(request, name)
        await self._brakes.ensure_room(request)
        began, user, upgraded_hash = await self._recognise(request, name, password)
        await self._brakes.remember(request)
        record_event("login.accepted", user=user.id, request_id=request_id(request))
        if upgraded_hash is not None:
            await self._upgrade(user, upgraded_hash)
        scopes = frozenset(user.scopes)
        granted = scopes if asked is None else scopes & asked
        if asked and not granted:
            raise InvalidScopeError(f"user {user.id!r} has none of the scopes that were asked for")
        return await self._issuer.open_session(user.id, scopes=granted, authenticated_at=began, amr=("pwd",))

    async def _recognise(self, request: Request, name: str, password: str) -> tuple[float, User, str | None]:
        """When the account was looked up, the account, and its new hash if the one it has is out of date."""
        async with self._passwords.turn() as turn:
            # Once more: those who waited together were let in by the same count. And all that follows is done while
            # the place is held, so that no more than those who hold one can be beyond the limit.
            await self._brakes.ensure_room(request)
            began = self._issuer.clock()  # before the look-up: what is revoked from now on must not be outlived
            user = await self._users.find(name)
            check = await turn.verify(password, None if user is None else user.password_hash)
            if user is not None and not user.disabled and check.valid:
                return began, user, check.upgraded_hash
            await self._brakes.charge(request)
            # What was typed as a name is in no record: sometimes it is a password.
            why = "unknown" if user is None else "disabled" if check.valid else "password"
            record_event(
                "login.refused", user=None if user is None else user.id, why=why, request_id=request_id(request)
            )
            raise InvalidGrantError(_why(user, valid=check.valid))

    async def _upgrade(self, user: User, new_hash: str) -> None:
        update: Callable[[User, str], Awaitable[None]] | None = getattr(self._users, "update_hash", None)
        if update is None:
            return
        try:
            await update(user, new_hash)
        except Exception as error:  # the login is right all the same. The text of the error may hold the hash
            logger.error("the upgraded password hash of user %r was not stored: %s", user.id, type(error).__name__)

    async def _refresh(self, request: Request, form: dict[str, str]) -> Tokens:  # noqa: ARG002  # as _log_in
        token = _oauth.required(form, "refresh_token")
        return await self._issuer.refresh(token, scopes=_oauth.requested_scopes(form), entitled=self._entitled)

    async def _entitled(self, subject: str) -> frozenset[str] | None:
        user = await self._users.get(subject)
        return None if user is None or user.disabled else frozenset(user.scopes)


_Grant = Callable[[Request, dict[str, str]], Awaitable[Tokens]]


async def _answer(request: Request, grants: Mapping[str, _Grant], *, default: str) -> Response:
    try:
        form = await _oauth.read_form(request)
        grant = grants.get(form.get("grant_type", default))
        if grant is None:
            raise _oauth.UnsupportedGrantTypeError("another grant type")
        tokens = await grant(request, form)
    except OAuthError as error:
        refusal = error
    except NotAuthenticatedError as error:
        refusal = InvalidGrantError(error.reason)
    except InsufficientScopeError as error:
        refusal = InvalidScopeError(error.reason)
    else:
        return _token_response(tokens)
    return _oauth.refused(request, refusal)


def _token_response(tokens: Tokens) -> Response:
    content = {
        "access_token": tokens.access_token,
        "token_type": "bearer",
        "expires_in": tokens.expires_in,
        "refresh_token": tokens.refresh_token,
        "scope": " ".join(sorted(tokens.scopes)),
    }
    return JSONResponse(content, headers=_oauth.NO_STORE)


def _why(user: User | None, *, valid: bool) -> str:
    """For the log. Names are personal, and sometimes a password that was typed into the wrong field."""
    if user is None:
        return "login: no such account"
    return f"login: user {user.id!r} is disabled" if valid else f"login: wrong password for user {user.id!r}"


_TOKENS: dict[str, Any] = {
    "description": "Tokens (RFC 6749, section 5.1).",
    "content": {
        "application/json": {
            "schema": {
                "title": "Tokens",
                "type": "object",
                "required": ["access_token", "token_type", "expires_in", "refresh_token", "scope"],
                "properties": {
                    "access_token": {"type": "string"},
                    "token_type": {"type": "string", "const": "bearer"},
                    "expires_in": {"type": "integer", "description": "Seconds."},
                    "refresh_token": {"type": "string"},
                    "scope": {"type": "string"},
                },
            }
        }
    },
}
