"""A guard asked by itself, as ``harden`` has it asked: what the guard costs, without the rest of a request.

On a request of its own each time, with the memory that ``harden`` has put there, beside a dependency that does nothing.
Microseconds are lost in what else the machine does, so the fastest of many short turns counts.
"""

from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any

from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection

from bench.timing import Timing
from mlguard import Principal
from mlguard._guard import RequestMemory
from mlguard._plans import Plan

_TURN = 200  # calls
_SCOPES = SecurityScopes(["predict"])
_JUDGING = Plan((), suspends=False, places=(), charges=(), turns=())  # as while harden has the guards of a route judged
_NOBODY = Principal("nobody")
_HEADERS = {
    "host": "127.0.0.1:8000",
    "accept": "*/*",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
    "user-agent": "python-httpx/0.28.1",
    "content-length": "60",
    "content-type": "application/json",
}

Asked = Callable[[], Awaitable[Principal]]


class Nothing:
    """A dependency that does nothing, called as a guard is."""

    async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:  # noqa: ARG002
        """Return the same each time."""
        return _NOBODY


def ask(guard: Any, **credential: str) -> Asked:
    """Ask a guard about a new request with a credential.

    Args:
        guard: The guard, or :class:`Nothing`.
        **credential: The header, with underscores, and its value.
    """
    sent = {**_HEADERS, **{name.replace("_", "-"): value for name, value in credential.items()}}
    headers = [(name.encode(), value.encode()) for name, value in sent.items()]

    async def call() -> Principal:
        conn = HTTPConnection({"type": "http", "headers": headers})
        memory = RequestMemory.of(conn.scope)
        memory.plan, memory.judged_headers = _JUDGING, headers
        principal: Principal = await guard(conn, _SCOPES)
        return principal

    return call


async def fastest(calls: Mapping[str, Asked], turns: int) -> Timing:
    """Many short turns, one contender after the other. All but ``bare`` must find that it is ``bench`` who calls."""
    for name, call in calls.items():
        principal = await call()
        if name != "bare" and principal.id != "bench":
            raise AssertionError(f"{name} said that it was somebody else")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            start = perf_counter()
            for _ in range(_TURN):
                await call()
            seconds[name].append((perf_counter() - start) / _TURN)
    return Timing(seconds)
