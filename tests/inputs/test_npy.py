"""Arrays as NumPy saves them, against NumPy's own reader, and against whoever writes lies into a header."""

import io
import pickle
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlguard.errors import InvalidInputError
from mlguard.inputs.npy import NpyRows
from mlguard.inputs.row_rules import RowRules, Rows
from tests.inputs.reading import damaged, outcome

DESCRIPTIONS = ["<f8", ">f8", "<f4", ">f4", "<f2", ">f2", "|i1", "|u1"] + [
    f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in (2, 4, 8)
]


def rules(columns: Any = 3, *, shape: Any = None, max_rows: int = 4, bound: float = 1e300) -> RowRules:
    columns = None if shape else columns
    return RowRules(columns=columns, shape=shape, low=-bound, high=bound, max_rows=max_rows, dtype="float64")


def read(body: bytes, **settings: Any) -> Rows:
    of = rules(**settings)
    return NpyRows(of).sent(body).judged(of)


def refused(body: bytes, **settings: Any) -> Any:
    members = outcome(lambda: read(body, **settings))
    assert isinstance(members, dict), members
    return members["broken"]


def saved(array: Any, version: Any = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version, allow_pickle=True)
    return file.getvalue()


ZEROS = b"\x00" * 48
V1, V2, V3 = VERSIONS = [b"\x01\x00", b"\x02\x00", b"\x03\x00"]


def raw(text: str | bytes, data: bytes = ZEROS, version: bytes = V1, size: int | None = None) -> bytes:
    """A file with a header as it is given."""
    text = text.encode() if isinstance(text, str) else text
    length = struct.pack("<H" if version == V1 else "<I", len(text) if size is None else size)
    return b"\x93NUMPY" + version + length + text + data


def header(descr: str = "'<f8'", order: str = "False", shape: str = "(2, 3)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}   \n"


# Accepted -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_every_dtype_of_real_numbers_in_both_byte_orders(description: str) -> None:
    """What was saved comes out, in the dtype in which it was saved, on whatever machine that was."""
    array = np.array([[1, 2, 3], [100, 5, 6]], dtype=description)
    sent = NpyRows(rules()).sent(saved(array)).rows
    assert isinstance(sent, np.ndarray)
    assert sent.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(sent, array)
    np.testing.assert_array_equal(read(saved(array)), array.astype(np.float64))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_is_read(version: tuple[int, int]) -> None:
    """Writers choose among three versions of the format."""
    assert read(saved(np.ones((2, 3)), version)).tolist() == [[1.0] * 3] * 2


def test_integers_stay_exact() -> None:
    """No whole number passes through a float on its way to the rules."""
    largest = np.array([[2**63 - 1, -(2**63), 2**53 + 1]])
    sent = NpyRows(rules()).sent(saved(largest)).rows
    assert sent.tolist() == largest.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (1, 2, 3, 2)])
def test_fortran_order_is_read_as_what_it_is(shape: tuple[int, ...]) -> None:
    """An array that was saved column by column arrives row by row."""
    array = np.asfortranarray(np.arange(float(np.prod(shape))).reshape(shape))
    assert b"'fortran_order': True" in saved(array)
    np.testing.assert_array_equal(read(saved(array), shape=shape[1:]), array)


def test_the_array_is_the_models_own() -> None:
    """A model may write into its input, and the body stays as it was."""
    body = saved(np.ones((2, 3)))
    first = read(body)
    first[:] = 0
    assert first.flags.c_contiguous
    assert read(body).tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    "text",
    [
        header(),
        header().replace("'", '"'),
        "{'shape': (2, 3), 'fortran_order': False, 'descr': '<f8'}\n",
        "{'shape':(2,3),'descr':'<f8','fortran_order':False,}\n",
        "{ 'shape' : ( 2 , 3 , ) , 'descr' : '<f8' , 'fortran_order' : False , } \n",
    ],
)
def test_other_writers_spell_the_header_otherwise(text: str) -> None:
    """The order of the members, quotes and spaces are up to the writer."""
    assert read(raw(text)).tolist() == [[0.0] * 3] * 2


@given(
    arrays.arrays(st.sampled_from(DESCRIPTIONS), st.tuples(st.integers(1, 4), st.integers(1, 3))),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)
def test_every_array_is_read_as_numpy_reads_it(array: Any, fortran: bool, version: Any) -> None:
    """NumPy's own reader and this one agree, or a rule of the numbers is broken."""
    body = saved(np.asfortranarray(array) if fortran else array, version)
    expected = np.load(io.BytesIO(body)).astype(np.float64)
    found = outcome(lambda: read(body, columns=array.shape[1]))
    if np.isfinite(expected).all() and (np.abs(expected) <= 1e300).all():
        assert found == outcome(lambda: np.ascontiguousarray(expected))
    else:
        assert found["broken"] in {"finite", "range"}


# Refused ------------------------------------------------------------------------------------------------------------

GOOD = saved(np.ones((2, 3)))
NO_NUMBERS = ("?", "c16", "c8", "S8", "U2", "V8", "M8[s]", "m8[ns]")
REFUSED: list[tuple[bytes, str]] = [
    (b"", "npy"),
    (b"\x93NUMPY", "npy"),
    (b"\x93NUMPY\x01\x00", "npy"),
    (b"\x93NUMPY\x01\x00\x10", "npy"),
    (GOOD[:40], "npy"),
    (GOOD[1:], "npy"),
    (b"PK\x03\x04" + GOOD, "npy"),
    (GOOD[:6] + b"\x00\x00" + GOOD[8:], "npy"),
    (GOOD[:6] + b"\x01\x01" + GOOD[8:], "npy"),
    (GOOD[:6] + b"\x04\x00" + GOOD[8:], "npy"),
    (GOOD[:6] + b"\x02\x00" + GOOD[8:], "npy"),
    (GOOD[:-1], "length"),
    (GOOD[:-48], "length"),
    (GOOD + b"\x00", "length"),
    (GOOD + GOOD, "length"),
    (raw(header(), size=65_535), "npy"),
    (raw(header(), size=2**32 - 1, version=V2), "npy"),
    (raw(header() + " " * 5_000 + "\n"), "npy"),
    (raw(header().strip()), "npy"),
    (raw(header().replace("\n", "\n\n")), "npy"),
    (raw("{}\n"), "npy"),
    (raw("\n"), "npy"),
    (raw(b""), "npy"),
    (raw("[]\n"), "npy"),
    (raw(header() + header()), "npy"),
    (raw("{'descr': '<f8', 'shape': (2, 3), }\n"), "npy"),
    (raw("{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }\n"), "npy"),
    (raw("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), 'x': 1}\n"), "npy"),
    (raw("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), 'shape': (2, 3)}\n"), "npy"),
    (raw("{'descr': (2, 3), 'fortran_order': False, 'shape': '<f8'}\n"), "npy"),
    (raw("{'descr': False, 'fortran_order': '<f8', 'shape': (2, 3)}\n"), "npy"),
    (raw(header(order="1")), "npy"),
    (raw(header(order="__import__('os')")), "npy"),
    (raw(header(shape="[2, 3]")), "npy"),
    (raw(header(shape="(2, 3.0)")), "npy"),
    (raw(header(shape="(2L, 3L)")), "npy"),
    (raw(header(shape="(2, True)")), "npy"),
    (raw(header(shape="(" * 2_000 + ")" * 2_000)), "npy"),
    (raw(header().replace("(2, 3)", "(2, 3)\x00")), "npy"),
    (raw(header().encode() + b"\xff\n"), "npy"),
    *[
        (raw(header(shape=shape)), "shape")
        for shape in (
            "()", "(6,)", "(6)", "(3, 2)", "(2, 3, 1)", "(1, 2, 3)", "(-2, 3)", "(2, -3)", "(-2, -3)", "(02, 3)",
            "(2,, 3)", "(,)", "(2 2, 3)", "(2, 18446744073709551616)", "(2, 9223372036854775808)", "(--2, 3)",
            f"({'9' * 3_000}, 3)", f"({'9,' * 1_500})", "(4294967296, 4294967296)", "(0, 0)",
        )
    ],
    (raw(header(shape="(0, 3)"), b""), "empty"),
    (raw(header(shape="(5, 3)")), "rows"),
    (raw(header(shape="(999999999999999999, 3)")), "rows"),
    (raw(header(shape="(1, 3)")), "length"),
    (raw(header(shape="(3, 3)")), "length"),
    (saved(np.array([[{}, None, print]], dtype=object)), "datatype"),
    (raw(header("'|O'"), pickle.dumps(print)), "datatype"),
    (saved(np.zeros((2, 3), dtype=[("a", "<f8"), ("b", "O")])), "datatype"),
    *[(saved(np.zeros((2, 3), dtype=kind)), "datatype") for kind in NO_NUMBERS],
    *[
        (raw(header(descr)), "datatype")
        for descr in (
            "'f8'", "'=f8'", "'|f8'", "'<f16'", "'<f1'", "'<i1'", "'<i3'", "'<g'", "'<d'", "''", "'float64'",
            "'<f8,<f8'", "[]", "[('a', '<f8', (2, 3))]",
        )
    ],
    (saved(np.array([[1, 2, np.nan]])), "finite"),
    (saved(np.array([[1, 2, -np.inf]], dtype=">f4")), "finite"),
    (saved(np.array([[1, 2, 1e301]])), "range"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "rule"), REFUSED, ids=range(len(REFUSED)))
def test_files_that_are_not_what_they_must_be_are_refused(body: bytes, rule: str) -> None:
    """Whatever a header says, it is checked before anything is made of it, and nothing is ever unpickled."""
    assert refused(body) == rule


def test_the_place_of_a_number_is_that_in_the_array() -> None:
    """A refusal counts rows and columns in whatever order they were saved."""
    array = np.asfortranarray([[1.0, 2.0, 3.0], [4.0, np.nan, 6.0]])
    with pytest.raises(InvalidInputError) as refusal:
        read(saved(array))
    assert refusal.value.members == {"broken": "finite", "row": 1, "column": 1}


@pytest.mark.parametrize(
    ("value", "rule"), [(np.nan, "finite"), (np.inf, "finite"), (-1e301, "range"), (1e301, "range")]
)
def test_one_number_among_many_is_found(value: float, rule: str) -> None:
    """A large batch is judged by other means than a small one, and to the same end."""
    array = np.zeros((100, 100))
    assert read(saved(array), columns=100, max_rows=100).shape == (100, 100)
    array[70, 30] = value
    found = outcome(lambda: read(saved(array), columns=100, max_rows=100))
    assert found == {"broken": rule, "row": 70, "column": 30}


@pytest.mark.parametrize("shape", ["(4, 3)", "(999999999999999999, 3)", "(2, 999999999999999999)"])
def test_lies_about_the_size_cost_no_memory(shape: str) -> None:
    """A few bytes that announce exabytes make nobody allocate them."""
    body = raw(header(shape=shape))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError):
            read(body)
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()


headers = st.builds(
    header,
    descr=st.sampled_from([f"'{one}'" for one in (*DESCRIPTIONS, "|O", "<U2", "=f8")] + ["[('a', '<f8')]"]),
    order=st.sampled_from(["False", "True", "0"]),
    shape=st.one_of(
        st.lists(st.integers(-1, 5), max_size=3).map(
            lambda sizes: f"({', '.join(map(str, sizes))}{',' * (len(sizes) == 1)})"
        ),
        st.just("(2, 3)"),
    ),
)
files = st.one_of(
    st.builds(
        raw,
        headers,
        st.binary(max_size=64) | st.just(b"\x00" * 48),
        st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00"]),
    ),
    arrays.arrays(st.sampled_from(DESCRIPTIONS), st.just((2, 3))).map(saved),
)


@given(damaged(files, [b"'", b"(", b",", b"}", b"0", b"-", b"{", b"\n", b" "]))
def test_any_bytes_give_a_refusal_or_an_array_that_keeps_the_rules(body: bytes) -> None:
    """What is accepted is what NumPy makes of it, too; all the rest is refused."""
    found = outcome(lambda: read(body))
    if isinstance(found, dict):
        assert set(found) <= {"broken", "row", "column"}
        return
    rows = read(body)
    assert rows.shape[1:] == (3,)
    assert 1 <= len(rows) <= 4
    assert (np.abs(rows) <= 1e300).all()
    np.testing.assert_array_equal(rows, np.load(io.BytesIO(body), allow_pickle=False).astype(np.float64))
