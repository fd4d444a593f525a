"""Numbers from a JSON body: the fast and the exact path must never disagree."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from simdjson import Array, Parser

from mlguard.errors import InvalidInputError
from mlguard.inputs.json_bodies import NOT_PROVED, JSONBodies, numbers_in
from mlguard.inputs.json_rows import JSONRows
from mlguard.inputs.mlflow import MLflowRows
from mlguard.inputs.row_rules import RowRules
from tests.inputs.reading import Reading, agreed, damaged, outcome

MIB = 1 << 20


def reader(columns: int = 3, *, max_rows: int = 4, bound: float = 1e300, dtype: Any = np.float64) -> Reading:
    rules = RowRules(columns=columns, low=-bound, high=bound, max_rows=max_rows, dtype=dtype)
    return Reading(JSONBodies({"json": JSONRows(rules, "features")}), rules)


# Documents ----------------------------------------------------------------------------------------------------------

numbers = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers().map(str),
    st.sampled_from(["0", "-0", "-0.0", "1e-400", "4.9e-324", "1e999", "-1e999", "9" * 400, "18446744073709551616"]),
)
junk = st.sampled_from(
    ["true", "false", "null", "NaN", "Infinity", "-Infinity", '"1"', '"["', "{}", '{"a":1}', "[]", "[1]", "[[1]]", "01"]
)
spaces = st.sampled_from(["", "", " ", "\n", "\t\r"])
keys = st.sampled_from(
    ['"features"'] * 6 + ['"\\u0066eatures"', '"Features"', '"feature\\u005b"', '"features["', '"[features"', '""', "1"]
)


def array(elements: st.SearchStrategy[str], *, max_size: int = 4) -> st.SearchStrategy[str]:
    return st.tuples(st.lists(elements, max_size=max_size), spaces).map(
        lambda drawn: f"[{drawn[1]}{(',' + drawn[1]).join(drawn[0])}{drawn[1]}]"
    )


cells = st.one_of(numbers, numbers, numbers, junk, array(st.one_of(numbers, junk), max_size=2))
rows_of_cells = array(cells)
values = st.one_of(array(st.one_of(rows_of_cells, rows_of_cells, cells)), rows_of_cells, junk)
members = st.tuples(keys, spaces, values).map(lambda drawn: f"{drawn[0]}{drawn[1]}:{drawn[1]}{drawn[2]}")
documents = st.one_of(
    members.map(lambda member: f"{{{member}}}"),
    members.map(lambda member: f"{{{member}}}"),
    st.lists(members, max_size=3).map(lambda several: "{" + ",".join(several) + "}"),
    values,
)


PIECES = [b"[", b"]", b",", b"{", b"}", b'"', b"\\", b"-", b"\xef\xbb\xbf"]
bodies = damaged(documents.map(str.encode), PIECES)


@given(body=bodies, columns=st.integers(1, 3))
@example(body=b'{"features":[1,2,3,[4]]}', columns=3)
@example(body=b'{"features":[[],1]}', columns=1)
@example(body=b'{"features":[[1,2,3],[4]]}', columns=2)
@example(body=b'{"features":[[1,[2]],3]}', columns=2)
@example(body=b'{"features":[[[1]],2]}', columns=1)
@example(body=b'{"features":[[[1,2]]]}', columns=1)
@example(body=b'{"features":[[[1,2]]]}', columns=2)
@example(body=b'{"\\u0066eatures":[[1,2]]}', columns=2)
@example(body=b'{"features":[[1]],"features":[[1]]}', columns=1)
@example(body=b'{"features":[[1],[1],[1],[1],[1]]}', columns=1)
@example(body=b'{"features":[1,[1],[1],[1],[1],[1]]}', columns=1)
@example(body=b'{"features":[[-0],[-0.0]]}', columns=1)
def test_paths_agree_on_any_document(body: bytes, columns: int) -> None:
    """Right or wrong, a document has one outcome: the same array to the last bit, or the same broken rule."""
    agreed(reader(columns), body)


SETTINGS: dict[str, dict[str, Any]] = {
    "missing": {"missing": True},
    "missing in one column": {"missing": [1], "dtype": np.float32, "low": -1e38, "high": 1e38},
    "missing, clipped": {"missing": [0, 1], "low": -1.0, "high": 9e99, "out_of_range": "clip"},
    "signed": {"dtype": np.int64, "low": -(2**63), "high": 2**63 - 1},
    "unsigned": {"dtype": np.uint64, "low": 0, "high": 2**64 - 1},
    "small, clipped": {"dtype": np.int8, "low": -5, "high": 100, "out_of_range": "clip"},
    "texts": {"categories": {0: ("1", "null", "")}},
    "numbers": {"categories": {1: (1, 2, 9e99)}, "missing": [1]},
}


def reader_with(field: str = "features", **settings: Any) -> Reading:
    usual: dict[str, Any] = {"columns": 2, "low": -1e300, "high": 1e300, "max_rows": 4, "dtype": np.float64}
    rules = RowRules(**{**usual, **settings})
    return Reading(JSONBodies({"json": JSONRows(rules, field)}), rules)


@given(body=bodies, settings=st.sampled_from(sorted(SETTINGS)))
@example(body=b'{"features":[[1,null],[null,2]]}', settings="missing")
@example(body=b'{"features":[[1,null],[9e99,2]]}', settings="missing, clipped")
@example(body=b'{"features":[null,9.0e99]}', settings="missing")
@example(body=b'{"features":[8.999999999999999999999null,1]}', settings="missing")
@example(body=b'{"features":[0.null,1]}', settings="missing")
@example(body=b'{"features":[1null,-null]}', settings="missing")
@example(body=b'{"features":[nullnull,1]}', settings="missing")
@example(body=b'{"features":[[null],[1]]}', settings="missing")
@example(body=b'{"features":[NaN,null]}', settings="missing")
@example(body=b'{"features":[NaN,1]}', settings="missing")
@example(body=b'{"features":null}', settings="missing")
@example(body=b'{"features":[null]}', settings="missing")
@example(body=b"{null:[1,9e99]}", settings="missing, clipped")
@example(body=b'{"null":[1,9e99]}', settings="missing, clipped")
@example(body=b'{"features":[9007199254740993,-9223372036854775808]}', settings="signed")
@example(body=b'{"features":[9007199254740993,1.0]}', settings="signed")
@example(body=b'{"features":[9007199254740993.0,1]}', settings="signed")
@example(body=b'{"features":[9007199254740991.0,1e15]}', settings="signed")
@example(body=b'{"features":[18446744073709551615,1]}', settings="unsigned")
@example(body=b'{"features":[-1,1]}', settings="unsigned")
@example(body=b'{"features":[1e30,-1e30]}', settings="small, clipped")
@example(body=b'{"features":[-0,-0.0]}', settings="small, clipped")
@example(body=b'{"features":["null",0]}', settings="texts")
@example(body=b'{"features":["\\ud800",0]}', settings="texts")
def test_paths_agree_whatever_is_allowed(body: bytes, settings: str) -> None:
    """The same of rules with missing values, categories, integers and clipping."""
    agreed(reader_with(**SETTINGS[settings]), body)


@pytest.mark.parametrize(
    ("settings", "body", "rows"),
    [
        ("missing", b'{"features":[[1,null],[null,2]]}', [[1, None], [None, 2]]),
        ("missing", b'{"features":[null,null]}', [[None, None]]),
        ("signed", b'{"features":[9007199254740993,-9223372036854775808]}', [[2**53 + 1, -(2**63)]]),
        ("unsigned", b'{"features":[[18446744073709551615,0]]}', [[2**64 - 1, 0]]),
        ("signed", b'{"features":[[3.0,1e3],[5,-0.0]]}', [[3, 1000], [5, 0]]),
    ],
)
def test_nulls_and_integers_take_the_fast_path(settings: str, body: bytes, rows: Any) -> None:
    """A batch with missing values or of integers is read as fast as any other, and to the last digit."""
    read = reader_with(**SETTINGS[settings])
    values = read.fast(body)
    assert values is not None
    judged = read.rules.judge(values)
    assert [[None if np.isnan(cell) else cell for cell in row] for row in judged.tolist()] == rows


@given(st.lists(bodies, max_size=5), st.sampled_from(["missing", "signed"]))
def test_no_document_holds_up_the_next_whatever_is_allowed(sent: list[bytes], settings: str) -> None:
    """What was tried first and failed lets go of the parser as well."""
    read = reader_with(**SETTINGS[settings])
    kept: list[Any] = []
    for body in (*sent, b'{"features":[0.5,1]}', b'{"features":[1e300,null]}'):
        try:
            kept.append(read.read(body))
        except InvalidInputError as refusal:
            kept.append(refusal)
        assert read.fast(b'{"features":[1,2]}') is not None


def test_a_field_may_be_called_null() -> None:
    """What is put in the place of nulls is never taken for part of the field's name."""
    for name in ("null", "x 9e99 y"):
        read = reader_with(name, missing=True, low=0, high=1)
        assert read.read(json.dumps({name: [1, None]}).encode()).tolist()[0][0] == 1
    assert outcome(lambda: read.read(b'{"xnully":[1,0]}')) == {"broken": "field"}
    assert outcome(lambda: read.read(b'{"xnully":[1,9e99]}')) == {"broken": "field"}


@given(st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=4))
def test_every_number_is_read_as_python_reads_it(rows: list[list[str]]) -> None:
    """Each spelling of a number in range gives the nearest double, at its place; one beyond is refused at its place."""
    body = '{"features":[' + ",".join(f"[{','.join(row)}]" for row in rows) + "]}"
    expected = np.array([[float(number) for number in row] for row in rows])
    wrong = np.argwhere(~(np.abs(expected) <= 1e300)).tolist()
    read = reader(2)
    if wrong:
        with pytest.raises(InvalidInputError) as refused:
            read.read(body.encode())
        assert [refused.value.members["row"], refused.value.members["column"]] == wrong[0]
    else:
        np.testing.assert_array_equal(read.read(body.encode()), expected)


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=4),
    st.sampled_from([None, 1]),
)
def test_proper_documents_take_the_fast_path(rows: list[list[float]], indent: int | None) -> None:
    """Nothing that a JSON library writes for a valid batch, or a single row, needs the slow path."""
    for found in (rows, rows[0]):
        values = reader().fast(json.dumps({"features": found}, indent=indent).encode())
        assert values is not None
        np.testing.assert_array_equal(values, np.atleast_2d(found))


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_large_batches_take_the_fast_path(size: int) -> None:
    """Large bodies are counted by another means, and very large ones parsed with memory of their own."""
    batch = np.arange(size * 3.0).reshape(size, 3)
    body = json.dumps({"features": batch.tolist()}).encode()
    values = reader(max_rows=size).fast(body)
    assert values is not None
    np.testing.assert_array_equal(values, batch)
    assert outcome(lambda: reader(max_rows=size - 1).read(body)) == {"broken": "rows"}
    agreed(reader(max_rows=size), body.replace(b"[0.0, 1.0, 2.0]", b"[0.0, [1.0], 2.0]"))
    agreed(reader(max_rows=size - 1), body)


@given(st.lists(bodies, max_size=5))
def test_no_document_holds_up_the_next(sent: list[bytes]) -> None:
    """The parser is free again after every body, even while somebody keeps the refusals and the arrays."""
    read = reader()
    kept: list[Any] = []
    for body in sent:
        try:
            kept.append(read.read(body))
        except InvalidInputError as refusal:
            kept.append(refusal)
        assert read.fast(b'{"features":[1,2,3]}') is not None


def test_the_array_is_the_models_own() -> None:
    """A model may write into its input: nothing else refers to it, and the next request has another one."""
    read = reader()
    for body in (b'{"features":[[1,2,3],[4,5,6]]}', b'{"features":[[1,2,3],[4,5,100000000000000000000]]}'):
        first, second = read.read(body), read.read(body)
        assert first.flags.c_contiguous
        assert first.flags.writeable
        assert first.flags.aligned
        first[:] = 0
        assert second[0].tolist() == [1, 2, 3]


def test_integers_too_long_for_a_machine_word_are_numbers() -> None:
    """JSON has no largest integer, so one of thirty digits counts as the number it is."""
    rows = reader().read(b'{"features":[123456789012345678901234567890,-18446744073709551616,1]}')
    assert rows.tolist() == [[123456789012345678901234567890.0, -18446744073709551616.0, 1.0]]


def test_integers_are_read_exactly_where_they_are_wanted() -> None:
    """A double holds whole numbers up to 2**53, so larger ones are read as integers, or not on the fast path."""
    found: dict[bytes, dict[str, Any]] = {
        b"[9007199254740993, -1]": {"f": [2.0**53, -1.0], "i": [2**53 + 1, -1], "u": None},
        b"[18446744073709551615]": {"f": [2.0**64], "i": None, "u": [2**64 - 1]},
        b"[1, 2.5]": {"f": [1.0, 2.5], "i": [1.0, 2.5], "u": [1.0, 2.5]},
        b"[9007199254740993, 2.5]": {"f": [2.0**53, 2.5], "i": None, "u": None},
        b"[]": {"f": None, "i": None, "u": None},
    }
    for text, by_kind in found.items():
        for kind, expected in by_kind.items():
            array = cast("Array", Parser().parse(text))
            if expected is None:
                with pytest.raises(NOT_PROVED):
                    numbers_in(array, kind)
            else:
                assert numbers_in(array, kind).tolist() == expected


def test_whoever_has_the_field_is_ours() -> None:
    """Beside other forms, a document is ours by its field alone."""
    rules = RowRules(columns=3, low=0, high=9, max_rows=4, dtype="float64")
    both = JSONBodies({"json": JSONRows(rules, "features"), "mlflow": MLflowRows(rules)})
    for body in (b'{"features": [1, 2, 3]}', b'{"instances": [[1, 2, 3]]}'):
        assert both.sent(body).judged(rules).tolist() == [[1.0, 2.0, 3.0]]


def test_single_precision_overflow_is_not_finite() -> None:
    """A number that is finite as float64 and infinite as float32 never reaches a float32 model."""
    read = reader(bound=1e38, dtype=np.float32)
    assert outcome(lambda: read.read(b'{"features":[1,2,1e39]}')) == {"broken": "finite", "row": 0, "column": 2}
    assert outcome(lambda: read.read(b'{"features":[1,2,-2e38]}')) == {"broken": "range", "row": 0, "column": 2}
    rows = read.read(b'{"features":[1,2,0.1]}')
    assert rows.dtype == np.float32
    assert rows.tolist() == [[1.0, 2.0, float(np.float32(0.1))]]


ATTACKS = {
    "arrays without end": (b"[" * MIB, {"broken": "depth"}),
    "arrays without end in the field": (b'{"features":' + b"[" * MIB, {"broken": "depth"}),
    "objects without end": (b'{"features":' * (MIB // 12), {"broken": "depth"}),
    "a million rows": (b'{"features":[' + b"[1]," * (MIB // 4) + b"[1]]}", {"broken": "rows"}),
    "a million empty rows": (b'{"features":[' + b"[]," * (MIB // 3) + b"[]]}", {"broken": "rows"}),
    "a million rows after a number": (
        b'{"features":[1,' + b"[1]," * (MIB // 4) + b"[1]]}",
        {"broken": "columns", "row": 0},
    ),
    "a million columns": (b'{"features":[' + b"1," * (MIB // 2) + b"1]}", {"broken": "columns", "row": 0}),
    "a million objects": (b'{"features":[' + b"{}," * (MIB // 3) + b"{}]}", {"broken": "columns", "row": 0}),
    "a million digits": (b'{"features":[1,2,' + b"1" * MIB + b"]}", {"broken": "finite", "row": 0, "column": 2}),
    "a million decimals": (b'{"features":[1,[2],0.' + b"1" * MIB + b"]}", {"broken": "nested", "row": 0, "column": 1}),
    "an exponent of a million digits": (
        b'{"features":[1,2,1e' + b"1" * MIB + b"]}",
        {"broken": "finite", "row": 0, "column": 2},
    ),
    "a million spaces": (b" " * MIB, {"broken": "json"}),
    "a string of a megabyte": (b'{"features":"' + b"a" * MIB + b'"}', {"broken": "array"}),
    "a million escapes": (b'{"features":"' + b"\\u005b" * (MIB // 6) + b'"}', {"broken": "array"}),
    "a million times not a number": (
        b'{"features":[[' + b"NaN," * (MIB // 4) + b"1]]}",
        {"broken": "columns", "row": 0},
    ),
    "integers of 400 digits": (
        b'{"features":[1,2,' + (b"1" * 400 + b",") * (MIB // 401) + b"1]}",
        {"broken": "columns", "row": 0},
    ),
    "as many names": (b"{" + b'"a":1,' * (MIB // 6) + b'"a":1}', {"broken": "duplicate"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_megabytes_are_refused(attack: str) -> None:
    """What is made to exhaust a parser ends in the same small refusal as any other mistake."""
    body, members = ATTACKS[attack]
    assert outcome(lambda: reader().read(body)) == members


def test_a_refusal_does_not_carry_the_body() -> None:
    """Decoding errors hold the whole document: none may hang on to a refusal that gets logged."""
    for body in (b'{"features": secret}', b'{"features": "\xff"}', b'{"a":1,"a":2}', b"[" * 10_000, b"{} secret"):
        with pytest.raises(InvalidInputError) as refused:
            reader().read(body)
        assert refused.value.__context__ is None
        assert refused.value.__cause__ is None
        assert "secret" not in f"{refused.value!r} {refused.value.reason}"


def test_threads_do_not_mix_their_bodies() -> None:
    """One guard serves event loops in several threads at the same time."""
    read = reader(max_rows=200)

    def total(number: int) -> float:
        body = json.dumps({"features": [[number] * 3] * 200}).encode()
        return float(sum(read.read(body).sum() for _ in range(50)))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(total, range(8))) == [number * 600.0 * 50 for number in range(8)]
