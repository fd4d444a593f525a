"""Either credential: a key or a token, say, on the same endpoint."""

import inspect
from functools import partial
from typing import Annotated, Any, Protocol, runtime_checkable

from fastapi import Depends
from fastapi.openapi.models import SecurityBase as SecurityModel
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, Principal
from mlguard._order import once
from mlguard.errors import ConfigurationError, NotAuthenticatedError
from mlguard.store import Store


@runtime_checkable
class Authenticator(Protocol):
    """What ``AnyAuth`` needs to know of a guard, besides calling it."""

    @property
    def challenge(self) -> str:
        """Its authentication scheme for ``WWW-Authenticate``."""

    @property
    def credential(self) -> tuple[bytes, bytes]:
        """The header that carries its credential, and how its value begins, both in lower case."""

    @property
    def label(self) -> str:
        """What a bucket by it is called."""

    @property
    def scheme_name(self) -> str:
        """Its name in OpenAPI."""

    @property
    def model(self) -> SecurityModel:
        """Its security scheme in OpenAPI."""

    @property
    def stores(self) -> tuple[Store, ...]:
        """Where it counts and remembers."""

    @property
    def statuses(self) -> tuple[int, ...]:
        """The refusals it can give, for OpenAPI."""

    @property
    def suspends(self) -> bool:
        """Whether a call may wait for something."""

    def check(self) -> None:
        """Check at start-up what could not be checked before."""

    async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:
        """Say who is calling."""


class AnyAuth(Guard):
    """Lets in who carries a credential for one of several guards, such as an API key or a token.

    A request is judged by the guards whose credential it carries. If it carries several, all of them must hold, and the
    principal is that of the guard listed first, with its scopes alone: a valid token is no way to guess keys, and no
    two callers are mixed. Each failure counts with the guard whose credential it was (``failures=`` of that guard).

    OpenAPI shows the guards as alternatives.

    Args:
        *guards: Two or more of ``APIKeyAuth``, ``JWTAuth`` and ``SignatureAuth``, each reading its own header.

    Returns:
        When called, the :class:`~mlguard.Principal` of the guard whose credential was carried.

    Raises:
        ConfigurationError: At construction: fewer than two guards, one that does not say who is calling, or two that
            read the same header or have the same name in OpenAPI.
        NotAuthenticatedError: When called: no credential, or one that does not hold. All look the same (401), with the
            challenges of all guards in ``WWW-Authenticate``.
        InsufficientScopeError: When called: the principal lacks a scope (403).
        MLGuardError: When called: what else a guard refuses with, such as too many failures (429).
    """

    control = Control.AUTHENTICATION

    def __init__(self, *guards: Authenticator) -> None:
        if len(guards) < 2:
            raise ConfigurationError("AnyAuth needs two guards or more: AnyAuth(APIKeyAuth(...), JWTAuth(...))")
        for number, guard in enumerate(guards, 1):
            if not isinstance(guard, Guard) or not isinstance(guard, Authenticator):
                raise ConfigurationError(
                    f"AnyAuth, guard {number}: takes APIKeyAuth, JWTAuth and SignatureAuth, which read one header each"
                )
            if any(_overlap(guard, other) for other in guards[: number - 1]):
                raise ConfigurationError(f"AnyAuth, guard {number}: another guard reads the same header")
            if any(guard.scheme_name == other.scheme_name for other in guards[: number - 1]):
                raise ConfigurationError(f"AnyAuth, guard {number}: give it a scheme_name of its own")
        self.guards = guards
        self.suspends = any(guard.suspends for guard in guards)
        self.stores = tuple(store for guard in guards for store in guard.stores)
        self.statuses = tuple(sorted({status for guard in guards for status in guard.statuses}))
        self._challenges = ", ".join(dict.fromkeys(guard.challenge for guard in guards))
        self.__signature__ = self._sign()

    def _sign(self) -> inspect.Signature:
        """The signature that FastAPI sees: it lists the security schemes of sub-dependencies, which are alternatives.

        The guards themselves are no sub-dependencies: the first one would refuse who carries the second's credential.
        """
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [
            inspect.Parameter("conn", kind, annotation=HTTPConnection),
            inspect.Parameter("security_scopes", kind, annotation=SecurityScopes),
        ]
        for number, guard in enumerate(self.guards):
            shown = Annotated[None, Depends(Alternative(guard))]
            parameters.append(inspect.Parameter(f"alternative_{number}", kind, annotation=shown))
        return inspect.Signature(parameters)

    @property
    def label(self) -> str:
        """As of every guard."""
        return f"{type(self).__name__}({', '.join(guard.label for guard in self.guards)})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.guards))})"

    def check(self) -> None:
        """Have each guard check what could not be checked before the start."""
        for guard in self.guards:
            guard.check()

    async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes, **_alternatives: None) -> Principal:
        """Say who is calling, or refuse."""
        # The principal itself is what is remembered of the decision, as of any guard: ``principal_of`` reads it there.
        principal = await once(conn, self, partial(self._judge, conn))
        if security_scopes.scopes:
            challenge = next((guard.challenge for guard in self._carried(conn)), self._challenges)
            principal.require(security_scopes, challenge=challenge)
        return principal

    def _carried(self, conn: HTTPConnection) -> list[Authenticator]:
        return [guard for guard in self.guards if _carries(conn, *guard.credential)]

    async def _judge(self, conn: HTTPConnection) -> Principal:
        reason = "no credential for any of the guards"
        try:
            proved = [await guard(conn, SecurityScopes()) for guard in self._carried(conn)]
        except NotAuthenticatedError as refusal:
            reason = refusal.reason
        else:
            if proved:
                return proved[0]
        raise NotAuthenticatedError(reason, challenge=self._challenges)


class Alternative(SecurityBase, Guard):
    """Shows one of the guards of ``AnyAuth`` in OpenAPI. It lets everybody pass: ``AnyAuth`` judges."""

    control = Control.AUTHENTICATION
    suspends = False

    def __init__(self, guard: Authenticator) -> None:
        self.model = guard.model
        self.scheme_name = guard.scheme_name

    async def __call__(self, conn: HTTPConnection) -> None:
        """Say nothing."""


def _carries(conn: HTTPConnection, header: bytes, beginning: bytes) -> bool:
    """Whether a request has something that a guard must judge."""
    size = len(beginning)
    return any(name == header and value[:size].lower() == beginning for name, value in conn.scope["headers"])


def _overlap(one: Authenticator, other: Authenticator) -> bool:
    (header, beginning), (other_header, other_beginning) = one.credential, other.credential
    return header == other_header and (beginning.startswith(other_beginning) or other_beginning.startswith(beginning))


def scheme_names(guard: Guard) -> list[str]:
    """The security schemes of which one must be met, as OpenAPI has them."""
    if isinstance(guard, AnyAuth):
        return [one.scheme_name for one in guard.guards]
    name: Any = getattr(guard, "scheme_name", None)
    return [name] if name is not None and guard.control is Control.AUTHENTICATION else []
