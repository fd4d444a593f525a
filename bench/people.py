"""What ``find_pii`` finds of a labelled set and what it takes for a datum, and how long redacting takes."""

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice

from bench.labelled_people import Labelled, negatives, positives
from bench.prompts import wilson
from bench.report import Extra, Grid, Table
from bench.timing import take_turns
from mlguard import PIISearch, Redactor

_SEED = 20_261_126
_REGIONS = ("DE", "US", "FR")
_RECORD = 4_096  # characters
_TARGET = 40e-6
_MEGABYTE = 1_000_000
# What is repeated, and up to how many megabytes.
_HOSTILE = {
    **dict.fromkeys(["1 ", "::", "password=", "bearer+", "\u200b1", "://a:b@"], 10.0),
    **dict.fromkeys(["@", "%40", "a@a.", "4111 ", "+49 30 1 ", "11111111111 ", "DE89 3704 "], 1.0),
}


async def measure_recall(*, short: bool) -> Grid:
    """Precision and recall by kind, then what is found in texts that hold nothing."""
    each = 50 if short else 1_000
    search, regional = PIISearch(), PIISearch(regions=_REGIONS)
    data, others = [*positives(_SEED, each)], [*negatives(_SEED, each)]
    findings = {
        name: Counter(one.kind for sample in [*data, *others] for one in looked.spans(sample.text))
        for name, looked in (("default", search), ("regions", regional))
    }
    rows = []
    for kind in dict.fromkeys(sample.kind for sample in data):
        samples = [sample for sample in data if sample.kind == kind]
        setting, looked = ("regions", regional) if kind == "phone without +" else ("default", search)
        found = "phone" if kind.startswith("phone") else kind
        masked = sum(_is_covered(sample, looked) for sample in samples)
        right = sum(_has_right_kind(sample, found, looked) for sample in samples)
        # Data of the same kind in other rows: what finds them is right, too.
        right_elsewhere = sum(
            _has_right_kind(sample, found, looked)
            for sample in data
            if sample.kind != kind and sample.kind.startswith(f"{found} with")
        )
        total = findings[setting][found]
        precision = f"{(right + right_elsewhere) / total:.1%}" if total else "-"
        rows.append([kind, f"{masked} / {each}", f"{masked / each:.1%}", _interval(masked, each), precision])
    for kind in dict.fromkeys(sample.kind for sample in others):
        samples = [sample for sample in others if sample.kind == kind]
        taken = sum(bool(search.spans(sample.text)) for sample in samples)
        more = sum(bool(regional.spans(sample.text)) for sample in samples)
        rows.append(
            [
                f"no datum: {kind}",
                f"{taken} / {each}",
                f"{taken / each:.1%}",
                _interval(taken, each),
                f"{more / each:.1%}",
            ]
        )
    head = ["kind", "found whole", "share", "95 % interval", "precision; with regions"]
    notes = [
        "",
        "Precision: of what is found as this kind in the whole set, how much is. Where there is no datum, the last",
        f"column is the share in which something is found with PIISearch(regions={_REGIONS}).",
    ]
    return Grid("find_pii on the labelled set", head, rows, notes)


def _is_covered(sample: Labelled, search: PIISearch) -> bool:
    """Whether all of the datum would be masked."""
    start, end = sample.start or 0, sample.end or 0
    return any(span.start <= start and span.end >= end for span in search.spans(sample.text))


def _has_right_kind(sample: Labelled, kind: str, search: PIISearch) -> int:
    return sum(
        span.kind == kind and span.start < (sample.end or 0) and span.end > (sample.start or 0)
        for span in search.spans(sample.text)
    )


def _interval(successes: int, tries: int) -> str:
    low, high = wilson(successes, tries)
    return f"{low:.1%} to {high:.1%}"


def _records() -> dict[str, str]:
    """Records of 4 KB, as services log them."""
    draw = random.Random(_SEED)  # noqa: S311  # nothing here is a secret
    words = [
        "the",
        "a",
        "model",
        "row",
        "of",
        "with",
        "was",
        "served",
        "answered",
        "in",
        "cache",
        "miss",
        "hit",
        "budget",
        "left",
        "and",
        "then",
    ]
    prose = "2026-11-26 17:23:13,123 INFO app: " + " ".join(islice(cycle(draw.choices(words, k=200)), 2_000))
    lines = [
        json.dumps(
            {
                "time": "2026-11-26 17:23:13,123",
                "level": "INFO",
                "message": " ".join(draw.choices(words, k=12)),
                "request_id": f"{draw.getrandbits(64):016x}",
                "path": "/predict",
                "status": 200,
                "ms": round(draw.random() * 100, 3),
            }
        )
        for _ in range(30)
    ]
    frame = (
        '  File "/srv/app/lib/python3.11/site-packages/app/serve.py", line 216, in predict\n    return model(rows)\n'
    )
    floats = ", ".join(str(draw.gauss(0, 1)) for _ in range(400))
    texts = {
        "prose": prose,
        "lines of JSON": "".join(lines),
        "a traceback": "Traceback (most recent call last):\n" + frame * 60,
        "an array of floats": floats,
        "prose with umlauts": prose.replace("answered", "änswered"),
    }
    records = {f"{name}, no datum": text[:_RECORD] for name, text in texts.items()}
    half = _RECORD // 2
    for name, datum in (
        ("mail address", "jane@example.org"),
        ("card", "4111 1111 1111 1111"),
        ("password", "password=x1"),
    ):
        records[f"prose with a {name}"] = f"{prose[:half]} {datum} {prose[half:]}"[:_RECORD]
    return records


async def measure_redaction(*, short: bool) -> Table:
    """What the filter adds to a record of 4 KB, by what is in it, and the time for a megabyte of hostile text."""
    redactor = Redactor()
    lines = []
    for name, text in _records().items():

        async def bare(text: str = text) -> None:
            logging.makeLogRecord({"msg": text}).getMessage()

        async def guarded(text: str = text) -> None:
            record = logging.makeLogRecord({"msg": text})
            redactor.filter(record)
            record.getMessage()

        timing = await take_turns(
            {"bare": bare, "guarded": guarded}, rounds=3 if short else 30, calls=10 if short else 40
        )
        lines.append(Extra(f"4 KB: {name}", timing, _TARGET))
    size = _MEGABYTE // 100 if short else _MEGABYTE
    notes = [
        "",
        "The fastest turns. Seconds of the processor for hostile text, of which there is ten times as much then:",
    ]
    for piece, most in _HOSTILE.items():
        first, second = (_seconds(redactor.search.spans, piece, int(most * size * share)) for share in (0.1, 1))
        notes.append(f"{piece!a:18} {most:4g} MB {second:8.3f} s {second / first:6.1f}x")
    return Table("Redactor as a filter of a log", lines, notes)


def _seconds(look: Callable[[str], object], piece: str, size: int) -> float:
    text = piece * (size // len(piece))
    start = time.process_time()
    look(text)
    return time.process_time() - start
