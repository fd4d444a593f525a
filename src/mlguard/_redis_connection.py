"""The way to one Redis: where it is, connections for each event loop, and what happens while it is away."""

import asyncio
import hashlib
import logging
import math
import re
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from mlguard._redis_pool import RedisPool
from mlguard.errors import ConfigurationError, OverloadedError, StoreFullError, UnavailableError
from mlguard.store import SCHEMES

_Command = Sequence[bytes | float | str]

logger = logging.getLogger("mlguard")

_FORM = "write redis://[[user]:password@]host[:port][/database], or rediss:// for TLS"
_FILES = frozenset(
    {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
)  # what a URL may say about TLS: it cannot be loosened
_LINE = 2.0  # seconds for which a request waits for those before it
_PAUSE = 1.0  # seconds for which a store that failed is not asked again


class Script:
    """A script that Redis runs, known to it by its digest once it has seen it."""

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisConnection:
    """Asks one Redis, and turns every way in which it can fail into a refusal.

    Args:
        url: Where it is.
        timeout: Seconds that one call may take, connecting included.
        where: What takes the URL, for errors.

    Raises:
        ConfigurationError: The URL cannot be used, or the extra ``redis`` is not installed.
    """

    def __init__(self, url: str, *, timeout: float, where: str) -> None:
        self._options = _read(url, where)
        try:
            import redis.asyncio  # noqa: F401, PLC0415  # an extra
        except ImportError:
            missing = True
        else:
            missing = False
        if missing:
            raise ConfigurationError(f"{where} needs the package redis: pip install 'mlguard[redis]'")
        self._timeout = timeout
        self._opened: dict[asyncio.AbstractEventLoop, _Opened] = {}
        self._answered_at = -math.inf
        self._ask_again_at = -math.inf
        self._is_down = False
        self._is_refused = False  # by the password, or by what the user may do
        self._knows_policy = False
        self._where = where

    async def run(self, script: Script, key: str, *arguments: bytes | float | str) -> Any:
        """Have a script run in one trip, or two if Redis does not know it, as after its restart.

        Raises:
            StoreFullError: Redis has no memory left (503).
            OverloadedError: Too many of this process ask at once (503).
            UnavailableError: It cannot be reached, does not answer in time, or answers with an error (503).
        """
        return await self._ask(
            ("EVALSHA", script.digest, 1, key, *arguments), ("EVAL", script.text, 1, key, *arguments)
        )

    async def check_access(self, script: Script, key: str, *arguments: bytes | float | str) -> None:
        """Have a script run that changes nothing, to find out whether this service may.

        Raises:
            ConfigurationError: Redis does not accept the user or the password, or lets the user do too little.
            UnavailableError: It cannot be reached, does not answer in time, or answers with another error (503).
        """
        try:
            await self.run(script, key, *arguments)
        except UnavailableError:
            if not self._is_refused:
                raise
        if self._is_refused:
            raise ConfigurationError(
                f"{self._where}: Redis does not accept the user or the password, or does not let the user run scripts"
            )

    async def ask(self, *command: bytes | float | str) -> Any:
        """Have a command run. Raises what :meth:`run` does."""
        return await self._ask(command, command)

    async def _ask(self, command: _Command, if_unknown: _Command) -> Any:
        pool = await self._pool(asyncio.get_running_loop())
        await _wait_for_place(pool.places)
        try:
            return await self._ask_now(pool, command, if_unknown)
        finally:
            pool.places.release()

    async def _ask_now(self, pool: RedisPool, command: _Command, if_unknown: _Command) -> Any:
        started = time.monotonic()
        if started < self._ask_again_at:
            raise UnavailableError("Redis is not asked: it failed a moment ago", retry_after=1)
        if self._is_down:
            self._ask_again_at = started + _PAUSE  # one call finds out whether it is back, the others need not wait
        try:
            answer = await self._in_time(pool, command, if_unknown)
        except Exception as error:
            failure = self._explain(error)
        else:
            self._note_answer()
            if not self._knows_policy:
                self._knows_policy = True
                await self._warn_of_eviction(pool)
            return answer
        # Raised out here: that error may hold what was sent.
        if failure.is_full:
            self._note_answer()
            raise StoreFullError("Redis has no memory left (maxmemory)", retry_after=1)
        self._note_failure(failure, started)
        raise UnavailableError(f"Redis {failure.reason}", retry_after=1)

    async def _warn_of_eviction(self, pool: RedisPool) -> None:
        """Say so where Redis may forget early what was used or revoked. One more trip, of the first call only."""
        try:
            memory = await self._in_time(pool, ("INFO", "memory"), ())
        except Exception:  # a user who may not ask: the documentation says what to set
            return
        if re.search(rb"^maxmemory_policy:(?!noeviction)", memory, re.MULTILINE):
            logger.warning(
                "Redis may forget used nonces, sessions and revocations early: set its maxmemory-policy to noeviction"
            )

    async def _in_time(self, pool: RedisPool, command: _Command, if_unknown: _Command) -> Any:
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
                    return await pool.ask(command)
                except NoScriptError:
                    return await pool.ask(if_unknown)
            finally:
                alarm.cancel()

    def _explain(self, error: Exception) -> "_Failure":
        """Why it failed, without what was sent and where to."""
        from redis import exceptions  # noqa: PLC0415  # an extra

        self._is_refused = isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError)
        if isinstance(error, TimeoutError | exceptions.TimeoutError):
            return _Failure(f"has not answered within {self._timeout:g} s", answered=False)
        if isinstance(error, exceptions.AuthenticationError):
            return _Failure("does not accept the user or the password", answered=False)
        if isinstance(error, exceptions.ConnectionError | OSError):
            return _Failure(f"cannot be reached ({type(error).__name__})", answered=False)
        full = isinstance(error, exceptions.OutOfMemoryError) or "OOM command not allowed" in str(error)  # of a script
        return _Failure(f"has answered with an error ({type(error).__name__})", answered=True, is_full=full)

    def _note_answer(self) -> None:
        self._is_refused = False
        self._answered_at = time.monotonic()
        self._ask_again_at = -math.inf
        if self._is_down:
            self._is_down = False
            logger.warning("the store is back: Redis answers again")

    def _note_failure(self, failure: "_Failure", started: float) -> None:
        if self._answered_at >= started:
            return  # it has answered others meanwhile, so that they need not do without it
        self._ask_again_at = -math.inf if failure.answered else time.monotonic() + _PAUSE
        if not self._is_down:
            self._is_down = True
            logger.error("the store is down, requests that need it get a 503: Redis %s", failure.reason)

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


class _Opened(NamedTuple):
    pool: RedisPool
    closing: AsyncGenerator[RedisPool, None]


def _read(url: str, where: str) -> dict[str, Any]:
    """What a URL says, for a connection. No part of it is ever quoted: a password may stand anywhere by mistake."""
    try:
        parts = urlsplit(url)
        port, query = parts.port, parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except (ValueError, AttributeError, TypeError):
        parts = None
    if parts is None:
        raise ConfigurationError(f"{where} is no URL; {_FORM}")
    if parts.scheme not in SCHEMES:
        raise ConfigurationError(f"{where} has a scheme that is not supported; {_FORM}")
    database = parts.path.removeprefix("/")
    if not parts.hostname or port == 0 or parts.fragment or not (database.isascii() and (database or "0").isdigit()):
        raise ConfigurationError(f"{where} cannot be used; {_FORM}")
    tls = SCHEMES[parts.scheme]
    files = dict(query)
    if len(files) < len(query) or not files.keys() <= (_FILES if tls else frozenset()):
        raise ConfigurationError(f"{where} has an option that is not supported; with TLS: {', '.join(sorted(_FILES))}")
    for option, file in files.items():
        if not Path(file).is_file():
            raise ConfigurationError(f"{where}: the file of {option} does not exist")
    return {
        "tls": tls,
        "host": parts.hostname,
        "port": port or 6379,
        "db": int(database or 0),
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        **({"ssl_check_hostname": True, "ssl_cert_reqs": "required", **files} if tls else {}),
    }
