"""Tables of comma-separated values, against Python's own reader, and against whoever makes them hostile."""

import csv
import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.errors import InvalidInputError
from mlguard.inputs.csv_rows import CSVRows
from mlguard.inputs.row_rules import RowRules
from tests.inputs.reading import Reading, agreed, damaged, outcome, refused

NAMES = ["age", "secret_income", "b"]


def reader(columns: Any = 3, *, max_rows: int = 4) -> Reading:
    rules = RowRules(columns=columns, low=-1e300, high=1e300, max_rows=max_rows, dtype="float64")
    return Reading(CSVRows(rules), rules)


def table(*lines: str, end: str = "\r\n") -> bytes:
    return "".join(f"{line}{end}" for line in lines).encode()


ROWS = np.array([[1.0, 2.5, 3.0], [4.0, 5.0, 6.0]])
LINES = ["x,y,z", "1,2.5,3", "4,5,6"]


# Accepted -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [table(*LINES), table(*LINES, end="\n"), table(*LINES)[:-2], table(*LINES, end="\n")[:-1]]
)
def test_lines_end_as_they_may(body: bytes) -> None:
    """Both line ends are read, and the last line needs none."""
    assert reader().fast(body) is not None
    assert agreed(reader(), body) == outcome(ROWS.copy)


def test_columns_are_matched_by_name() -> None:
    """The header says which column is which, in any order, quoted or not."""
    for header in ("b,age,secret_income", '"b","age",secret_income'):
        body = table(header, "3,1,2.5", "6,4,5")
        assert agreed(reader(NAMES), body) == outcome(ROWS.copy)
    assert reader(NAMES).fast(table("b,age,secret_income", "3,1,2.5")) is not None


def test_names_may_hold_what_is_quoted() -> None:
    """Commas, quotes and line ends are part of a name where it is in quotes."""
    names = ["a,b", 'say "x"', "two\r\nlines", "größe"]
    body = table('"two\r\nlines","a,b","say ""x""",größe', "3,1,2,4")
    assert reader(names).read(body).tolist() == [[1.0, 2.0, 3.0, 4.0]]


@pytest.mark.parametrize("cell", ["+1", "1.", "01", "1e0", '"1"', ".1e1", "1E+0", "0010e-1"])
def test_numbers_may_be_spelled_as_csv_writers_do(cell: str) -> None:
    """What JSON does not call a number may be one in a table."""
    assert agreed(reader(1), table("x", cell)) == outcome(lambda: np.ones((1, 1)))


def test_integers_stay_exact() -> None:
    """No whole number passes through a float on its way to the rules."""
    sent = CSVRows(reader().rules).exact(table("x,y,z", f"{2**53 + 1},{2**64 - 1},-{2**63}"))
    assert sent.rows == [[2**53 + 1, 2**64 - 1, -(2**63)]]


@pytest.mark.parametrize("zeros", [399, 400, 5_000])
def test_leading_zeros_are_none_of_the_digits_that_count(zeros: int) -> None:
    """However many zeros a number begins with, its value is what stands after them."""
    for sign, value in (("", 12.0), ("+", 12.0), ("-", -12.0)):
        body = table("x", f"{sign}{'0' * zeros}12", "0" * zeros)
        assert agreed(reader(1), body) == outcome(lambda value=value: np.array([[value], [0.0]]))  # type: ignore[misc]


def test_empty_cells_are_missing_and_words_are_words() -> None:
    """What a cell without a number means is for the rules to say."""
    sent = CSVRows(reader().rules).sent(table("x,y,z", ',"",red'))
    assert sent.rows == [[None, None, "red"]]


# Refused ------------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[bytes, tuple[Any, ...]]] = [
    (b"", ("csv", None, None)),
    (b"\xef\xbb\xbf" + table(*LINES), ("csv", None, None)),
    (table(*LINES).decode().encode("utf-16"), ("csv", None, None)),
    (table("\xe4,y,z", "1,2,3").decode().encode("latin-1"), ("csv", None, None)),
    (table(*LINES, end="\r"), ("csv", None, None)),
    (table("x,y,z") + b"1,2,3\r", ("csv", None, None)),
    (table("x,y,z", "1,2\r,3"), ("csv", None, None)),
    (table("x,y,z", "1,2,3\r"), ("csv", None, None)),
    (table("x,y,z\r", "1,2,3"), ("csv", None, None)),
    (table("x,y,z", '1,2,"3'), ("csv", None, None)),
    (table("x,y,z", '1,2,"3"4'), ("csv", None, None)),
    (table("x,y,z", '1,2,3"'), ("csv", None, None)),
    (table("x,y,z", '1,2, "3"'), ("csv", None, None)),
    (table('x,y,"z', "1,2,3"), ("csv", None, None)),
    (table("1,2,3", "4,5,6"), ("header", None, None)),
    (table("0,1,2", "4,5,6"), ("header", None, None)),
    (table("1,2,3"), ("header", None, None)),
    (table("1,2"), ("header", None, None)),
    (table("x,y", "4,5"), ("names", None, None)),
    (table("w,x,y,z", "4,5,6,7"), ("names", None, None)),
    (table("", "1,2,3"), ("names", None, None)),
    (table("x;y;z", "1;2;3"), ("names", None, None)),
    (table("x,y,z"), ("empty", None, None)),
    (b"x,y,z", ("empty", None, None)),
    (table("x,y,z", *["1,2,3"] * 5), ("rows", None, None)),
    (table("x,y,z", "1,2,3", "4,5"), ("columns", 1, None)),
    (table("x,y,z", "1,2,3", "4,5,6,"), ("columns", 1, None)),
    (table("x,y,z", "1,2,3", "", "4,5,6"), ("columns", 1, None)),
    (table("x,y,z", "1,2,3", ""), ("columns", 1, None)),
    (table("x,y,z", '"1,2,3"'), ("columns", 0, None)),
    (table("x,y,z", "[1,2,3]"), ("number", 0, 0)),
    (table("x,y,z", "1,2,=1+1"), ("number", 0, 2)),
    (table("x,y,z", '1,2,"=HYPERLINK(""http://x"")"'), ("number", 0, 2)),
    (table("x,y,z", "1,@SUM(1),3"), ("number", 0, 1)),
    (table("x,y,z", "1,+cmd|' /C calc'!A0,3"), ("number", 0, 1)),
    (table("x,y,z", "1,-2+3,3"), ("number", 0, 1)),
    (table("x,y,z", "1, 2,3"), ("number", 0, 1)),
    (table("x,y,z", "1,2 ,3"), ("number", 0, 1)),
    (table("x,y,z", "1,,3"), ("number", 0, 1)),
    (table("x,y,z", '1,"",3'), ("number", 0, 1)),
    (table("x,y,z", "1,2,true"), ("number", 0, 2)),
    (table("x,y,z", "1,2,null"), ("number", 0, 2)),
    (table("x,y,z", "1,2,nan"), ("number", 0, 2)),
    (table("x,y,z", "1,2,Infinity"), ("number", 0, 2)),
    (table("x,y,z", "1,2,0x1"), ("number", 0, 2)),
    (table("x,y,z", "1,2,1_0"), ("number", 0, 2)),
    (table("x,y,z", "1,2,1e"), ("number", 0, 2)),
    (table("x,y,z", "1,2,e1"), ("number", 0, 2)),
    (table("x,y,z", "1,2,."), ("number", 0, 2)),
    (table("x,y,z", "1,2,-"), ("number", 0, 2)),
    (table("x,y,z", "1,2,\u0661"), ("number", 0, 2)),
    (table("x,y,z", "1,2,3\x00"), ("number", 0, 2)),
    (table("x,y,z", "1,2,1e999"), ("finite", 0, 2)),
    (table("x,y,z", "1,2," + "9" * 400), ("finite", 0, 2)),
    (table("x,y,z", "1,2,1e301"), ("range", 0, 2)),
]


@pytest.mark.parametrize(("body", "rule"), REFUSED, ids=range(len(REFUSED)))
def test_broken_rules_are_named_with_their_place(body: bytes, rule: tuple[Any, ...]) -> None:
    """A refusal says which rule the table breaks and where, whichever path finds it. No formula is ever one."""
    assert refused(reader(), body) == rule


@pytest.mark.parametrize(
    "header",
    [
        "age,b",
        "age,secret_income,b,c",
        "age,secret_income,B",
        "age,b,b",
        "age,secret_income, b",
        "age,secret_income,",
        "1,2,3",
    ],
)
def test_names_must_be_those_of_the_service(header: str) -> None:
    """Missing, unknown, duplicate and misspelt names are refused, and none is repeated."""
    assert refused(reader(NAMES), table(header, "1,2,3")) == ("names", None, None)
    with pytest.raises(InvalidInputError) as refusal:
        reader(NAMES).read(table(header, "1,2,3"))
    assert "secret" not in f"{refusal.value.detail} {refusal.value.reason} {refusal.value.members}"


def test_places_count_in_what_was_sent() -> None:
    """Whoever sent columns in another order finds the fault where the refusal says it is."""
    for cell, rule in (("1e301", "range"), ("x", "number")):
        assert refused(reader(NAMES), table("b,age,secret_income", "1,2,3", f"1,2,{cell}")) == (rule, 1, 2)


def test_a_single_column_may_have_empty_lines() -> None:
    """An empty line is an empty cell there, and not nothing."""
    assert refused(reader(1), table("x", "1", "", "2")) == ("number", 1, 0)
    assert refused(reader(1), table("x", "1", "")) == ("number", 1, 0)


MANY = 10 << 20
ATTACKS = {
    "a line of ten megabytes": (b"x,y,z\n" + b"1" * MANY, "columns"),
    "a cell of ten megabytes": (b"x,y,z\n1,2," + b"1" * MANY, "finite"),
    "decimals without end": (b"x,y,z\n1,2,0." + b"1" * MANY, None),
    "commas without end": (b"x,y,z\n" + b"," * MANY, "columns"),
    "numbers without end": (b"x,y,z\n" + b"1," * (MANY // 2), "columns"),
    "lines without end": (b"x,y,z\n" + b"\n" * MANY, "columns"),
    "rows without end": (b"x,y,z\n" + b"1,2,3\n" * (MANY // 6), "rows"),
    "quoted rows without end": (b"x,y,z\n" + b'1,2,"3"\n' * (MANY // 8), "rows"),
    "a header without end": (b"x," * (MANY // 2), "names"),
    "a name without end": (b"x" * MANY, "names"),
    "quotes without end": (b"x,y,z\n1,2," + b'"' * MANY, "number"),
    "one quote more": (b"x,y,z\n1,2," + b'"' * (MANY + 1), "csv"),
    "an open quote": (b'x,y,z\n1,2,"' + b"a" * MANY, "csv"),
    "quoted line ends without end": (b"x,y,z\n" + b'"\n",' * (MANY // 4), "columns"),
    "almost a number": (b"x,y,z\n1,2," + b"1" * MANY + b"x", "number"),
    "signs without end": (b"x,y,z\n1,2," + b"-" * MANY, "number"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_megabytes_are_refused(attack: str) -> None:
    """What is made to exhaust a parser ends in the same small refusal as any other mistake."""
    body, rule = ATTACKS[attack]
    found = outcome(lambda: reader().read(body))
    assert found[0] == (1, 3) if rule is None else found["broken"] == rule


@pytest.mark.parametrize("attack", ["commas without end", "quoted line ends without end", "quoted rows without end"])
def test_the_exact_path_takes_no_more_cells_than_there_may_be(attack: str) -> None:
    """Python's objects would take many times the memory of the body that makes them."""
    body = ATTACKS[attack][0]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError):
            reader().exact(body)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(body)
    finally:
        tracemalloc.stop()


# Any table ----------------------------------------------------------------------------------------------------------

numbers = st.one_of(
    st.floats(-1e300, 1e300).map(repr),
    st.integers().map(str),
    st.from_regex(r"[+-]?[0-9]{0,25}\.?[0-9]{0,25}([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["-0", "-0.0", "1e-400", "18446744073709551616", "1e999", ""]),
)
cells = st.one_of(
    numbers, numbers, st.text(st.characters(codec="utf-8"), max_size=3), st.sampled_from(["=1", "a,b", '"', "[1"])
)
names = st.one_of(
    st.permutations(NAMES), st.permutations(NAMES), st.lists(st.sampled_from([*NAMES, "x", "1", ""]), max_size=4)
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    file = io.StringIO(newline="")
    quoting: Any = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(file, lineterminator=draw(st.sampled_from(["\r\n", "\n"])), quoting=quoting)
    width = draw(st.sampled_from([3, 3, 3, 1, 2]))
    values = draw(st.sampled_from([st.floats(-1e300, 1e300).map(repr), numbers, cells]))
    rows = draw(st.lists(st.lists(values, min_size=width, max_size=width), max_size=5))
    writer.writerows([draw(names), *rows])
    text = file.getvalue()
    return (text if draw(st.booleans()) else text.rstrip("\r\n")).encode()


PIECES = [b",", b'"', b"\n", b"\r", b"\r\n", b"-", b".", b"e", b"0", b" ", b"[", b"]", b"{", b"\xef\xbb\xbf"]


@given(damaged(tables(), PIECES), st.sampled_from([1, 2, 3, NAMES, NAMES, ["b"]]))
def test_paths_agree_on_any_table(body: bytes, columns: Any) -> None:
    """Right or wrong, a table has one outcome: the same array to the last bit, or the same broken rule."""
    agreed(reader(columns), body)


@given(tables())
def test_every_table_is_read_as_python_reads_it(body: bytes) -> None:
    """What is accepted is what Python's csv module and ``float`` make of it; what is refused is not all numbers."""
    read = reader(NAMES)
    header, *lines = [*csv.reader(io.StringIO(body.decode(), newline=""), strict=True)] or [[]]
    found = outcome(lambda: read.read(body))
    if isinstance(found, dict):
        plain = sorted(header) == sorted(NAMES) and 0 < len(lines) <= 4 and all(len(line) == 3 for line in lines)
        assert not plain or found["broken"] in {"number", "finite", "range", "csv"}
        return
    order = [header.index(name) for name in NAMES]
    expected = np.array([[float(line[place]) for place in order] for line in lines])
    np.testing.assert_array_equal(read.read(body), expected)


@given(
    st.lists(st.lists(st.floats(-1e300, 1e300), min_size=3, max_size=3), min_size=1, max_size=4), st.permutations(NAMES)
)
def test_proper_tables_take_the_fast_path(rows: list[list[float]], order: list[str]) -> None:
    """Nothing that a program writes for a batch of numbers needs the slow path."""
    by_name = [dict(zip(NAMES, row, strict=True)) for row in rows]
    body = table(",".join(order), *(",".join(repr(row[name]) for name in order) for row in by_name))
    assert reader(NAMES).fast(body) is not None
    np.testing.assert_array_equal(reader(NAMES).read(body), np.array(rows))
