"""Timing that a busy machine does not upset: contenders take turns, and only ratios within a round are compared."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call of each contender, one number a round."""

    seconds: Mapping[str, list[float]]

    def of(self, name: str) -> float:
        """The median of the rounds, in seconds."""
        return median(self.seconds[name])

    def ratio(self, name: str, base: str) -> float:
        """How many times the base's time a contender needs: the median of the ratios within each round."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        return median(contender / reference for contender, reference in pairs)


async def take_turns(
    contenders: Mapping[str, Call], *, rounds: int, calls: int, settle: Mapping[str, Call] | None = None
) -> Timing:
    """Time contenders in interleaved rounds, A B C A B C, all on the running event loop.

    Args:
        contenders: What to call, by name. Each is called ``calls`` times first, to warm up.
        rounds: How often each one takes its turn.
        calls: How many calls make one turn.
        settle: What a contender has left to do later, by name. It is called at the end of each turn, and its time is
            that of the calls, too.
    """
    settle = settle or {}
    for name, call in contenders.items():
        await _turn(call, calls, settle.get(name))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for _ in range(rounds):
            for name, call in contenders.items():
                gc.collect()
                gc.disable()
                seconds[name].append(await _turn(call, calls, settle.get(name)))
    finally:
        gc.enable()
    return Timing(seconds)


async def _turn(call: Call, calls: int, settle: Call | None) -> float:
    total = 0.0
    for _ in range(calls):
        start = perf_counter()
        await call()
        total += perf_counter() - start
        await asyncio.sleep(0)  # as between the requests of a server: the event loop tidies up its timers
    if settle is not None:
        start = perf_counter()
        await settle()
        total += perf_counter() - start
    return total / calls
