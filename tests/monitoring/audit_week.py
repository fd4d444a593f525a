"""A realistic audit log of a week: honest callers by day and by night, one who copies the model, a drift, a lockdown.

``python -m tests.monitoring.audit_week FOLDER`` writes it.
"""

import json
import math
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

START = datetime(2026, 11, 19, tzinfo=UTC)
DAYS = 7
CALLERS = {
    "checkout": 90, "mobile-app": 60, "partner-acme": 40, "batch-nightly": 0, "dashboard": 15, "qa": 5, "risk-desk": 9,
    "support-tool": 6, "backoffice": 12, "analytics": 8,
}  # fmt: skip
_CHAINS = ("5f0c1e7ab2349d68", "c41d09ee7a65b210")
_ATTACK = (START + timedelta(days=4, hours=22), START + timedelta(days=5, hours=7, minutes=30))
_DRIFT = START + timedelta(days=5, hours=12)
_NEW_MODEL = START + timedelta(days=2, hours=9)

Record = dict[str, Any]


def week(seed: int = 7, density: float = 1.0) -> list[Record]:
    """The records by time, without chain, number and MAC."""
    chance = random.Random(seed)
    records = [record for hour in range(24 * DAYS) for record in _hour(chance, START + timedelta(hours=hour), density)]
    return sorted([*records, *_events()], key=lambda record: str(record["time"]))


def write(folder: Path, records: list[Record]) -> list[Path]:
    """Write records as two processes would, without proper MACs."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for place, chain in enumerate(_CHAINS):
        paths.append(folder / f"audit-{chain}-000001.jsonl")
        with paths[-1].open("w") as file:
            for number, record in enumerate(records[place :: len(_CHAINS)]):
                file.write(json.dumps({"v": 1, "chain": chain, "seq": number, **record, "mac": "0" * 64}) + "\n")
    return paths


def _hour(chance: random.Random, start: datetime, density: float) -> Iterator[Record]:
    by_day = 0.25 + 0.75 * math.exp(-(((start.hour - 14) / 5) ** 2)) * (1 if start.weekday() < 5 else 0.45)
    for caller, most in CALLERS.items():
        for _ in range(_about(chance, most * by_day * density)):
            yield _request(chance, _within(chance, start), caller, chance.choice((1, 1, 1, 4, 8)))
    if start.hour == 2:
        for _ in range(_about(chance, 60 * density)):
            yield _request(chance, _within(chance, start), "batch-nightly", chance.choice((200, 400)))
    for _ in range(_about(chance, 9 * density)):
        yield _stranger(chance, _within(chance, start))
    if _ATTACK[0] <= start < _ATTACK[1]:
        for _ in range(_about(chance, 700 * density)):
            yield _attack(chance, _within(chance, start))


def _about(chance: random.Random, number: float) -> int:
    return max(0, round(chance.gauss(number, math.sqrt(number) if number > 0 else 0)))


def _within(chance: random.Random, start: datetime) -> datetime:
    return start + timedelta(seconds=chance.random() * 3600)


def _request(chance: random.Random, at: datetime, caller: str, rows: int) -> Record:
    is_new, is_odd = at >= _NEW_MODEL, at >= _DRIFT
    if chance.random() < 0.012:
        return _refused(at, caller, ("Features", "out-of-range", 422), rows, chance)
    fraud = 0.03 if not is_odd else 0.11
    labels, confidence = {"fraud": 0, "review": 0, "genuine": 0}, [0] * 10
    for _ in range(min(rows, 20)):
        drawn = chance.random()
        labels["fraud" if drawn < fraud else "review" if drawn < fraud + 0.09 else "genuine"] += 1
        sure = chance.betavariate(9, 1.4) if not is_odd else chance.betavariate(4.5, 2.2)
        confidence[min(int(sure * 10), 9)] += 1
    slow = 1.0 if not is_new else 0.8
    return {
        **_common(at, caller, "/predict", 200, chance),
        "guards": ["APIKeyAuth", "RateLimit", "Features", "QueryBudget"],
        "refused_by": None, "rule": None, "reason": None, "rows": rows, "budget_left": {"QueryBudget": 40_000},
        "model": {"name": "fraud", "version": 11 + is_new, "digest": "sha256:" + ("b7" if is_new else "3a") * 32},
        "input": "hmac-sha256:" + "0" * 64,
        "output": {
            "labels": {name: number for name, number in labels.items() if number},
            "confidence": {f"0.{tenth}": number for tenth, number in enumerate(confidence) if number},
        },
        "latency_ms": round(slow * (1.6 + 0.02 * rows) * chance.lognormvariate(0.2, 0.5), 3),
    }  # fmt: skip


def _attack(chance: random.Random, at: datetime) -> Record:
    if at >= _ATTACK[1]:
        return _refused(at, "trial-4711", ("Lockdown", "blocked", 403), 0, chance)
    drawn = chance.random()
    if drawn < 0.45:
        return _refused(at, "trial-4711", ("RateLimit", "rate-limited", 429), 0, chance)
    record = _request(chance, at, "trial-4711", 50)
    confidence = [0] * 10
    for _ in range(20):
        confidence[min(int(chance.betavariate(5, 4) * 10), 9)] += 1
    if record["output"]:
        record["output"]["confidence"] = {f"0.{tenth}": number for tenth, number in enumerate(confidence) if number}
        record["latency_ms"] = round(record["latency_ms"] * 2.2, 3)
    return record


def _stranger(chance: random.Random, at: datetime) -> Record:
    record = _refused(at, None, ("APIKeyAuth", chance.choice(("no-key", "no-key", "unknown-key")), 401), 0, chance)
    record["address"] = chance.choice(("203.0.113.9", "198.51.100.77", "2001:db8::5", "203.0.113.200"))
    record["route"] = chance.choice(("/predict", "/predict", "/models"))
    return record


def _refused(at: datetime, caller: str | None, why: tuple[str, str, int], rows: int, chance: random.Random) -> Record:
    guard, rule, status = why
    return {
        **_common(at, caller, "/predict", status, chance),
        "guards": ["APIKeyAuth", guard] if guard != "APIKeyAuth" else [guard],
        "refused_by": guard, "rule": rule, "reason": "...", "rows": rows or None, "budget_left": {}, "model": None,
        "input": None, "output": None, "latency_ms": round(0.3 * chance.lognormvariate(0, 0.4), 3),
    }  # fmt: skip


def _common(at: datetime, caller: str | None, route: str, status: int, chance: random.Random) -> Record:
    return {
        "time": _spelled(at), "event": "request", "request_id": f"{chance.getrandbits(64):016x}",
        "principal": None if caller is None else {"method": "api-key", "issuer": "", "id": caller},
        "address": "192.0.2.66" if caller == "trial-4711" else f"10.0.0.{chance.randrange(3, 30)}",
        "method": "POST", "route": route, "status": status,
    }  # fmt: skip


def _events() -> Iterator[Record]:
    started = START + timedelta(minutes=1)
    yield _event(started, "secret.read", name="api_keys", source="DirectorySecrets")
    yield _event(started, "model.served", model="fraud", version=11, digest="sha256:3ac4", signer="ci")
    yield _event(_NEW_MODEL, "model.loaded", model="fraud", digest="sha256:b7c4", format="onnx")
    yield _event(_NEW_MODEL, "model.served", model="fraud", version=12, digest="sha256:b7c4", signer="ci")
    for day in range(DAYS):
        yield _event(START + timedelta(days=day, hours=3), "log.purged", file="audit-9a.jsonl", records=120_000)
        yield _event(START + timedelta(days=day, hours=8, minutes=2), "login.accepted", subject="operator")
    yield _event(START + timedelta(days=3, hours=4), "secret.rotated", name="api_keys", overlap=3600)
    yield _event(START + timedelta(days=3, hours=4), "key.rotated", key="partner-acme")
    for minutes, score in ((14, 3.1), (95, 5.4), (260, 8.9), (415, 9.7)):
        facts = {"principal": "trial-4711", "method": "margin+near-duplicates", "score": score, "queries": 25 + minutes}
        yield _event(_ATTACK[0] + timedelta(minutes=minutes), "query.suspected", **facts)
    yield _event(
        START + timedelta(days=1, hours=11), "query.suspected", principal="qa", method="near-duplicates", score=2.2
    )
    yield _event(START + timedelta(days=1, hours=13), "query.cleared", principal="qa")
    yield _event(_ATTACK[1], "lockdown.set", what="principal api-key trial-4711", by="operator", why="copies the model")
    yield _event(_ATTACK[1] + timedelta(minutes=6), "key.revoked", key="trial-4711", by="operator")
    yield _event(_DRIFT + timedelta(hours=3), "drift.found", what="confidence", kind="sudden", psi=0.41)
    yield _event(_DRIFT + timedelta(hours=9), "drift.found", what="input", feature="amount", kind="sudden", psi=0.33)
    yield _event(START + timedelta(days=6, hours=1), "store.down", reason="timeout")
    yield _event(START + timedelta(days=6, hours=1, minutes=2), "store.up")


def _event(at: datetime, event: str, **facts: object) -> Record:
    return {"time": _spelled(at), "event": event, "facts": facts}


def _spelled(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}Z"


if __name__ == "__main__":
    for written in write(Path(sys.argv[1]), week()):
        sys.stdout.write(f"{written}\n")
