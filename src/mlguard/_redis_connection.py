"""The way to one Redis: connections for each event loop, and what happens while it is away."""

import asyncio
import hashlib
import logging
import math
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from mlguard._redis_pool import RedisPool
from mlguard._redis_url import Place
from mlguard.errors import OverloadedError, StoreFullError, UnavailableError
from mlguard.monitoring.events import record_event

_Command = Sequence[bytes | float | str]

logger = logging.getLogger("mlguard")

_LINE = 2.0  # seconds for which a request waits for those before it
_PAUSE = 1.0  # seconds for which a store that failed is not asked again


class Script:
    """A script that Redis runs, known to it by its digest once it has seen it."""

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Redirected(Exception):  # noqa: N818  # it is none for anybody but the Cluster's client
    """A node of a Cluster has not done what it was asked: another one has the key.

    Attributes:
        place: That one.
        is_asking: Whether it is to be asked this once only, because the key is on its way there.
    """

    def __init__(self, place: Place, *, is_asking: bool) -> None:
        super().__init__()
        self.place = place
        self.is_asking = is_asking


class StoreHealth(NamedTuple):
    """How one Redis server has served this process, for metrics. The counts only grow.

    Attributes:
        server: Which.
        available: Whether the last call was answered.
        answered: Calls that were answered.
        failed: Calls that were not, or with an error.
        not_asked: Calls that were refused at once, because one had failed a moment before.
        seconds: What the calls that were answered have taken together.
    """

    server: str
    available: bool
    answered: int
    failed: int
    not_asked: int
    seconds: float = 0.0


class Redis(Protocol):
    """One server, a Cluster, or servers that Sentinels watch over."""

    async def run(self, script: Script, key: str, *arguments: bytes | float | str) -> Any:
        """Have a script run in one trip, or two if Redis does not know it, as after its restart.

        Raises:
            StoreFullError: Redis has no memory left (503).
            OverloadedError: Too many of this process ask at once (503).
            UnavailableError: It cannot be reached, does not answer in time, or answers with an error (503).
        """

    async def ask(self, *command: bytes | float | str) -> Any:
        """Have a command run, whose second word is a key. Raises what :meth:`run` does."""

    async def get(self, *keys: str) -> list[bytes | None]:
        """Several values at once. Raises what :meth:`run` does."""

    @property
    def connections(self) -> "list[RedisConnection]":
        """The servers that are known."""


class RedisConnection:
    """Asks one server, and turns every way in which it can fail into a refusal.

    Args:
        place: Where it is.
        options: Of a connection, without where it goes.
        timeout: Seconds that one call may take, connecting included.
        name: What it is called in the log.
        redirects: Whether it is a node of a Cluster, and may name another one.
    """

    def __init__(
        self,
        place: Place,
        options: Mapping[str, Any],
        *,
        timeout: float,
        name: str = "Redis",
        redirects: bool = False,
    ) -> None:
        self._options = {**options, **place._asdict()}
        self._place = place
        self._timeout = timeout
        self._name = name
        self._redirects = redirects
        self._opened: dict[asyncio.AbstractEventLoop, _Opened] = {}
        self._answered_at = -math.inf
        self._ask_again_at = -math.inf
        self.is_down = False
        self.is_refused = False  # by the password, or by what the user may do
        self._knows_policy = False
        self._answered = self._failed = self._not_asked = 0
        self._seconds = 0.0

    @property
    def connections(self) -> "list[RedisConnection]":
        """This one."""
        return [self]

    @property
    def health(self) -> StoreHealth:
        """How it has served."""
        return StoreHealth(self._name, not self.is_down, self._answered, self._failed, self._not_asked, self._seconds)

    async def run(self, script: Script, key: str, *arguments: bytes | float | str, asking: bool = False) -> Any:
        """Have a script run in one trip, or two if Redis does not know it."""
        by_digest = ("EVALSHA", script.digest, 1, key, *arguments)
        return await self._ask(by_digest, ("EVAL", script.text, 1, key, *arguments), asking=asking)

    async def ask(self, *command: bytes | float | str, asking: bool = False) -> Any:
        """Have a command run."""
        return await self._ask(command, command, asking=asking)

    async def get(self, *keys: str) -> list[bytes | None]:
        """Several values at once."""
        found: list[bytes | None] = await self.ask("MGET", *keys)
        return found

    async def _ask(self, command: _Command, if_unknown: _Command, *, asking: bool) -> Any:
        pool = await self._pool(asyncio.get_running_loop())
        await _wait_for_place(pool.places)
        try:
            return await self._ask_now(pool, command, if_unknown, asking=asking)
        finally:
            pool.places.release()

    async def _ask_now(self, pool: RedisPool, command: _Command, if_unknown: _Command, *, asking: bool) -> Any:
        started = time.monotonic()
        if started < self._ask_again_at:
            self._not_asked += 1
            raise UnavailableError(f"{self._name} is not asked: it failed a moment ago", retry_after=1)
        if self.is_down:
            self._ask_again_at = started + _PAUSE  # one call finds out whether it is back, the others need not wait
        try:
            answer = await self._in_time(pool, command, if_unknown, asking=asking)
        except Exception as error:
            failure = self._explain(error)
        else:
            self._note_answer(started)
            if not self._knows_policy:
                self._knows_policy = True
                await self._warn_of_eviction(pool)
            return answer
        # Raised out here: that error may hold what was sent.
        if failure.redirection is not None:
            self._note_answer(started)
            raise failure.redirection
        if failure.is_full:
            self._note_answer(started)
            raise StoreFullError(f"{self._name} has no memory left (maxmemory)", retry_after=1)
        self._note_failure(failure, started)
        raise UnavailableError(f"{self._name} {failure.reason}", retry_after=1)

    async def _warn_of_eviction(self, pool: RedisPool) -> None:
        """Say so where Redis may forget early what was used or revoked. One more trip, of the first call only."""
        try:
            memory = await self._in_time(pool, ("INFO", "memory"), (), asking=False)
        except Exception:  # a user who may not ask: the documentation says what to set
            return
        if re.search(rb"^maxmemory_policy:(?!noeviction)", memory, re.MULTILINE):
            logger.warning(
                "Redis may forget used nonces, sessions and revocations early: set its maxmemory-policy to noeviction"
            )

    async def _in_time(self, pool: RedisPool, command: _Command, if_unknown: _Command, *, asking: bool) -> Any:
        """Do it within the time-out, or twice that if something else kept this event loop from running meanwhile."""
        from redis.exceptions import NoScriptError  # noqa: PLC0415  # an extra

        loop = asyncio.get_running_loop()
        due = loop.time() + self._timeout

        def give_up() -> None:
            now = loop.time()
            late = now - due > self._timeout / 10
            limit.reschedule(now + self._timeout if late else now)

        async with asyncio.timeout(None) as limit:
            alarm = loop.call_at(due, give_up)
            try:
                try:
                    return await pool.ask(command, asking=asking)
                except NoScriptError:
                    return await pool.ask(if_unknown, asking=asking)
            finally:
                alarm.cancel()

    def _explain(self, error: Exception) -> "_Failure":
        """Why it failed, without what was sent and where to."""
        from redis import exceptions  # noqa: PLC0415  # an extra

        self.is_refused = isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError)
        if isinstance(error, TimeoutError | exceptions.TimeoutError):
            return _Failure(f"has not answered within {self._timeout:g} s", answered=False)
        if isinstance(error, exceptions.AuthenticationError):
            return _Failure("does not accept the user or the password", answered=False)
        if isinstance(error, exceptions.ConnectionError | OSError):
            return _Failure(f"cannot be reached ({type(error).__name__})", answered=False)
        if isinstance(error, exceptions.AskError):  # which MovedError is one of
            return self._redirected(error, is_asking=not isinstance(error, exceptions.MovedError))
        full = isinstance(error, exceptions.OutOfMemoryError) or "OOM command not allowed" in str(error)  # of a script
        return _Failure(f"has answered with an error ({type(error).__name__})", answered=True, is_full=full)

    def _redirected(self, error: Any, *, is_asking: bool) -> "_Failure":
        if not self._redirects:
            return _Failure("is a node of a Cluster: its URL begins with redis+cluster://", answered=True)
        place = Place(error.host or self._place.host, error.port)  # a node may not know its own name
        return _Failure("", answered=True, redirection=Redirected(place, is_asking=is_asking))

    def _note_answer(self, started: float) -> None:
        self._answered += 1
        self.is_refused = False
        self._answered_at = time.monotonic()
        self._seconds += self._answered_at - started
        self._ask_again_at = -math.inf
        if self.is_down:
            self.is_down = False
            logger.warning("the store is back: %s answers again", self._name)
            record_event("store.back", store=self._name)

    def _note_failure(self, failure: "_Failure", started: float) -> None:
        self._failed += 1
        if self._answered_at >= started:
            return  # it has answered others meanwhile, so that they need not do without it
        self._ask_again_at = -math.inf if failure.answered else time.monotonic() + _PAUSE
        if not self.is_down:
            self.is_down = True
            logger.error("the store is down: %s %s", self._name, failure.reason)
            record_event("store.down", store=self._name, reason=failure.reason)

    async def _pool(self, loop: asyncio.AbstractEventLoop) -> RedisPool:
        """The connections of an event loop, which belong to the loop that opened them."""
        opened = self._opened.get(loop)
        if opened is None:
            for other in [loop for loop in list(self._opened) if loop.is_closed()]:  # without a word to its generators
                self._opened.pop(other, None)
            closing = self._open_until_loop_ends(loop)
            opened = self._opened[loop] = _Opened(await anext(closing), closing)
        return opened.pool

    async def _open_until_loop_ends(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[RedisPool, None]:
        """A loop that ends closes its asynchronous generators (``shutdown_asyncgens``), this one its connections."""
        pool = RedisPool(self._options)
        try:
            yield pool
        finally:
            self._opened.pop(loop, None)
            await pool.close()


async def _wait_for_place(places: asyncio.Semaphore) -> None:
    """Wait for one of the connections. Time in this line says nothing about Redis, and is not counted against it."""
    if not places.locked():
        await places.acquire()
        return
    try:
        async with asyncio.timeout(_LINE):
            await places.acquire()
    except TimeoutError:
        overloaded = True
    else:
        overloaded = False
    if overloaded:
        raise OverloadedError("too many requests wait for Redis", retry_after=1)


class _Failure(NamedTuple):
    reason: str
    answered: bool  # at once, so that asking again costs no time-out
    is_full: bool = False
    redirection: Redirected | None = None


class _Opened(NamedTuple):
    pool: RedisPool
    closing: AsyncGenerator[RedisPool, None]
