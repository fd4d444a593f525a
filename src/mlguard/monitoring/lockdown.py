"""The switches for an incident: block somebody, a network, a route or everything, on every worker within a second."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Scope

from mlguard._guard import Principal
from mlguard._numbers import is_number
from mlguard.errors import ConfigurationError, UnavailableError
from mlguard.monitoring._lockdown_middleware import LockdownMiddleware, OpenSocket
from mlguard.monitoring._lockdown_rules import Rules
from mlguard.monitoring._lockdown_state import MOST, Block, lift_blocks, set_block
from mlguard.monitoring._lockdown_watch import STALE, Watch
from mlguard.monitoring._probes import HEALTH, Probes
from mlguard.monitoring.measurements import Measurement
from mlguard.settings import load_settings
from mlguard.store import Store, default_store, store_from_url
from mlguard.traffic.addresses import Address, ClientAddress, networks, peer_address

_SOON = 1  # seconds


class Lockdown:
    """What is shut in an incident, kept in the store: what is set there holds on every worker within a second.

    ::

        lockdown = Lockdown()
        lockdown.install(app)

    and then ``mlguard lockdown block principal alice --for 2h --reason scraping``, or in code
    ``await lockdown.block_principal(principal, ttl=7200, reason="scraping")``. It can block a principal, a network, a
    route, or everything but health; have all answers say the label alone; and pin the version of a model that
    ``ServedModel(..., follow=lockdown)`` serves.

    It is a middleware and no dependency. In an incident, a route on which somebody forgot ``Depends(lockdown)`` would
    stay open; and a network, a route or everything must be refused before a body, a password or a signature costs
    anything. A principal is known only later: it is refused by whichever of mlguard's guards has proved it, on every
    route that has one. Who is calling in a way of the app's own is told by :meth:`admit`.

    Every process reads the record twice a second beside its requests, with one read of the store, and a request never
    meets one that is older than a second, unless the store does not answer. Then what was read last stays in force:
    who can take the store down lifts nothing. But nor does a new block arrive, so after ``max_age`` seconds without
    the store everything but health is refused, unless ``on_store_error="allow"``. Where the store has lost its data,
    a process that knows puts the record back. A record that cannot be read shuts everything but health.

    It does not stop what has begun: a request is answered to its end, and streams are too; WebSockets that are open are
    closed. Nor does it stop who may write to the store: the record is not signed, so whoever can write there can lift a
    block, and whoever can read there sees who is blocked. What the store forgets while no process runs is not in force
    when one starts. It is ``truncate_output`` that answers with the label alone: endpoints without it answer as ever.

    What is set and lifted is recorded as ``lockdown.set`` and ``lockdown.lifted`` on the logger ``mlguard.audit``, in
    one of the processes, with what, by whom, why and until when.

    Args:
        store: Where it is kept. None: where ``MLGUARD_STORE_URL`` says, with connections of its own, so that a crowd
            in the line for those of the guards does not hold it up. What is in ``memory://`` holds in this process
            alone, and ``mlguard lockdown`` does not see it.
        health: Paths that are never refused to a GET, HEAD or OPTIONS, exactly as written, for the probes of whoever
            restarts the service.
        address: Whose address it is behind proxies. None: the other end of the socket. An address that cannot be told
            is refused while any network is blocked.
        on_store_error: What becomes of requests when the record could not be read for ``max_age`` seconds, or never:
            ``"refuse"`` them (503), or ``"allow"`` what was not blocked when it was read last.
        max_age: Seconds.
        clock: Seconds, never going backwards; for tests.

    Raises:
        ConfigurationError: At construction: a path that does not begin with a slash, or another argument that cannot
            work.
        BlockedError: The answer to a principal or an address that is blocked (403). It does not say which of them.
        OutOfServiceError: The answer where a route or everything is blocked (503).
        UnavailableError: The answer where nobody knows what is locked down (503).
    """

    def __init__(
        self,
        *,
        store: Store | None = None,
        health: Sequence[str] = HEALTH,
        address: ClientAddress | None = None,
        on_store_error: Literal["refuse", "allow"] = "refuse",
        max_age: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = _own_store() if store is None else store
        if not isinstance(self.store, Store):
            raise ConfigurationError("Lockdown(store=...) must be a mlguard store, such as RedisStore(url)")
        if address is not None and not isinstance(address, ClientAddress):
            raise ConfigurationError("Lockdown(address=...) is a ClientAddress, or left out for the socket's own")
        if on_store_error not in {"refuse", "allow"}:
            raise ConfigurationError('Lockdown(on_store_error=...) is "refuse" or "allow"')
        if not is_number(max_age) or not 1 <= max_age < math.inf:
            raise ConfigurationError("Lockdown(max_age=...) is a number of seconds, at least 1")
        self._probes = Probes(health, where="Lockdown(health=...)")
        self._address: Callable[[HTTPConnection], Address | None] = peer_address if address is None else address.address
        self._refuses = on_store_error == "refuse"
        self._max_age = max_age
        self._sockets: set[OpenSocket] = set()
        self._watch = Watch(self.store, clock, self._look_at_sockets)
        self._refused = {"principal": 0, "request": 0, "unknown": 0}
        self._closed = 0

    def __repr__(self) -> str:
        return f"Lockdown(store={self.store!r})"

    def install(self, app: FastAPI) -> None:
        """Have it judge every request and every WebSocket of an app, those of mounted apps included.

        Before every other middleware, in whatever order they are added, but after ``harden`` and after those that only
        watch (their class says ``observes = True``): so what it refuses is answered as a problem, and audited.

        Args:
            app: The application, before it serves its first request.

        Raises:
            ConfigurationError: It is none, runs already, or has one.
        """
        if not isinstance(app, FastAPI):
            raise ConfigurationError("Lockdown.install takes the app itself: app = FastAPI(), then install(app)")
        if app.middleware_stack is not None:
            raise ConfigurationError("call Lockdown.install(app) before the app serves its first request")
        if any(getattr(one.cls, "locks_down", False) for one in app.user_middleware):
            raise ConfigurationError("this app has a lockdown already")
        middleware = Middleware(LockdownMiddleware, lockdown=self)
        app.user_middleware.append(middleware)  # for those who look, until its place is known
        build_stack = app.build_middleware_stack

        def build_middleware_stack() -> ASGIApp:
            others = [one for one in app.user_middleware if one is not middleware]
            watching = [one for one in others if getattr(one.cls, "observes", False)]
            app.user_middleware[:] = [*watching, middleware, *(one for one in others if one not in watching)]
            return build_stack()

        app.build_middleware_stack = build_middleware_stack  # type: ignore[method-assign]  # as harden does

    # Judging ---------------------------------------------------------------------------------------------------------

    def is_health(self, scope: Scope) -> bool:
        """Whether a request is one that is never refused."""
        return self._probes.covers(scope)

    async def current(self) -> Rules:
        """What is in force, not older than a second if the store answers.

        Raises:
            UnavailableError: Nobody knows, and that is to be refused (503).
        """
        if self._watch.age > STALE:
            await self._watch.freshen()
            if self._refuses and self._watch.age > self._max_age:
                self._refused["unknown"] += 1
                raise UnavailableError(
                    "lockdown: what is locked down could not be read for too long", retry_after=_SOON
                )
        return self._watch.rules

    def judge(self, rules: Rules, conn: HTTPConnection) -> None:
        """Refuse a request by where it comes from and where it goes.

        Raises:
            BlockedError: Its address is blocked (403).
            OutOfServiceError: Its route or everything is (503).
        """
        try:
            rules.judge_request(conn, self._address)
        except Exception:
            self._refused["request"] += 1
            raise

    def admit(self, principal: Principal) -> None:
        """Refuse a principal who is blocked. mlguard's own guards ask by themselves, in an app where it is installed.

        Args:
            principal: Who is calling.

        Raises:
            BlockedError: It is blocked (403).
        """
        try:
            self._watch.rules.judge_principal(principal)
        except Exception:
            self._refused["principal"] += 1
            raise

    # WebSockets that are open ----------------------------------------------------------------------------------------

    def opened(self, socket: OpenSocket) -> None:
        """A WebSocket was admitted."""
        self._sockets.add(socket)
        socket.look_soon()  # another event loop may have read of a block since it was judged

    def closed(self, socket: OpenSocket, *, by_lockdown: bool) -> None:
        """A WebSocket has ended."""
        self._sockets.discard(socket)
        self._closed += by_lockdown

    def refuses_socket(self, conn: HTTPConnection, principals: Iterable[Principal]) -> bool:
        """Whether a WebSocket would be refused that was admitted."""
        rules = self._watch.rules
        try:
            rules.judge_request(conn, self._address)
            for principal in principals:
                rules.judge_principal(principal)
        except Exception:
            return True
        return False

    def _look_at_sockets(self) -> None:
        for socket in list(self._sockets):
            socket.look_soon()

    # Reading it again and again --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the record, and go on reading it in this event loop. Done by itself where it is installed."""
        self._watch.start()
        await self._watch.read()

    def stop(self) -> None:
        """End what :meth:`start` has begun in this event loop."""
        self._watch.stop()

    @property
    def knows(self) -> bool:
        """Whether this process has read what is locked down, and could."""
        return self._watch.read_at > -math.inf and self._watch.is_readable

    def pinned(self, model: str) -> int | None:
        """The version of a model that is pinned, as far as this process knows."""
        return self._watch.rules.pins.get(model)

    # Changes ---------------------------------------------------------------------------------------------------------

    async def block_principal(
        self,
        principal: Principal | str,
        *,
        method: str | None = None,
        issuer: str | None = None,
        ttl: float | None = None,
        reason: str = "",
        by: str = "service",
    ) -> Block:
        """Refuse everything that a principal asks, on every route that has one of mlguard's guards for who is calling.

        Its keys and tokens hold again once the block ends: revoke them too (``mlguard lockdown block principal
        --revoke``).

        Args:
            principal: Who, as a guard has said; or the id. Of one of more than 256 characters, and of such an issuer,
                the record has a digest.
            method: Of an id: how it is proved, such as ``"api-key"``. None: however.
            issuer: Of an id: who vouches for it, as a token's ``iss``. None: whoever.
            ttl: Seconds after which the block ends by itself, by the store's clock. None: it does not.
            reason: Why, for the audit log and the list.
            by: Who blocks, for the same.

        Returns:
            What is in force now.

        Raises:
            ConfigurationError: It is no principal, or an argument that cannot work.
            StoreFullError: There are 1 000 already (503).
            UnavailableError: The store cannot be asked (503). Nothing has changed, as far as is known.
        """
        if isinstance(principal, Principal):
            method, issuer, principal = principal.method, principal.issuer or "", str(principal.id)
        if not isinstance(principal, str) or not isinstance(issuer, str | None):
            raise ConfigurationError("block_principal takes a principal, or an id and an issuer that are texts")
        return await self._set(Block("principal", principal, method, issuer, by=by, reason=reason), ttl)

    async def block_address(
        self, network: str, *, ttl: float | None = None, reason: str = "", by: str = "service"
    ) -> Block:
        """Refuse a network, before anything else is looked at.

        Args:
            network: ``"203.0.113.0/24"``, ``"2001:db8::/32"``, or one address. IPv4 in IPv6 is IPv4.
            ttl: As of :meth:`block_principal`, and so are the others.
            reason: Why.
            by: Who.

        Raises:
            ConfigurationError: It is no network, and so on, as of :meth:`block_principal`.
        """
        (found,) = networks([network], where="block_address(network)")
        return await self._set(Block("address", str(found), by=by, reason=reason), ttl)

    async def block_route(self, path: str, *, ttl: float | None = None, reason: str = "", by: str = "service") -> Block:
        """Refuse a path and all below it, with every method and for WebSockets, before a body is read.

        Args:
            path: As callers write it, ``"/predict"``, with the path of a mounted app before it; or a route's template,
                ``"/models/{name}/predict"``. In whatever case and spelling.
            ttl: As of :meth:`block_principal`, and so are the others.
            reason: Why.
            by: Who.

        Raises:
            ConfigurationError: It is no path, and so on, as of :meth:`block_principal`.
        """
        return await self._set(Block("route", path, by=by, reason=reason), ttl)

    async def block_everything(self, *, ttl: float | None = None, reason: str = "", by: str = "service") -> Block:
        """Refuse everything but health.

        Args:
            ttl: As of :meth:`block_principal`, and so are the others.
            reason: Why.
            by: Who.
        """
        return await self._set(Block("everything", by=by, reason=reason), ttl)

    async def force_label_only(self, *, ttl: float | None = None, reason: str = "", by: str = "service") -> Block:
        """Have every ``truncate_output`` answer everybody with the label alone.

        Args:
            ttl: As of :meth:`block_principal`, and so are the others.
            reason: Why.
            by: Who.
        """
        return await self._set(Block("label-only", by=by, reason=reason), ttl)

    async def pin_model(
        self, name: str, version: int, *, ttl: float | None = None, reason: str = "", by: str = "service"
    ) -> Block:
        """Have a version of a model served in the place of the one that is promoted.

        Args:
            name: Of the model, as ``ServedModel(..., follow=lockdown)`` has it.
            version: Its number in the ``ModelStore``.
            ttl: As of :meth:`block_principal`, and so are the others.
            reason: Why.
            by: Who.
        """
        return await self._set(Block("pin", name, version=version, by=by, reason=reason), ttl)

    async def lift(self, *blocks: Block, reason: str = "", by: str = "service") -> int:
        """End what is locked down.

        Args:
            *blocks: What, as it was set or as :meth:`blocks` has it.
            reason: Why.
            by: Who.

        Returns:
            How many of them were in force.

        Raises:
            UnavailableError: The store cannot be asked (503).
        """
        keys = {block.key for block in blocks}
        lifted, record = await lift_blocks(self.store, lambda block: block.key in keys, by=by, reason=reason)
        if record is not None:
            await self._watch.take_own(record)
        return len(lifted)

    async def blocks(self) -> tuple[Block, ...]:
        """What is locked down, as the store has it now; while it does not answer, as this process knows it."""
        await self._watch.read()
        return self._watch.rules.blocks

    async def _set(self, block: Block, ttl: float | None) -> Block:
        done, record = await set_block(self.store, block, ttl=ttl)
        await self._watch.take_own(record)
        return done

    def measurements(self) -> Iterable[Measurement]:
        """How much is locked down, what was refused, and how old is what this process knows."""
        rules = self._watch.rules
        for kind in MOST:
            number = sum(block.kind == kind for block in rules.blocks)
            yield Measurement("mlguard_lockdown_blocks", number, {"kind": kind}, "gauge")
        for by, number in self._refused.items():
            yield Measurement("mlguard_lockdown_refused", number, {"by": by}, "counter")
        yield Measurement("mlguard_lockdown_websockets_closed", self._closed, {}, "counter")
        yield Measurement("mlguard_lockdown_readable", int(self._watch.is_readable), {}, "gauge")
        yield Measurement("mlguard_lockdown_age_seconds", self._watch.age, {}, "gauge")


def _own_store() -> Store:
    """The store that all guards share, with connections of its own."""
    shared = default_store()
    if not shared.suspends:
        return shared
    return store_from_url(load_settings().secret("store_url").get_secret_value(), where="MLGUARD_STORE_URL")
