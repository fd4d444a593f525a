"""What every guard shares: the control it declares, the principal it may return, and the memory of one request."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection
from starlette.types import Scope

from mlguard.errors import ConfigurationError, InsufficientScopeError

if TYPE_CHECKING:
    from mlguard._body import IncomingBody
    from mlguard._body_forms import BodyForm
    from mlguard._plans import Plan
    from mlguard.inputs.sent_rows import InferenceCall
    from mlguard.outputs.rounding import FloatArray
    from mlguard.store import Store

logger = logging.getLogger("mlguard")

T = TypeVar("T")

_NO_CLAIMS: Mapping[str, Any] = MappingProxyType({})


class Control(StrEnum):
    """The security control that a guard implements."""

    ADDRESS = "address"
    AUTHENTICATION = "authentication"
    RATE_LIMIT = "rate limit"
    BUDGET = "query budget"
    CONCURRENCY = "concurrency limit"
    INPUT_VALIDATION = "input validation"
    DETECTION = "detection"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, as a guard has proved it.

    Two principals are the same caller only if ``method``, ``issuer`` and ``id`` agree: the key "alice" and a token
    whose subject is "alice" share nothing.

    Attributes:
        id: The name of the caller: key id, token subject. Never a secret.
        scopes: What the caller may do. A set, a list or a tuple of names is kept as a frozenset.
        method: How it was proved: ``"api-key"``, ``"jwt"`` or ``"signature"``.
        issuer: Who vouches for the id (a token's ``iss``), if anybody.
        claims: A token's verified claims. Left out of the repr, because they may hold personal data.
        limits: The caller's own limits, such as ``("600/minute",)``: a ``RateLimit`` by this caller counts by them
            instead of by its own. They say nothing about who it is, so principals are compared without them.

    Raises:
        ConfigurationError: ``scopes`` is one text, in which every part of it would be found, or no set of names.
    """

    id: str
    scopes: frozenset[str] = frozenset()
    method: str = ""
    issuer: str | None = None
    claims: Mapping[str, Any] = field(default_factory=lambda: _NO_CLAIMS, repr=False, compare=False)
    limits: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Check the scopes, if they are none of mlguard's own making: those are a frozenset already."""
        if type(self.scopes) is not frozenset:
            object.__setattr__(self, "scopes", _set_of_names(self.scopes))

    @property
    def identity(self) -> tuple[str, str, str]:
        """The three parts that together name one caller."""
        return (self.method, self.issuer or "", self.id)

    def require(self, security_scopes: SecurityScopes, *, challenge: str) -> None:
        """Check that every scope demanded by ``Security(guard, scopes=[...])`` is held.

        Args:
            security_scopes: What FastAPI collected for this use of the guard.
            challenge: The authentication scheme for ``WWW-Authenticate`` (RFC 6750, section 3.1).

        Raises:
            InsufficientScopeError: A scope is missing (403).
        """
        if not self.scopes.issuperset(security_scopes.scopes):
            missing = [scope for scope in security_scopes.scopes if scope not in self.scopes]
            raise InsufficientScopeError(
                f"{self.method} principal {self.id!r} lacks scope {' '.join(missing)!r}",
                headers={
                    "WWW-Authenticate": f'{challenge} error="insufficient_scope", scope="{security_scopes.scope_str}"'
                },
            )


def _set_of_names(scopes: Any) -> frozenset[str]:
    if not isinstance(scopes, Set | list | tuple) or not all(isinstance(scope, str) for scope in scopes):
        raise ConfigurationError(
            f"Principal(scopes=...) is a set of names, such as {{'predict'}}, and not a {type(scopes).__name__}: "
            "split a text into its names first"
        )
    return frozenset(scopes)


class Guard:
    """Marks an object that can be used with ``Depends`` or ``Security`` and needs nothing but the connection.

    Attributes:
        control: Which control it implements.
        statuses: The refusals it can give, for OpenAPI.
        reads_body: Whether it needs the request body, and so cannot run before it.
        takes_place: Whether it holds a place while the request runs, and so is judged once the body has arrived: a slow
            upload must not hold it. After all guards that need no body, before those that charge for one.
        body_form: The only form of body that it takes, if there is but one.
        charges_by: The guard that reads what it charges for, if any. A refused input is charged too.
        source: The guard that it takes the body's value from, if it does not read the body by itself.
        part_of: The guard whose work it does a part of, if it is none that an app has made. It is recorded as that one.
        turn: Those that count are asked in this order, the lowest first: what is refused by one is not charged by those
            that remember it for longer.
        suspends: Whether a call may wait for something. One that never waits cannot be cancelled half way, and so
            needs no protection from it.
        stores: Where it counts and remembers, its parts included.
    """

    control: ClassVar[Control]
    statuses: tuple[int, ...] = ()
    reads_body: ClassVar[bool] = False
    takes_place: ClassVar[bool] = False
    body_form: "BodyForm | None" = None
    charges_by: "Guard | None" = None
    source: "Guard | None" = None
    part_of: "Guard | None" = None
    turn: int = 0
    suspends: bool = True
    stores: "tuple[Store, ...]" = ()

    def check(self) -> None:
        """Raise ``ConfigurationError`` at start-up for what could not be checked when the guard was built."""

    async def charge_refused(self, conn: HTTPConnection, **principals: Any) -> None:
        """Charge for an input that ``charges_by`` has refused, so that its rules cannot be probed for nothing.

        Raises:
            RateLimitedError: There is no room for one more unit (429).
        """

    @property
    def whole(self) -> "Guard":
        """The guard that an app has made: this one, or the one that it is a part of."""
        return self if self.part_of is None else self.part_of

    @property
    def label(self) -> str:
        """What a bucket by this guard is called: the same in every process, and after its keys were replaced."""
        return repr(self)

    def units(self, value: Any) -> Any:
        """What a limit or a budget counts for a value that the guard has read: a number, or the length of this."""
        return value

    def openapi_body(self) -> dict[str, Any] | None:
        """The OpenAPI request body that the guard expects, if it reads one."""
        return None


class _Refusal:
    """A refusal in the place of a decision's value."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


_UNDECIDED = object()


class RequestMemory:
    """What happened so far in one request: which guards ran, and what they said.

    FastAPI runs one guard several times when it is demanded with different scopes, and mlguard runs guards before the
    body is read. Whatever counts must count once, so every decision is kept here. The memory is in the ASGI scope, put
    there by the outermost middleware, because inner ones may copy the scope.
    """

    __slots__ = (
        "admits", "admitted", "answered", "at_end", "blocked", "body", "budget_left", "decisions", "headers",
        "inference_call", "judged_headers", "label_only", "plan", "readers", "recorders", "refusal", "refused_with",
        "request_id", "routed_scope", "task", "timings", "watchers",
    )  # fmt: skip

    _KEY = "mlguard"

    def __init__(self) -> None:
        self.request_id = ""
        #: Set by ``Lockdown``: refuses principals that are blocked, whichever guard has proved them.
        self.admits: Callable[[Principal], None] | None = None
        self.decisions: dict[Guard, Any] = {}
        self.headers: list[tuple[bytes, bytes]] = []
        #: The scope that the router updates when it finds the route.
        self.routed_scope: Scope | None = None
        #: Set by ``harden``: the incoming body, on which a digest can be demanded.
        self.body: IncomingBody | None = None
        self.answered = False
        #: What an Open Inference request says beside its tensors, if ``Features`` has read one.
        self.inference_call: InferenceCall | None = None
        #: What is left of each budget that was charged, by its name: units, or an epsilon.
        self.budget_left: dict[str, float] = {}
        #: Set by a guard or by ``Lockdown``: whatever the policy, ``truncate_output`` answers with the label alone.
        self.label_only = False
        #: Called by ``truncate_output`` with the scores that the model has given, before anything is taken from them:
        #: shape (rows, classes), or (rows,) where the policy is one for regression. They must not change them.
        self.watchers: list[Callable[[FloatArray], None]] = []
        #: Nanoseconds that each guard has taken to decide, where somebody has put a dict here; without the wait for the
        #: body.
        self.timings: dict[Guard, int] | None = None
        #: Called with each guard that has read the body and with what it lets through, before the endpoint gets it.
        self.readers: tuple[Callable[[Guard, Any], None], ...] = ()
        #: Who was proved to be calling, and is locked out.
        self.blocked: Principal | None = None
        #: What records this request already.
        self.recorders: tuple[object, ...] = ()
        #: The refusal that was made an answer of, by ``mlguard.problems``.
        self.refused_with: Exception | None = None
        #: Called once when the request is over, however it ends, if ``harden`` is installed. They must not wait.
        self.at_end: list[Callable[[], None]] = []
        # The state of the one run of all guards, see ``mlguard._order``.
        self.plan: Plan | None = None
        self.judged_headers: Any = None
        self.task: asyncio.Task[None] | None = None
        self.refusal: Exception | None = None
        self.admitted = False

    @classmethod
    def of(cls, scope: Scope) -> "RequestMemory":
        """The memory of the request, made on first use where ``harden`` is not installed.

        An endpoint may hand its scope on with other headers, as a batch endpoint does. That is another request, about
        which nothing is known.
        """
        memory: RequestMemory | None = scope.get(cls._KEY)
        if memory is None:
            return cls.renew(scope)
        headers = scope["headers"]
        # Compared with a copy: a list can be changed in place.
        if memory.plan is not None and memory.judged_headers != (headers if type(headers) is list else [*headers]):
            return cls.renew(scope)
        return memory

    @classmethod
    def renew(cls, scope: Scope) -> "RequestMemory":
        """A memory that knows nothing yet, in the place of any other.

        What is locked down stays so: who hands a request on with other credentials is no way around it.
        """
        memory = cls()
        before: RequestMemory | None = scope.get(cls._KEY)
        if before is not None:
            memory.admits, memory.label_only = before.admits, before.label_only
        scope[cls._KEY] = memory
        return memory

    def close(self) -> None:
        """End the request: give back what it holds, and let go of what refers back to this memory.

        So a request is freed at once, and not by the collector.
        """
        while self.at_end:
            self.at_end.pop()()
        if self.body is not None:
            self.body.close()
        for refusal in (self.refusal, self.refused_with):
            if refusal is not None:
                refusal.__traceback__ = None  # its frames hold this memory
        self.routed_scope = self.body = self.refusal = self.refused_with = None

    async def note(self, guard: Guard, decide: Callable[[], Awaitable[Any]]) -> None:
        """Have the guard decide, and remember what it said.

        Nothing is remembered of a decision that was cancelled half way.
        """
        began = 0 if self.timings is None else time.perf_counter_ns()
        try:
            self.decisions[guard] = self._admitted(await decide())
        except Exception as refusal:
            self.decisions[guard] = _Refusal(refusal)
        if self.timings is not None:
            self.timings[guard.whole] = self.timings.get(guard.whole, 0) + time.perf_counter_ns() - began

    def _admitted(self, decision: Any) -> Any:
        """The decision, unless it says that somebody is calling who is blocked."""
        if self.admits is not None and isinstance(decision, Principal):
            try:
                self.admits(decision)
            except Exception:
                self.blocked = decision
                raise
        return decision

    async def note_reading(self, guard: Guard, reading: Awaitable[T]) -> T:
        """What a guard makes of the body, remembered for those who watch. What it raises is raised as it is."""
        began = 0 if self.timings is None else time.perf_counter_ns()
        try:
            value = await reading
        except Exception as refusal:
            self.decisions[guard] = _Refusal(refusal)
            raise
        else:
            self.decisions[guard] = value
            self._show(guard, value)
            return value
        finally:
            if self.timings is not None:
                self.timings[guard] = time.perf_counter_ns() - began

    def _show(self, guard: Guard, value: Any) -> None:
        """Show what was read to those who watch. What goes wrong with one of them does not keep back the input."""
        for look in self.readers:
            try:
                look(guard, value)
            except Exception:
                logger.exception("a monitor could not look at what a guard has read")

    def decide(self, guard: Guard, decide: Callable[[HTTPConnection], Any], conn: HTTPConnection) -> Any:
        """What the guard has decided, or decides now without waiting for anything.

        Raises:
            MLGuardError: The refusal that the guard gave, the first time and every time after.
        """
        decision = self.decisions.get(guard, _UNDECIDED)
        if decision is _UNDECIDED:
            began = 0 if self.timings is None else time.perf_counter_ns()
            try:
                decision = self._admitted(decide(conn))
            except Exception as refusal:
                decision = _Refusal(refusal)
            self.decisions[guard] = decision
            if self.timings is not None:
                self.timings[guard] = time.perf_counter_ns() - began
        if type(decision) is _Refusal:
            raise decision.error.with_traceback(None)
        return decision

    def recall(self, guard: Guard) -> Any:
        """What the guard has decided.

        Raises:
            MLGuardError: The refusal that the guard gave, the first time and every time after.
        """
        decision = self.decisions[guard]
        if type(decision) is _Refusal:
            raise decision.error.with_traceback(None)
        return decision


def request_id(conn: HTTPConnection) -> str:
    """The id that the answer carries and the log has of this request, for log lines of the app's own.

    Args:
        conn: The request or WebSocket.

    Returns:
        16 hexadecimal digits, or ``""`` where ``harden`` is not installed.
    """
    return RequestMemory.of(conn.scope).request_id


def principal_of(conn: HTTPConnection, guard: Guard) -> Principal:
    """Who a guard has said is calling, for code that is handed the request and not the principal.

    Args:
        conn: The request or WebSocket.
        guard: The guard, which the route uses. It is not asked, and its scopes are not judged: only what it has said
            already is read.

    Returns:
        The principal.

    Raises:
        ConfigurationError: The guard has not judged this request, or does not say who is calling.
        MLGuardError: The refusal that the guard gave.
    """
    memory = RequestMemory.of(conn.scope)
    decision = memory.recall(guard) if guard in memory.decisions else None
    if not isinstance(decision, Principal):
        raise ConfigurationError(
            f"principal_of: {type(guard).__name__} has not said who sent this request; "
            "use it on the route, as Depends(...) or Security(...), and ask after it has run"
        )
    return decision
