"""Who is judged when: every authentication and every scope first, then what counts, all before the body.

FastAPI runs dependencies in the order in which they are listed, after it has read the body. That would let an
anonymous caller make the service read megabytes, and let a request that ends in a 403 use up somebody's quota. So the
first guard that is asked, or the first attempt to read the body, judges all guards of the route at once. FastAPI's own
run then finds each decision in the request's memory.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeVar

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
    memory = await judge_all(conn)
    if guard not in memory.decisions:
        await memory.note(guard, decide)
    decision: T = memory.recall(guard)
    return decision


async def judge_all(conn: HTTPConnection) -> RequestMemory:
    """Have all guards of the matched route judged, if they are not yet.

    Returns:
        What is known about the request.

    Raises:
        MLGuardError: The first refusal.
    """
    memory = RequestMemory.of(conn.scope)
    if not memory.admitted:
        await judge(conn, memory)
    return memory


async def await_turn(conn: HTTPConnection, guard: Guard, costing: Any) -> None:
    """Have those judge whose turn comes before that of a guard that charges for what the body holds.

    Every guard of the route takes its place that takes one, and those charge that charge for the same and forget it
    sooner. So a request that one of them refuses is charged nothing here, in whatever order the guards are listed.

    Args:
        conn: The request or WebSocket.
        guard: Whose turn it is to be.
        costing: What the body holds, as the guard was given it.

    Raises:
        MLGuardError: The first refusal.
    """
    memory = await judge_all(conn)
    if memory.plan is None:
        return
    for call in memory.plan.places:
        await call(conn)
    for call in memory.plan.turns:
        if call.guard is guard:
            return
        if call.guard.charges_by is guard.charges_by and call.guard not in memory.decisions:
            await call.charge(conn, costing)


async def charge_refused_input(conn: HTTPConnection, reader: Guard) -> None:
    """Have the guards of the route that charge for what a guard reads charge for what it is about to refuse.

    Raises:
        MLGuardError: One of them has no room (429): then that is the refusal.
    """
    memory = RequestMemory.of(conn.scope)
    for call in memory.plan.charges if memory.plan is not None else ():
        read_the_same = _origin(call.guard.charges_by) is _origin(reader)
        if read_the_same and call.guard not in memory.decisions:  # or it has charged for what was read
            await call.charge_refused(conn)


def _origin(reader: Guard | None) -> Guard | None:
    """Who has read the body for a guard that takes its value from another one."""
    while reader is not None and reader.source is not None:
        reader = reader.source
    return reader


def is_its_turn(memory: RequestMemory) -> bool:
    """Whether a guard that is asked now can decide at once.

    All guards were judged and have admitted, or are being judged in this very task, as they are when none of them
    waits for anything.
    """
    return memory.plan is not None and (memory.admitted or (memory.task is None and memory.refusal is None))


async def judge(conn: HTTPConnection, memory: RequestMemory) -> None:
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
            memory.task = asyncio.ensure_future(_run_apart(plan, conn, memory))
        else:
            await _run(plan, conn, memory)
    if memory.task is not None and _judging.get() is not memory:
        await asyncio.shield(memory.task)
    if memory.refusal is not None:
        raise memory.refusal.with_traceback(None)


#: The memory of the request whose guards run in this task, or in one that they have started.
_judging: ContextVar[RequestMemory | None] = ContextVar("mlguard_judging", default=None)


async def _run_apart(plan: Plan, conn: HTTPConnection, memory: RequestMemory) -> None:
    _judging.set(memory)
    await _run(plan, conn, memory)


async def _run(plan: Plan, conn: HTTPConnection, memory: RequestMemory) -> None:
    try:
        for call in plan.calls:
            await call(conn)
    except Exception as refusal:  # kept, not raised: nobody may be waiting any more
        memory.refusal = refusal
    else:
        memory.admitted = True
