"""Who is judged when: every authentication and every scope first, then what counts, all before the body.

FastAPI runs dependencies in the order in which they are listed, after it has read the body. That would let an
anonymous caller make the service read megabytes, and let a request that ends in a 403 use up somebody's quota. So the
first guard that is asked, or the first attempt to read the body, judges all guards of the route at once. FastAPI's own
run then finds each decision in the request's memory.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeVar

from starlette.requests import HTTPConnection

from mlguard._guard import Guard, RequestMemory
from mlguard._plans import Plan, plan_for

T = TypeVar("T")


async def once(conn: HTTPConnection, guard: Guard, decide: Callable[[], Awaitable[T]]) -> T:
    """The guard's decision on this request, made once, and only when its turn has come.

    Args:
        conn: The request or WebSocket.
        guard: Who decides.
        decide: Makes the decision. Called at most once a request.

    Returns:
        What ``decide`` returned.

    Raises:
        MLGuardError: What ``decide`` raised, or the refusal of a guard whose turn comes before.
    """
    memory = await judge_all(conn, running=guard)
    if guard not in memory.decisions:
        await memory.note(guard, decide)
    decision: T = memory.recall(guard)
    return decision


async def judge_all(conn: HTTPConnection, running: Guard | None = None) -> RequestMemory:
    """Have all guards of the matched route judged, if they are not yet.

    Args:
        conn: The request or WebSocket.
        running: The guard that asks for it, if it is one.

    Returns:
        What is known about the request.

    Raises:
        MLGuardError: The first refusal.
    """
    memory = RequestMemory.of(conn.scope)
    if not memory.admitted:
        await judge(conn, memory, running)
    return memory


async def judge(conn: HTTPConnection, memory: RequestMemory, running: Guard | None = None) -> None:
    """Judge all guards of the matched route, once a request. A refusal is raised again each time.

    Raises:
        MLGuardError: The first refusal.
    """
    if memory.plan is None:
        plan = plan_for(conn.scope)
        if plan is None:  # no route yet: a middleware asks one guard by itself
            return
        memory.plan = plan  # set first: the guards that run now ask again from inside
        memory.judged_headers = [*conn.scope["headers"]]  # a copy, because the list itself may be changed
        if plan.suspends:
            # A caller in a cancelled scope (``is_disconnected`` reads that way) must not stop a guard half way: a nonce
            # would be burnt, and the honest retry called a replay.
            memory.task = asyncio.ensure_future(_run_apart(plan, conn, memory, running))
        else:
            await _run(plan, conn, memory, running)
    if memory.task is not None and _judging.get() is not memory:
        await asyncio.shield(memory.task)
    if memory.refusal is not None:
        raise memory.refusal.with_traceback(None)


#: The memory of the request whose guards run in this task, or in one that they have started.
_judging: ContextVar[RequestMemory | None] = ContextVar("mlguard_judging", default=None)


async def _run_apart(plan: Plan, conn: HTTPConnection, memory: RequestMemory, running: Guard | None) -> None:
    _judging.set(memory)
    await _run(plan, conn, memory, running)


async def _run(plan: Plan, conn: HTTPConnection, memory: RequestMemory, running: Guard | None) -> None:
    try:
        for call in plan.calls:
            await call(conn, running)
    except Exception as refusal:  # kept, not raised: nobody may be waiting any more
        memory.refusal = refusal
    else:
        memory.admitted = True
