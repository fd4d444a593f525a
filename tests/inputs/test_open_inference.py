"""Requests of the Open Inference Protocol: one tensor or one for each column, flat or nested."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mlguard.errors import InvalidInputError
from mlguard.inputs.json_bodies import JSONBodies
from mlguard.inputs.open_inference import DATATYPES, OpenInferenceRows
from mlguard.inputs.row_rules import RowRules
from mlguard.inputs.sent_rows import InferenceCall
from tests.inputs.reading import Reading, agreed, damaged, outcome, refused

NAMES = ["age", "secret_income", "b"]


def reader(columns: Any = 3, *, shape: Any = None, max_rows: int = 4, bound: float = 1e300) -> Reading:
    rules = RowRules(
        columns=None if shape else columns, shape=shape, low=-bound, high=bound, max_rows=max_rows, dtype="float64"
    )
    return Reading(JSONBodies({"open-inference": OpenInferenceRows(rules, only_objects=False)}), rules)


def tensor(data: Any, shape: Any, datatype: Any = "FP64", name: Any = "x", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data, **more}


def request(*tensors: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": [*tensors], **more}).encode()


# Accepted -----------------------------------------------------------------------------------------------------------

FLAT, NESTED = [1, 2.5, 3, 4, 5, 6], [[1, 2.5, 3], [4, 5, 6]]


@pytest.mark.parametrize("data", [FLAT, NESTED])
def test_one_tensor_of_any_name_holds_all_columns(data: Any) -> None:
    """A client need not know what the service calls its input, and may nest the data or not."""
    for columns in (3, NAMES):
        read = reader(columns)
        body = request(tensor(data, [2, 3], name="whatever"))
        assert read.fast(body) is not None
        assert read.read(body).tolist() == NESTED


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_one_tensor_for_each_column_is_matched_by_name(shape: list[int]) -> None:
    """Tensors come in any order, and the array has that of the service."""
    columns = {"b": [3, 6], "age": [1, 4], "secret_income": [2.5, 5]}
    read = reader(NAMES)
    body = request(*(tensor(data, shape, name=name) for name, data in columns.items()))
    assert read.fast(body) is not None
    assert read.read(body).tolist() == NESTED
    assert agreed(read, body) is not None


def test_columns_may_have_datatypes_of_their_own() -> None:
    """Whole numbers stay whole beside others, however large they are."""
    sent = [
        tensor([2**53 + 1], [1], "INT64", "age"),
        tensor([0.5], [1], "FP32", "b"),
        tensor([1], [1], "UINT8", "secret_income"),
    ]
    read = reader(NAMES)
    assert read.fast(request(*sent)) == [(2**53 + 1, 1, 0.5)]
    assert read.read(request(*sent)).tolist() == [[float(2**53 + 1), 1.0, 0.5]]
    assert agreed(read, request(*sent)) is not None


def test_a_single_column_needs_no_second_dimension() -> None:
    """One column is one tensor either way, and its name says nothing."""
    for columns in (1, ["age"]):
        for data, shape in (([1, 2], [2]), ([1, 2], [2, 1]), ([[1], [2]], [2, 1])):
            assert agreed(reader(columns), request(tensor(data, shape))) == agreed(
                reader(columns), request(tensor([1.0, 2.0], [2, 1]))
            )


def test_tensors_of_any_shape() -> None:
    """Images come flat or nested, and leave as images."""
    images = np.arange(24.0).reshape(2, 3, 4)
    read = reader(shape=(3, 4))
    for data in (images.ravel().tolist(), images.tolist()):
        body = request(tensor(data, [2, 3, 4]))
        assert read.fast(body) is not None
        np.testing.assert_array_equal(read.read(body), images)
        assert agreed(read, body) == outcome(images.copy)
    assert refused(read, request(tensor(images.reshape(2, 12).tolist(), [2, 3, 4]))) == ("shape", None, None)


def test_singles_are_the_nearest_singles() -> None:
    """FP32 means what it means elsewhere: the model gets the number that the client's own model would get."""
    read = reader(1)
    body = request(tensor([0.1], [1, 1], "FP32"))
    assert agreed(read, body) == agreed(read, request(tensor([float(np.float32(0.1))], [1, 1])))
    for large in (1e39, -1e39, 10**400):
        assert refused(read, request(tensor([large], [1, 1], "FP32"))) == ("finite", 0, 0)


@pytest.mark.parametrize("datatype", [name for name, dtype in DATATYPES.items() if dtype.kind in "iu"])
def test_integers_hold_what_their_datatype_holds(datatype: str) -> None:
    """The smallest and the largest integer of a datatype are accepted, and none beyond, nor a fraction."""
    limits = np.iinfo(DATATYPES[datatype])
    read = reader(1)
    assert read.fast(request(tensor([int(limits.min), int(limits.max)], [2, 1], datatype))).tolist() == [
        [int(limits.min)],
        [int(limits.max)],
    ]
    for wrong in (int(limits.min) - 1, int(limits.max) + 1, 0.5, 1.0, 1e3):
        assert refused(read, request(tensor([1, wrong], [2, 1], datatype))) == ("datatype", 1, 0)


def test_the_call_is_kept_for_the_answer() -> None:
    """Whoever answers finds the request's id."""
    outputs = [{"name": "label", "parameters": {"binary_data": False}}, {"name": "score"}]
    body = request(tensor(FLAT, [2, 3]), id="7f", outputs=outputs, parameters={"binary_data_output": True})
    read = reader()
    assert read.fast(body) is not None
    for sent in (read.reader.sent(body), read.reader.exact(body)):
        assert sent.call == InferenceCall("7f")
    assert read.reader.sent(request(tensor(FLAT, [2, 3]))).call == InferenceCall()


# Refused ------------------------------------------------------------------------------------------------------------

OK = tensor(FLAT, [2, 3])
NO_DATA = {"name": "x", "shape": [2, 3], "datatype": "FP32"}
NO_NUMBERS = ("BOOL", "BYTES", "FP16", "BF16", "fp64", "INT4", "")
ONE = b'{"name": "x", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]'
REFUSED: list[tuple[bytes, tuple[Any, ...]]] = [
    (b"{}", ("field", None, None)),
    (b'{"features": [1, 2, 3]}', ("field", None, None)),
    (b'{"inputs": 1}', ("array", None, None)),
    (b'{"inputs": []}', ("empty", None, None)),
    (b'{"inputs": [[1, 2, 3]]}', ("field", None, None)),
    (b'{"inputs": [1]}', ("field", None, None)),
    (request(OK, features=1), ("field", None, None)),
    (request(OK, id=1), ("field", None, None)),
    (request(OK, id=None), ("field", None, None)),
    (request(OK, parameters=[]), ("field", None, None)),
    (request(OK, outputs={}), ("array", None, None)),
    (request(OK, outputs=[1]), ("field", None, None)),
    (request(OK, outputs=[{}]), ("field", None, None)),
    (request(OK, outputs=[{"name": 1}]), ("field", None, None)),
    (request(OK, outputs=[{"name": "a", "parameters": 1}]), ("field", None, None)),
    (request(OK, outputs=[{"name": "a", "x": 1}]), ("field", None, None)),
    (request({**OK, "more": 1}), ("field", None, None)),
    (request(NO_DATA), ("field", None, None)),
    (request({**OK, "name": 1}), ("field", None, None)),
    (request({**OK, "datatype": 1}), ("field", None, None)),
    (request({**OK, "parameters": None}), ("field", None, None)),
    (request({**OK, "parameters": {"binary_data_size": 48}}), ("binary", None, None)),
    (request({**NO_DATA, "parameters": {"binary_data_size": 24}}), ("binary", None, None)),
    *[(request(tensor(FLAT, [2, 3], datatype)), ("datatype", None, None)) for datatype in NO_NUMBERS],
    (request(tensor(["a"] * 6, [2, 3], "BYTES")), ("datatype", None, None)),
    (request({**OK, "shape": 6}), ("array", None, None)),
    (request({**OK, "data": 6}), ("array", None, None)),
    (request({**OK, "data": {"0": 1}}), ("array", None, None)),
    *[
        (request(tensor(FLAT, shape)), ("shape", None, None))
        for shape in (
            [], [6], [3, 2], [1, 2, 3], [2, 3, 1], [-2, -3], [-2, 3], [2, -3], [1, 3], [3, 3], [2.0, 3],
            [True, 6], [2, None], ["2", 3], [2, 2**63], [2**63, 2**63], [2, 3 * 2**64],
            [2, 0], [0, 0], [2**63, 2], [[2, 3]], [4, 3],
        )
    ],
    (request(tensor([], [0, 3])), ("empty", None, None)),
    (request(tensor(FLAT, [0, 3])), ("empty", None, None)),
    (request(tensor([1] * 15, [5, 3])), ("rows", None, None)),
    (request(tensor(FLAT, [2**62, 3])), ("rows", None, None)),
    (request(tensor([], [2, 3])), ("shape", None, None)),
    (request(tensor(FLAT[:-1], [2, 3])), ("shape", None, None)),
    (request(tensor([*FLAT, 7], [2, 3])), ("shape", None, None)),
    (request(tensor([NESTED], [2, 3])), ("shape", None, None)),
    (request(tensor([[1, 2], [3, 4], [5, 6]], [2, 3])), ("shape", None, None)),
    (request(tensor([[1, 2, 3], [4, 5]], [2, 3])), ("shape", None, None)),
    (request(tensor([[1, 2, 3], 4], [2, 3])), ("shape", None, None)),
    (request(tensor([1, 2, 3, 4, 5, [6]], [2, 3])), ("nested", 1, 2)),
    (request(tensor([[1, 2, 3], [4, 5, [6]]], [2, 3])), ("nested", 1, 2)),
    (request(tensor([[1, 2, 3], [4, 5, {}]], [2, 3])), ("nested", 1, 2)),
    (request(tensor([1, 2, 3, 4, 5, "6"], [2, 3])), ("number", 1, 2)),
    (request(tensor([1, 2, 3, True, 5, 6], [2, 3])), ("number", 1, 0)),
    (request(tensor([1, 2, 3, True, 5, 6], [2, 3], "INT8")), ("number", 1, 0)),
    (request(tensor([1, 2, 3, True, 5, 6], [2, 3], "FP32")), ("number", 1, 0)),
    (request(tensor([1, 2, 3, None, 5, 6], [2, 3])), ("number", 1, 0)),
    (request(tensor([1, 2, 3, float("nan"), 5, 6], [2, 3])), ("finite", 1, 0)),
    (request(tensor([1, 2, 3, 4, 1e301, 6], [2, 3])), ("range", 1, 1)),
    (request(tensor([1, 2, 3, 4, 5, 1], [2, 3], "INT8")).replace(b"4, 5", b"4, 1" + b"0" * 400), ("datatype", 1, 1)),
    (request(OK, OK), ("names", None, None)),
    (request(OK, tensor([1], [1])), ("names", None, None)),
    (b'{"inputs": [' + ONE + b', "name": "x"}]}', ("duplicate", None, None)),
    (b'{"inputs": [], "inputs": [' + ONE + b"}]}", ("duplicate", None, None)),
    (b'{"inputs": [' + ONE + b', "parameters": {"a": 1, "a": 2}}]}', ("duplicate", None, None)),
]  # fmt: skip


@pytest.mark.parametrize(("body", "rule"), REFUSED)
def test_broken_rules_are_named_with_their_place(body: bytes, rule: tuple[Any, ...]) -> None:
    """A refusal says which rule the request breaks and where, whichever path finds it."""
    assert refused(reader(), body) == rule


COLUMNS = {name: tensor([1, 2], [2], name=name) for name in NAMES}


@pytest.mark.parametrize(
    ("tensors", "rule"),
    [
        ([*COLUMNS.values()][:2], ("names", None, None)),
        ([*COLUMNS.values(), tensor([1, 2], [2], name="c")], ("names", None, None)),
        ([*[*COLUMNS.values()][:2], tensor([1, 2], [2], name="B")], ("names", None, None)),
        ([*[*COLUMNS.values()][:2], tensor([1, 2], [2], name="age")], ("names", None, None)),
        ([*[*COLUMNS.values()][:2], tensor([1], [1], name="b")], ("shape", None, None)),
        ([*[*COLUMNS.values()][:2], tensor([1, 2], [1, 2], name="b")], ("shape", None, None)),
        ([*[*COLUMNS.values()][:2], tensor([1], [2], name="b")], ("shape", None, None)),
        ([*[*COLUMNS.values()][:2], tensor([[1], 2], [2, 1], name="b")], ("shape", None, None)),
        ([tensor([], [0], name=name) for name in NAMES], ("empty", None, None)),
        ([tensor([1] * 5, [5], name=name) for name in NAMES], ("rows", None, None)),
        ([COLUMNS["b"], COLUMNS["age"], tensor([1, 1e301], [2], name="secret_income")], ("range", 1, 2)),
        ([COLUMNS["b"], COLUMNS["age"], tensor([1, 1.5], [2], "INT8", name="secret_income")], ("datatype", 1, 2)),
        ([COLUMNS["b"], COLUMNS["age"], tensor([1, "2"], [2], name="secret_income")], ("number", 1, 2)),
    ],
)
def test_columns_by_name_must_be_those_of_the_service(tensors: list[Any], rule: tuple[Any, ...]) -> None:
    """Missing, unknown, duplicate and misspelt names are refused, and places count in what was sent."""
    read = reader(NAMES)
    assert refused(read, request(*tensors)) == rule
    with pytest.raises(InvalidInputError) as refusal:
        read.read(request(*tensors))
    told = f"{refusal.value.detail} {refusal.value.reason} {refusal.value.members}"
    assert not any(name in told for name in ("secret_income", "age'", "'b'"))


MIXED = tensor([3, 4], [2], "INT8", name="count")


def mixed(**settings: Any) -> Reading:
    rules = RowRules(
        columns=["count", "sort"],
        low=0,
        high=9,
        max_rows=4,
        dtype="float64",
        categories={"sort": ["a", "1"]},
        **settings,
    )
    return Reading(JSONBodies({"open-inference": OpenInferenceRows(rules, only_objects=False)}), rules)


def test_texts_are_bytes() -> None:
    """Where a column takes texts, its tensor is one of BYTES, as Triton's client sends them; null may be missing."""
    sent = request(tensor(["1", "a"], [2, 1], "BYTES", name="sort"), MIXED)
    assert mixed().read(sent).tolist() == [[3, 1], [4, 0]]
    for read, are_told in ((mixed(), True), (reader(), False)):
        assert ("BYTES" in str(OpenInferenceRows(read.rules, only_objects=False).schema())) is are_told
    missing = request(tensor([None, "a"], [2], "BYTES", name="sort"), MIXED)
    np.testing.assert_array_equal(mixed(missing=["sort"]).read(missing), [[3, np.nan], [4, 0]])


@pytest.mark.parametrize(
    ("column", "rule"),
    [
        (tensor(["a", "b"], [2], "BYTES", name="sort"), ("category", 1, 0)),
        (tensor(["a", 1], [2], "BYTES", name="sort"), ("datatype", 1, 0)),
        (tensor(["a", 1.5], [2], "BYTES", name="sort"), ("datatype", 1, 0)),
        (tensor(["a", True], [2], "BYTES", name="sort"), ("category", 1, 0)),
        (tensor(["a", None], [2], "BYTES", name="sort"), ("category", 1, 0)),
        (tensor(["a", ["a"]], [2], "BYTES", name="sort"), ("nested", 1, 0)),
        (tensor(["a", "a"], [2], "FP64", name="sort"), ("datatype", 0, 0)),
        (tensor([1, "a"], [2], "INT8", name="sort"), ("datatype", 1, 0)),
        (tensor([0, 0], [2], "INT8", name="sort"), ("category", 0, 0)),
    ],
)
def test_texts_and_numbers_are_what_their_datatype_says(column: Any, rule: tuple[Any, ...]) -> None:
    """A number is no text, and a text no number, whatever the tensor says."""
    assert refused(mixed(), request(column, MIXED)) == rule


def test_numbers_are_no_texts() -> None:
    """A number in quotes is none, also in a tensor of BYTES."""
    texts = tensor(["3"], [1], "BYTES", name="count")
    assert refused(mixed(), request(texts, tensor(["a"], [1], "BYTES", name="sort"))) == ("number", 0, 0)


# Any request --------------------------------------------------------------------------------------------------------

floats = st.one_of(
    st.floats(), st.integers(), st.integers(-130, 260), st.sampled_from([0, -0.0, 1e39, 2**53 + 1, 2**64, 10**30])
)
cells: st.SearchStrategy[Any] = st.one_of(floats, floats, floats, st.sampled_from([None, True, "1", "[", [], [1], {}]))
datatypes = st.sampled_from([*DATATYPES, "FP64", "FP32", "INT64", "BOOL", "BYTES", "[FP64"])
names = st.sampled_from([*NAMES, "x", "[", ""])
parameters: st.SearchStrategy[Any] = st.sampled_from(
    [{}, {"a": 1}, {"a": "["}, {"a": []}, {"a": {"b": 1}}, {"binary_data_size": 8}, [], None]
)


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    count, width = draw(st.integers(0, 5)), draw(st.integers(1, 3))
    shape = draw(
        st.sampled_from([[count, width]] * 4 + [[count], [count, 1], [width, count], [count, width, 1], [-1, 3]])
    )
    size = int(np.prod(shape))
    data = draw(st.lists(draw(st.sampled_from([floats, floats, cells])), min_size=max(size, 0), max_size=max(size, 0)))
    if draw(st.booleans()) and len(shape) == 2 and shape[1] > 0:
        data = [data[at : at + shape[1]] for at in range(0, len(data), shape[1])]
    made = tensor(data, shape, draw(datatypes), draw(names))
    for change in draw(st.lists(st.sampled_from(["parameters", "drop", "more", "cut"]), max_size=1)):
        if change == "parameters":
            made["parameters"] = draw(parameters)
        elif change == "drop":
            del made[draw(st.sampled_from([*made]))]
        elif change == "more":
            made[draw(st.sampled_from(["more", "["]))] = 1
        elif made["data"]:
            made["data"].pop()
    return made


@st.composite
def columns_by_name(draw: st.DrawFn) -> list[Any]:
    count = draw(st.integers(1, 4))
    kinds = st.sampled_from(
        [
            ("FP64", floats),
            ("FP32", floats),
            ("INT64", st.integers(-(2**63), 2**63 - 1)),
            ("UINT8", st.integers(0, 255)),
        ]
    )
    made = []
    for name in draw(st.permutations(NAMES)):
        datatype, values = draw(kinds)
        made.append(tensor(draw(st.lists(values, min_size=count, max_size=count)), [count], datatype, name))
    return made


outputs = st.sampled_from([[], [{"name": "a"}], [{"name": "a", "parameters": {"a": []}}], [1]])
more = st.fixed_dictionaries(
    {}, optional={"id": st.sampled_from(["", "[", 1]), "outputs": outputs, "parameters": parameters}
)
requests = st.tuples(
    st.one_of(tensors().map(lambda one: [one]), columns_by_name(), st.lists(tensors(), max_size=3)), more
).map(lambda drawn: request(*drawn[0], **drawn[1]))
PIECES = [b"[", b"]", b",", b"{", b"}", b'"', b"\\", b"-", b"0", b".5", b"[[", b'"FP32"']


@given(body=damaged(requests, PIECES), columns=st.sampled_from([1, 2, 3, NAMES, ["x"]]))
@example(body=request(tensor([1, 2, [3]], [1, 3])), columns=3)
@example(body=request(tensor([[1, 2, 3]], [1, 3], name="[")), columns=3)
@example(body=request(tensor([1, 2, 3], [1, 3]), id="["), columns=3)
@example(body=request(tensor([[1, 2], [3]], [1, 3]), id="x"), columns=3)
def test_paths_agree_on_any_request(body: bytes, columns: Any) -> None:
    """Right or wrong, a request has one outcome: the same array to the last bit, or the same broken rule."""
    agreed(reader(columns), body)


@given(body=damaged(requests, PIECES))
def test_paths_agree_on_any_request_of_tensors(body: bytes) -> None:
    """The same where rows have a shape."""
    agreed(reader(shape=(1, 3)), body)


@given(st.data(), st.sampled_from([*DATATYPES]), st.booleans())
def test_every_tensor_is_read_as_numpy_reads_it(data: st.DataObject, datatype: str, nested: bool) -> None:
    """The array is the one that NumPy makes of the same numbers in the same datatype."""
    dtype = DATATYPES[datatype]
    limits = (-1e30, 1e30) if dtype.kind == "f" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    values = st.floats(*limits) if dtype.kind == "f" else st.integers(*limits)
    count = data.draw(st.integers(1, 4))
    sent = data.draw(st.lists(st.lists(values, min_size=3, max_size=3), min_size=count, max_size=count))
    body = request(tensor(sent if nested else [*itertools.chain(*sent)], [count, 3], datatype))
    read = reader()
    assert read.fast(body) is not None
    np.testing.assert_array_equal(read.read(body), np.array(sent, dtype).astype(np.float64))


@given(columns_by_name())
def test_columns_are_read_as_numpy_reads_them(sent: list[Any]) -> None:
    """Each column has its own datatype and its place."""
    with np.errstate(over="ignore"):
        by_name = {one["name"]: np.array(one["data"]).astype(DATATYPES[one["datatype"]]) for one in sent}
    expected = np.stack([by_name[name].astype(np.float64) for name in NAMES], axis=1)
    assume(bool((np.abs(expected) <= 1e300).all()))
    body = request(*sent)
    np.testing.assert_array_equal(reader(NAMES).read(body), expected)


MIB = 1 << 20


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b'{"inputs": [' + b"[" * MIB, "depth"),
        (b'{"inputs": [' + b"{}," * (MIB // 3) + b"{}]}", "field"),
        (request(tensor([], [4, 3])).replace(b'"data": []', b'"data": [' + b"1," * (MIB // 2) + b"1]"), "shape"),
        (request(tensor([], [4, 3])).replace(b'"data": []', b'"data": [' + b"[1]," * (MIB // 4) + b"1]"), "shape"),
        (request(tensor(FLAT, [2] * (MIB // 3))), "shape"),
        (request(tensor(FLAT, [2, 3])).replace(b"[2, 3]", b"[2, " + b"9" * MIB + b"]"), "shape"),
        (request(tensor(FLAT, [2, 3], name="a" * MIB), OK), "names"),
        (request(OK, id="[" * MIB, parameters={"a" * MIB: 1}, x=1), "field"),
    ],
    ids=range(8),
)
def test_hostile_megabytes_are_refused(body: bytes, rule: str) -> None:
    """What is made to exhaust a parser ends in the same small refusal as any other mistake."""
    assert refused(reader(), body)[0] == rule
