"""What becomes of events: canonical JSON in bounded size, from which nothing breaks out, whatever stands in them."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlguard import Redactor
from mlguard.monitoring._audit_records import (
    MAX_LINE,
    NOTHING_BEFORE,
    RecordForm,
    mac_of,
    parsed,
    parts_of,
    printable,
    signed_line,
)

FORM = RecordForm(Redactor())
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.characters(categories=["Cs"]),
    lambda parts: st.lists(parts) | st.dictionaries(st.text() | st.integers(), parts) | st.tuples(parts),
    max_leaves=30,
)


def line_of(event: Mapping[str, Any]) -> bytes:
    return signed_line(b"key", NOTHING_BEFORE, FORM.record(event))[0]


def value_of(value: Any) -> Any:
    """What becomes of one value."""
    return FORM.record({"event": "x", "value": value})["value"]


@settings(max_examples=50)
@given(st.dictionaries(st.text(), ANYTHING))
def test_any_event_is_one_harmless_line(event: dict[str, Any]) -> None:
    """Whatever an event is made of, its line is JSON, canonical, printable, bounded, and verifies."""
    line = line_of(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= MAX_LINE
    text = line[:-1].decode()
    assert text.isprintable()
    parts = parts_of(line[:-1])
    assert parts is not None
    assert mac_of(b"key", NOTHING_BEFORE, parts.body) == parts.mac
    record = json.loads(parts.body)
    assert canonical(record) == parts.body.decode()


def canonical(value: Any) -> str:
    """RFC 8785, as far as records go, written by somebody else: Python's own JSON, and numbers as ECMAScript does."""
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be"))
        return "{" + ",".join(f"{json.dumps(name)}:{canonical(part)}" for name, part in members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        digits = format(value, ".17f") if abs(value) < 1e-4 else ""
        shortest = repr(value)
        if "e" not in shortest:
            return shortest
        places = len(shortest.split("e")[0].replace(".", "").replace("-", "")) - 1 - int(shortest.split("e")[1])
        assert digits
        return format(value, f".{places}f")
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, True),
        (None, None),
        (1.0, 1),
        (-0.0, 0),
        (0.1, 0.1),
        (0.00001, 0.00001),
        (1e-6, "1e-06"),
        (1e15 + 0.5, "1000000000000000.5"),
        (1e15, 10**15),
        (1e300, "1e+300"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (2**53 - 1, 2**53 - 1),
        (2**53, "9007199254740992"),
        (-(2**200), str(-(2**200))),
        (10**5_000, "[integer of 16610 bits]"),
        (b"\x00\xff", "[2 bytes]"),
        (bytearray(3), "[3 bytes]"),
        (np.float64(0.5), 0.5),
        (np.float32(2), 2),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array([1.0]), "[ndarray]"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (object(), "[object]"),
        ((1, [2], {3}), [1, [2], [3]]),
        ({}, {}),
        ({1: 2, "é\n": 3}, {"[int]": 2, "\\xe9\\n": 3}),
        (StrEnum("Kind", ["A"]).A, "a"),  # type: ignore[attr-defined]
    ],
    ids=lambda value: type(value).__name__,  # one of them has too many digits to be shown
)
def test_values_become_plain(value: Any, written: Any) -> None:
    """Of each kind of value there is one way to write it, and none that JSON has no word for."""
    assert value_of(value) == written
    assert type(value_of(value)) is type(written)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain, and ünïcödé 漢字", "plain, and ünïcödé 漢字"),
        ('a\nb\r\t"\\', 'a\\nb\\r\\t"\\'),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\x9b31m\x7f\x00", "\\x9b31m\\x7f\\x00"),
        ("\u202egnp.exe\u200b\u2028", "\\u202egnp.exe\\u200b\\u2028"),
        ("\ud800 alone", "\\ud800 alone"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_texts_are_printable(text: str, written: str) -> None:
    """What a terminal would obey, and what would hide or turn around what stands beside it, is written out."""
    assert value_of(text) == written
    assert printable(text) == written


@pytest.mark.parametrize(
    "event",
    [
        {"event": "x", "text": "é" * 1_000_000},
        {"event": "x", "text": "\x1b" * 1_000_000},
        {"event": "x", "texts": ['"' * 5_000] * 1_000},
        {"event": "x", "numbers": [*range(100_000)]},
        {"event": "x", **{f"{'n' * 5_000}{number}": number for number in range(5_000)}},
        {"event": "x", "deep": {"a" * 99 + str(n): {str(m) * 90: {"x": 1} for m in range(90)} for n in range(90)}},
    ],
)
def test_large_events_are_cut(event: dict[str, Any]) -> None:
    """A megabyte in an event does not make a megabyte in the log, and what was left out is said."""
    line = line_of(event)
    assert len(line) <= MAX_LINE
    assert b"..." in line or b"nnn" in line


def test_deep_events_are_cut() -> None:
    """Levels without end, or a value that holds itself, end after a few."""
    round_and_round: list[Any] = []
    round_and_round.append(round_and_round)
    assert line_of({"event": "x", "value": round_and_round}).count(b"[") < 10
    deep: Any = "x"
    for _ in range(10_000):
        deep = {"a": deep}
    assert line_of({"event": "x", "value": deep}).count(b"{") < 12


def test_a_secret_across_the_cut_is_redacted() -> None:
    """What is cut off a text does not save a secret from being found."""
    token = "4JmK2pQ8vRz7XwN5tYh3LcB9sDfG6aEu"
    for before in range(960, 1_000, 4):
        text = value_of("x" * before + f" Authorization: Bearer {token} " + "y" * 9_000)
        assert not any(token[:size] in text for size in (8, 16, 32))


@pytest.mark.parametrize("event", [{}, {"event": 7}, {"event": None, "x": 1}])
def test_an_event_without_a_name_is_unknown(event: dict[str, Any]) -> None:
    """There is a record of it all the same."""
    assert FORM.record(event)["event"] == "unknown"


def test_what_cannot_be_redacted_is_not_written() -> None:
    """If the redactor fails, its texts are left out, and the record is there."""

    class Broken(Redactor):
        def text(self, text: str) -> str:
            raise RuntimeError(text)

        def data(self, data: Any) -> Any:
            raise RuntimeError(data)

    form = RecordForm(Broken())
    assert form.record({"event": "x", "reason": "secret", "address": "10.0.0.7"}) == {
        "event": "[a text that could not be redacted]",
        "reason": "[a text that could not be redacted]",
        "address": "10.0.0.7",
    }
    assert form.record({"event": "x", "facts": {}})["event"] == "audit.unwritable"


def test_a_mask_of_somebodys_own_breaks_no_line() -> None:
    """What is shown in the place of a datum is printable too."""
    form = RecordForm(Redactor(mask=lambda kind, value: "\ud800\n\x1b"))
    for event in ({"event": "x", "facts": {"password": "a"}}, {"event": "x", "reason": "mail to a@example.org"}):
        line, _ = signed_line(b"key", NOTHING_BEFORE, form.record(event))
        assert line[:-1].decode().isprintable()
        assert b"\\\\ud800" in line


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b'{"mac":"' + b"0" * 64 + b'"}',
        b'{,"mac":"' + b"g" * 64 + b'"}',
        b'x,"mac":"' + b"0" * 64 + b'"}',
        b'{"a":1,"mac":"' + b"A" * 64 + b'"}',
        b'{"a":1,"mac":"' + b"0" * 64 + b'"} ',
    ],
)
def test_lines_of_others_have_no_parts(line: bytes) -> None:
    """What was not written as a record is none."""
    assert parts_of(line) is None


def test_what_is_no_object_is_not_parsed() -> None:
    """A line is one JSON object or nothing."""
    assert parsed(b"[]") is None
    assert parsed(b"{") is None
    assert parsed(orjson.dumps({"a": 1})) == {"a": 1}


@pytest.mark.parametrize("chain", ["5275747185799007", "be222395250804b7"])
def test_what_explains_a_missing_file_is_never_redacted(chain: str) -> None:
    """The digits of a name may be those of a card or of an account, and it would explain nothing any more."""
    facts = {"file": f"audit-{chain}-000001.jsonl", "last_line_sha256": chain * 4}
    redactor = Redactor(mask=lambda kind, value: "[gone]")
    assert RecordForm(redactor).record({"event": "log.purged", "facts": facts})["facts"] == facts
    others = {"file": f"{chain}.jsonl", "last_line_sha256": f"card {chain}", "name": facts["file"]}
    shown = RecordForm(redactor).record({"event": "log.purged", "facts": others})["facts"]
    assert all("[gone]" in fact for fact in shown.values())


def test_names_of_members_are_redacted_where_they_are_data() -> None:
    """Labels are counted under their names, which may be people; what a record itself says keeps its names."""
    counted = {"alice@example.org": 3, "setosa": 1}
    event = {"event": "x", "output": {"labels": counted}, "facts": counted, "principal": counted}
    record = FORM.record(event)
    assert record["output"]["labels"] == record["facts"] == {"[email]": 3, "setosa": 1}
    assert record["principal"] == counted
