"""How many requests run at once."""

import math
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import HTTPConnection, Request

from mlguard import _fastapi
from mlguard._guard import Control, Guard, RequestMemory
from mlguard._numbers import seconds, whole
from mlguard._order import judge_all, once
from mlguard.errors import ConcurrencyLimitedError, ConfigurationError, OverloadedError
from mlguard.store import Store, store_key
from mlguard.traffic._by import MAX_UNITS, By, signature
from mlguard.traffic._counting import CountingGuard
from mlguard.traffic._places import Places
from mlguard.traffic.outages import OnStoreError


class ConcurrencyLimit(CountingGuard):
    """Lets so many requests run at once, and refuses the others instead of queueing them without bound.

    Guards against requests that take long, and together more memory or time than there is. Not against many short ones:
    that is what ``RateLimit`` is for.

    A place is taken once the body has arrived, so that slow uploads hold none, after all guards that need no body, and
    before budgets charge for one. A caller's own place is taken before one of all. It is held until the answer was
    sent, background tasks included, or the WebSocket was closed. Whoever finds none waits in a line for ``wait``
    seconds, or until the client leaves; the line of one process is as long as there are places, and who comes after
    that is refused at once. Across processes a place is a lease that is renewed while
    the request runs, and that ends by itself after ``lease`` seconds if the process has crashed. The whole body is kept
    in memory while it waits, so have ``harden`` limit its size.

    Needs ``harden`` where FastAPI is older than 0.118.

    Args:
        limit: Places.
        by: Who has so many each, as for ``RateLimit``. None: all requests together have so many.
        wait: Seconds for which a place may be waited for, 0 to 60.
        lease: Seconds after which the places of a crashed process are free again, 1 to 3600.
        name: Names the places. Two limits of the same size and the same ``by`` need one, or they would share their
            places unknowingly. The same in every process.
        store: Where places are taken. None is the store that all guards share.
        on_store_error: What happens while the store does not answer. ``"refuse"``: nobody is admitted. ``"allow"``:
            everybody is. ``"local"``: each process has ``local_share`` of the places.
        local_share: The part of the places that one process has by itself, at least one.

    Raises:
        ConfigurationError: An argument that cannot work. When called: ``harden`` is needed.
        OverloadedError: There was no place in time, with ``by=None`` (503).
        ConcurrencyLimitedError: The caller had no place left in time (429).
        UnavailableError: A store outside this process does not answer (503).
    """

    control = Control.CONCURRENCY
    takes_place = True

    def __init__(
        self,
        limit: int,
        *,
        by: Callable[..., Any] | Guard | None = None,
        wait: float = 0.5,
        lease: float = 30.0,
        name: str | None = None,
        store: Store | None = None,
        on_store_error: OnStoreError = "refuse",
        local_share: float = 0.1,
    ) -> None:
        whole("ConcurrencyLimit(limit)", limit, least=1, most=MAX_UNITS)
        seconds("ConcurrencyLimit(wait=...)", wait, least=0, most=60)
        seconds("ConcurrencyLimit(lease=...)", lease, least=1, most=3_600)
        self._by = By(_everybody if by is None else by, where="ConcurrencyLimit")
        self.is_shared = by is None
        self.limit = self.quota = limit
        super().__init__(
            name=name,
            otherwise=f"{limit} at once{'' if by is None else f' by {self._by.label}'}",
            store=store,
            on_store_error=on_store_error,
            local_share=local_share,
        )
        self.suspends = True
        if self.is_shared:
            self.statuses = (503,)
        self._places = Places(self._counts, limit, wait=wait, ttl=lease if self.store.suspends else math.inf)
        self._bucket = f"{self.name} ({limit}){self._own}"
        self.__signature__ = signature(self._by)

    async def __call__(self, conn: HTTPConnection, who: Any = None) -> None:
        """Take a place for this request, or refuse it."""
        memory = await judge_all(conn)
        if isinstance(conn, Request):
            await _arrival(conn)
        if self.is_shared and memory.plan is not None:
            # Or a caller who waits for its own places would keep others from those of all.
            for call in memory.plan.places:
                if isinstance(call.guard, ConcurrencyLimit) and not call.guard.is_shared:
                    await call(conn)
        await once(conn, self, partial(self._take, conn, who))

    async def _take(self, conn: HTTPConnection, who: Any) -> None:
        at_end = _at_end(conn)
        key = store_key("places", self._bucket, *self._by.identity(self._by.caller(conn, who)))
        holder = secrets.token_bytes(16)
        if await self._places.take(key, holder, partial(_departure, conn)):
            at_end(partial(self._places.give_back, key, holder))
        elif self.is_shared:
            raise OverloadedError(f"{self.name}: no place in time", retry_after=1)
        else:
            raise ConcurrencyLimitedError(f"{self.name}: no place in time", retry_after=1)


def _everybody(conn: HTTPConnection) -> str:  # noqa: ARG001  # one name for all
    return ""


async def _arrival(request: Request) -> None:
    """Wait until the whole body is there. What is read here, whoever reads it after gets from memory."""
    try:
        await request.body()
    except RuntimeError:  # it was read already: a form, or a stream
        return


async def _departure(conn: HTTPConnection) -> bool:
    """Wait until the client of a request has gone. False where nobody can tell.

    Not by ``is_disconnected``, which never learns of it behind Starlette's ``BaseHTTPMiddleware``.
    """
    if not isinstance(conn, Request):  # a WebSocket that is not accepted yet
        return False
    try:  # asked once: a middleware may repeat the body for ever
        return bool((await conn.receive())["type"] == "http.disconnect")
    except Exception:  # of a middleware
        return False


def _at_end(conn: HTTPConnection) -> Callable[[Callable[[], None]], Any]:
    """Where to say what is to be done when the request is over."""
    memory = RequestMemory.of(conn.scope)
    if memory.request_id:
        return memory.at_end.append
    stack = _fastapi.exit_stack(conn.scope)
    if stack is None:
        raise ConfigurationError("ConcurrencyLimit needs harden(app), or a FastAPI of 0.118 or newer")
    return stack.callback
