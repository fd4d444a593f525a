"""What it costs to know who is calling: the check of an API key, and keys read from a file."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.asking import Nothing, ask, fastest
from bench.report import Extra, Line, Table
from bench.timing import Timing
from mlguard import APIKey, APIKeyAuth, APIKeys

_MANY = 100_000
_FEW = 10


@dataclass(frozen=True, slots=True)
class Once(Line):
    """Something that is done once. The target is what it may take, in seconds."""

    def cells(self) -> list[str]:
        """As texts, in the order of the table's head."""
        taken = min(self.timing.seconds["guarded"])
        met = "yes" if taken <= self.target else "NO"
        return [self.work, "", f"{taken * 1e3:,.0f} ms", "", "", "", f"<= {self.target * 1e3:,.0f} ms", met]


async def measure(*, short: bool) -> Table:
    """API keys: the check, and the file."""
    turns = 2 if short else 1_500
    many = _FEW * 10 if short else _MANY
    with tempfile.TemporaryDirectory() as folder:
        few_keys, few_secret, _ = _load(Path(folder, "few.json"), _FEW, times=1)
        many_keys, many_secret, loads = _load(Path(folder, "many.json"), many, times=1 if short else 7)
        calls = {
            "bare": ask(Nothing(), x_api_key=few_secret),
            "guarded": ask(APIKeyAuth(few_keys), x_api_key=few_secret),
            "many": ask(APIKeyAuth(many_keys), x_api_key=many_secret),
        }
        seconds = (await fastest(calls, turns)).seconds
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
