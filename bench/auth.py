"""What it costs to know who is calling: the check of an API key, and keys read from a file.

The check is timed as FastAPI calls a guard, on a request of its own each time and with the memory that ``harden`` has
put there before any guard is asked, against a dependency that does nothing. Microseconds are lost in what else the
machine does, so the fastest of many short turns counts.
"""

import hashlib
import json
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection

from bench.report import Line, Table
from bench.timing import Timing
from mlguard import APIKey, APIKeyAuth, APIKeys, Principal
from mlguard._guard import RequestMemory
from mlguard._plans import Plan

_MANY = 100_000
_FEW = 10
_TURN = 200  # calls
_SCOPES = SecurityScopes(["predict"])
_JUDGING = Plan((), suspends=False)  # as while harden has the guards of a route judged
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


@dataclass(frozen=True, slots=True)
class Extra(Line):
    """A measurement of the fastest turns. The target is what ``guarded`` may take longer than ``bare``, in seconds."""

    def cells(self) -> list[str]:
        """As texts, in the order of the table's head."""
        bare, guarded = (min(self.timing.seconds[name]) for name in ("bare", "guarded"))
        extra = guarded - bare
        return [
            self.work,
            f"{bare * 1e6:.1f} us",
            f"{guarded * 1e6:.1f} us",
            "",
            "",
            f"+{extra * 1e6:.1f} us",
            f"<= +{self.target * 1e6:g} us",
            "yes" if extra <= self.target else "NO",
        ]


@dataclass(frozen=True, slots=True)
class Once(Line):
    """Something that is done once. The target is what it may take, in seconds."""

    def cells(self) -> list[str]:
        """As texts, in the order of the table's head."""
        taken = min(self.timing.seconds["guarded"])
        met = "yes" if taken <= self.target else "NO"
        return [self.work, "", f"{taken * 1e3:,.0f} ms", "", "", "", f"<= {self.target * 1e3:,.0f} ms", met]


class Nothing:
    """A dependency that does nothing, called as a guard is."""

    async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:  # noqa: ARG002
        """Return the same each time."""
        return _NOBODY


async def measure(*, short: bool) -> Table:
    """API keys: the check, and the file."""
    turns = 2 if short else 1_500
    many = _FEW * 10 if short else _MANY
    with tempfile.TemporaryDirectory() as folder:
        few_keys, few_secret, _ = _load(Path(folder, "few.json"), _FEW, times=1)
        many_keys, many_secret, loads = _load(Path(folder, "many.json"), many, times=1 if short else 7)
        calls = {
            "bare": _call(Nothing(), few_secret),
            "guarded": _call(APIKeyAuth(few_keys), few_secret),
            "many": _call(APIKeyAuth(many_keys), many_secret),
        }
        seconds = (await _fastest(calls, turns)).seconds
        few, more = seconds["guarded"], seconds["many"]
        toml = _toml_seconds(Path(folder, "keys.toml"), 10 if short else 1_000)
    lines = [
        Extra("API key check", Timing({"bare": seconds["bare"], "guarded": few}), 3e-6),
        Extra(f"  one of {many:,} keys, over one of {_FEW}", Timing({"bare": few, "guarded": more}), 0.5e-6),
        Once(f"{many:,} keys from JSON", Timing({"guarded": loads}), 1.0),
    ]
    return Table(
        "Who is calling, in process", lines, [f"{10 if short else 1_000:,} keys from TOML: {toml * 1e3:,.0f} ms."]
    )


def _load(path: Path, number: int, *, times: int) -> tuple[APIKeys, str, list[float]]:
    """Keys from a file as ``mlguard keys`` writes it, the secret of one of them, and how long reading it took."""
    key, secret = APIKey.generate("bench", scopes={"predict"})
    entries = [_entry(f"caller-{n}", f"k{n}", hashlib.sha256(str(n).encode()).hexdigest()) for n in range(number - 1)]
    entries.insert(number // 2, _entry(key.id, key.key_id, key.digest.hex()))
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    path.write_text(f'{{"keys": [\n{lines}\n]}}\n', "utf-8")
    del entries, lines
    seconds = []
    for _ in range(times):
        start = perf_counter()
        keys = APIKeys.from_file(path)
        seconds.append(perf_counter() - start)
    if len(keys) != number or keys.find(secret.encode()) is None:
        raise AssertionError("the file was not read as it was written")
    return keys, secret, seconds


def _entry(name: str, key_id: str, digest: str) -> dict[str, Any]:
    created = "2026-01-01T00:00:00+00:00"
    return {"id": name, "key_id": key_id, "digest": f"sha256:{digest}", "scopes": ["predict"], "created": created}


def _toml_seconds(path: Path, number: int) -> float:
    tables = []
    for n in range(number):
        entry = _entry(f"caller-{n}", f"k{n}", hashlib.sha256(str(n).encode()).hexdigest())
        tables.append("\n".join(["[[keys]]", *(f"{name} = {json.dumps(value)}" for name, value in entry.items())]))
    path.write_text("\n\n".join(tables), "utf-8")
    start = perf_counter()
    APIKeys.from_file(path)
    return perf_counter() - start


def _call(dependency: Any, secret: str) -> Callable[[], Awaitable[Any]]:
    headers = [(name.encode(), value.encode()) for name, value in {**_HEADERS, "x-api-key": secret}.items()]

    async def call() -> Any:
        conn = HTTPConnection({"type": "http", "headers": headers})
        memory = RequestMemory.of(conn.scope)
        memory.plan, memory.judged_headers = _JUDGING, headers
        return await dependency(conn, _SCOPES)

    return call


async def _fastest(calls: Mapping[str, Callable[[], Awaitable[Any]]], turns: int) -> Timing:
    """Many short turns, one contender after the other."""
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
