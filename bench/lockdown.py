"""What a lockdown costs every request, and what a change costs every worker."""

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from bench.report import Extra, Table, spell_seconds
from bench.timing import Timing
from mlguard import Lockdown, MemoryStore, Principal
from mlguard.monitoring._lockdown_middleware import LockdownMiddleware
from mlguard.monitoring._lockdown_rules import Rules
from mlguard.monitoring._lockdown_state import Block, State, read_state, write_state

_TURN = 200  # calls
_MANY = 1_000
_ALICE = Principal("bench", method="api-key")

Call = Callable[[], Awaitable[object]]


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answers nothing: what is left is the middleware."""


def _ask(app: Any, path: str = "/models/iris/predict") -> Call:
    def scope() -> dict[str, Any]:
        return {"type": "http", "path": path, "root_path": "", "headers": [], "client": ("198.51.100.7", 50_000)}

    async def call() -> None:
        await app(scope(), None, None)

    return call


async def _locked(*blocks: Block) -> Call:
    lockdown = Lockdown(store=MemoryStore())
    await lockdown.start()
    lockdown._watch._apply(State(blocks=blocks))
    lockdown.stop()
    return _ask(LockdownMiddleware(_app, lockdown))


def _principals(number: int) -> list[Block]:
    return [Block("principal", f"caller-{n}", "api-key") for n in range(number)]


def _networks(number: int) -> list[Block]:
    return [Block("address", f"10.{n // 256}.{n % 256}.0/24") for n in range(number)]


async def measure(*, short: bool) -> Table:
    """The middleware, by what is locked down; and reading a record as large as one may be."""
    turns = 2 if short else 400
    full = [*_principals(_MANY), *_networks(_MANY)]
    calls = {
        "bare": _ask(_app),
        "nothing": await _locked(),
        "full": await _locked(*full, Block("label-only")),
        "routes": await _locked(*(Block("route", f"/models/{{name}}/explain/{n}") for n in range(3))),
    }
    seconds: dict[str, list[float]] = {name: [] for name in [*calls, "admit none", "admit"]}
    rules = Rules(State(blocks=tuple(full)))
    for _ in range(turns):
        for name, call in calls.items():
            start = perf_counter()
            for _ in range(_TURN):
                await call()
            seconds[name].append((perf_counter() - start) / _TURN)
        for name, judge in (("admit none", _nobody), ("admit", rules.judge_principal)):
            start = perf_counter()
            for _ in range(_TURN):
                judge(_ALICE)
            seconds[name].append((perf_counter() - start) / _TURN)
    lines = [
        Extra("nothing locked down", Timing({"bare": seconds["bare"], "guarded": seconds["nothing"]}), 3e-6),
        Extra("3 routes", Timing({"bare": seconds["bare"], "guarded": seconds["routes"]}), 10e-6),
        Extra(
            f"{_MANY:,} principals and networks", Timing({"bare": seconds["bare"], "guarded": seconds["full"]}), 6e-6
        ),
        Extra(
            "  is a principal among them", Timing({"bare": seconds["admit none"], "guarded": seconds["admit"]}), 1e-6
        ),
    ]
    return Table("Lockdown, in process", lines, _of_changes(full, 1 if short else 20))


def _nobody(principal: Principal) -> None:
    """Admits everybody."""


def _of_changes(full: list[Block], turns: int) -> list[str]:
    record = write_state(State(origin="bench", revision=1, blocks=tuple(full)))
    taken = []
    for _ in range(turns):
        start = perf_counter()
        Rules(read_state(record))
        taken.append(perf_counter() - start)
    size, time = len(record) // 1024, spell_seconds(min(taken))
    return [f"A record of {len(full):,} blocks has {size} KiB; a worker that sees it change needs {time}."]
