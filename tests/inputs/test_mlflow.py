"""What MLflow's clients send: tables, records, instances and inputs."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.inputs.json_bodies import JSONBodies
from mlguard.inputs.mlflow import MLflowRows
from mlguard.inputs.row_rules import RowRules
from tests.inputs.reading import Reading, agreed, damaged, outcome, refused

NAMES = ["age", "secret_income", "b"]
ROWS = [[1.0, 2.5, 3.0], [4.0, 5.0, 6.0]]


def reader(columns: Any = 3, *, shape: Any = None, max_rows: int = 4) -> Reading:
    rules = RowRules(
        columns=None if shape else columns, shape=shape, low=-1e300, high=1e300, max_rows=max_rows, dtype="float64"
    )
    return Reading(JSONBodies({"mlflow": MLflowRows(rules)}), rules)


def sent(**members: Any) -> bytes:
    return json.dumps(members).encode()


def split(data: Any = ROWS, **more: Any) -> bytes:
    return sent(dataframe_split={"data": data, **more})


# Accepted -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_rows_are_read_whoever_names_columns(form: str) -> None:
    """A list of rows needs no names, and is read as it stands."""
    for columns in (3, NAMES):
        read = reader(columns)
        assert read.fast(sent(**{form: ROWS})) is not None
        assert agreed(read, sent(**{form: ROWS})) == outcome(lambda: np.array(ROWS))


@pytest.mark.parametrize("more", [{}, {"index": [0, 1]}, {"index": ["a", "b"]}, {"index": [["a", 1], ["b", 2]]}])
def test_tables_are_matched_by_name(more: Any) -> None:
    """The columns of a table come in any order, and its index is left alone."""
    data = [[3, 1, 2.5], [6, 4, 5]]
    body = split(data, columns=["b", "age", "secret_income"], **more)
    assert agreed(reader(NAMES), body) == outcome(lambda: np.array(ROWS))
    assert (reader(NAMES).fast(body) is None) is (more.get("index", [0])[0] == ["a", 1])


@pytest.mark.parametrize("more", [{}, {"columns": [0, 1, 2]}, {"columns": ["x", "y", "z"]}])
def test_tables_keep_their_order_where_columns_have_no_names(more: Any) -> None:
    """Names that the service does not know are only counted."""
    assert agreed(reader(), split(**more)) == outcome(lambda: np.array(ROWS))


@pytest.mark.parametrize("form", ["dataframe_records", "instances", "inputs"])
def test_records_are_matched_by_name(form: str) -> None:
    """Each row is an object, its members in any order, even in another one for each."""
    records = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
    turned = [{name: record[name] for name in reversed(record)} for record in records]
    for batch, is_fast in ((records, True), (turned, True), ([records[0], turned[1]], False)):
        read = reader(NAMES)
        assert (read.fast(sent(**{form: batch})) is not None) is is_fast
        assert agreed(read, sent(**{form: batch})) == outcome(lambda: np.array(ROWS))


def test_inputs_may_be_columns() -> None:
    """An object of columns is read by their names."""
    body = sent(inputs={"b": [3, 6], "age": [1, 4], "secret_income": [2.5, 5]})
    assert reader(NAMES).fast(body) is not None
    assert agreed(reader(NAMES), body) == outcome(lambda: np.array(ROWS))


def test_tensors_of_any_shape() -> None:
    """Instances are nested as the shape has it."""
    images = np.arange(24.0).reshape(2, 3, 4)
    read = reader(shape=(3, 4))
    assert read.fast(sent(instances=images.tolist())) is not None
    assert agreed(read, sent(instances=images.tolist())) == outcome(images.copy)
    assert refused(read, split(images.reshape(2, 12).tolist(), columns=[*range(12)])) == ("columns", 0, None)


@pytest.mark.parametrize("params", [{}, None])
def test_no_params_are_no_params(params: Any) -> None:
    """Clients that always send the member are not turned away."""
    assert agreed(reader(), sent(instances=ROWS, params=params)) == outcome(lambda: np.array(ROWS))


# Refused ------------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[bytes, tuple[Any, ...]]] = [
    (sent(), ("field", None, None)),
    (sent(features=ROWS), ("field", None, None)),
    (sent(params={"temperature": 1}), ("field", None, None)),
    (sent(instances=ROWS, params={"temperature": 1}), ("field", None, None)),
    (sent(instances=ROWS, params=[1]), ("field", None, None)),
    (sent(instances=ROWS, inputs=ROWS), ("field", None, None)),
    (sent(instances=ROWS, signature_name="x"), ("field", None, None)),
    (b'{"instances": [[1, 2, 3]], "instances": [[1, 2, 3]]}', ("duplicate", None, None)),
    (sent(instances=1), ("array", None, None)),
    (sent(instances="1"), ("array", None, None)),
    (sent(instances=None), ("array", None, None)),
    (sent(instances={"a": [1]}), ("array", None, None)),
    (sent(instances=[]), ("empty", None, None)),
    (sent(instances=[1, 2, 3]), ("array", 0, None)),
    (sent(instances=[[1, 2, 3], [4]]), ("columns", 1, None)),
    (sent(instances=[[1, 2, [3]]]), ("nested", 0, 2)),
    (sent(instances=[[1, 2, 3]] * 5), ("rows", None, None)),
    (sent(instances=[{"age": 1}]), ("names", None, None)),
    (sent(inputs={"age": [1]}), ("names", None, None)),
    (sent(inputs=[{"age": 1}]), ("names", None, None)),
    (sent(dataframe_records=ROWS), ("names", None, None)),
    (sent(dataframe_records={"age": 1}), ("array", None, None)),
    (sent(dataframe_records=[]), ("empty", None, None)),
    (sent(dataframe_records=[{}] * 5), ("rows", None, None)),
    (sent(dataframe_split=ROWS), ("field", None, None)),
    (sent(dataframe_split=None), ("field", None, None)),
    (sent(dataframe_split={"columns": [0, 1, 2]}), ("field", None, None)),
    (split(more=1), ("field", None, None)),
    (split(columns=1), ("array", None, None)),
    (split(columns=[0, 1]), ("names", None, None)),
    (split(columns=[0, 1, 2, 3]), ("names", None, None)),
    (split(columns=[0, 1, None]), ("names", None, None)),
    (split(columns=[0, 1, [2]]), ("names", None, None)),
    (split(columns=[0, 1, True]), ("names", None, None)),
    (split(index=[0]), ("index", None, None)),
    (split(index=[0, 1, 2]), ("index", None, None)),
    (split(index=None), ("index", None, None)),
    (split(1, index=[0]), ("index", None, None)),
    (split(index=[{"a": 1}, 1]).replace(b'"a": 1', b'"a": 1, "a": 2'), ("duplicate", None, None)),
    (split(1), ("array", None, None)),
    (split([]), ("empty", None, None)),
    (split([[1, 2, 3], 4], columns=[0, 1, 2], index=[0, 1]), ("array", 1, None)),
    (split([[1, 2, 3], [4, 5]]), ("columns", 1, None)),
    (split([[1, 2, "3"]]), ("number", 0, 2)),
    (split([[1, 2, 1e301]]), ("range", 0, 2)),
]


@pytest.mark.parametrize(("body", "rule"), REFUSED, ids=range(len(REFUSED)))
def test_broken_rules_are_named_with_their_place(body: bytes, rule: tuple[Any, ...]) -> None:
    """A refusal says which rule the document breaks and where, whichever path finds it."""
    assert refused(reader(), body) == rule


OTHER_NAMES = [
    NAMES[:2],
    [*NAMES, "c"],
    ["age", "secret_income", "B"],
    ["age", "age", "b"],
    ["age", "secret_income", 2],
]


@pytest.mark.parametrize("names", OTHER_NAMES, ids=repr)
def test_names_must_be_those_of_the_service(names: list[Any]) -> None:
    """Missing, unknown, duplicate and misspelt names are refused in every form."""
    read = reader(NAMES)
    row = [1.0] * len(names)
    assert refused(read, split([row], columns=names)) == ("names", None, None)
    member = ", ".join(f'"{name}": 1' for name in names)
    column = ", ".join(f'"{name}": [1]' for name in names)
    is_twice = len(set(names)) != len(names)
    for form in ("instances", "inputs", "dataframe_records"):
        body = f'{{"{form}": [{{{member}}}]}}'.encode()
        assert refused(read, body) == (("duplicate", None, None) if is_twice else ("names", 0, None))
    body = f'{{"inputs": {{{column}}}}}'.encode()
    assert refused(read, body)[0] == ("duplicate" if is_twice else "names")


TURNED = ["b", "age", "secret_income"]
BY_NAME = [
    (split([[1, 2, 3], [4, 5, "6"]], columns=TURNED), ("number", 1, 2)),
    (split([[1, 2, 3], [4, 5, 1e301]], columns=TURNED), ("range", 1, 2)),
    (split([[1, 2, [3]], [4, 5]], columns=TURNED), ("nested", 0, 2)),
    (split([[1, 2, 3], [4, 5]], columns=TURNED), ("columns", 1, None)),
    (split([1, 2], columns=TURNED), ("array", 0, None)),
    (split(1, columns=TURNED), ("array", None, None)),
    (split(), ("names", None, None)),
    (sent(inputs=dict.fromkeys(TURNED, 1)), ("array", None, None)),
    (sent(inputs={"b": [[1]], "age": 1, "secret_income": [1]}), ("array", None, None)),
    (sent(inputs={"b": [1], "age": {"[[": 1}, "secret_income": 1}), ("array", None, None)),
    (sent(inputs={name: [] for name in TURNED}), ("empty", None, None)),
    (sent(inputs={name: [1] * 5 for name in TURNED}), ("rows", None, None)),
    (sent(inputs={"b": [1, 2], "age": [1, 2], "secret_income": [1]}), ("columns", 1, None)),
    (sent(inputs={"b": [1], "age": [1, 2], "secret_income": [1, 2]}), ("columns", 1, None)),
    (sent(inputs={"b": [1], "age": [1], "secret_income": [1e301]}), ("range", 0, 2)),
    (sent(inputs={"b": [1], "age": [1], "secret_income": [[1]]}), ("nested", 0, 2)),
    (sent(inputs={}), ("names", None, None)),
    (sent(dataframe_records=[dict.fromkeys(NAMES, 1), [1, 2, 3]]), ("record", 1, None)),
    (sent(instances=[dict.fromkeys(NAMES, 1), 1]), ("record", 1, None)),
    (sent(instances=[[1, 2, 3], dict.fromkeys(NAMES, 1)]), ("array", 1, None)),
    (sent(dataframe_records=[dict.fromkeys(NAMES, 1), {"b": 1, "age": 1, "secret_income": "1"}]), ("number", 1, 2)),
    (sent(dataframe_records=[{"b": 1, "age": 1, "secret_income": 1e301}]), ("range", 0, 2)),
    (sent(dataframe_records=[dict.fromkeys(NAMES, 1), {}]), ("names", 1, None)),
    (sent(dataframe_records=[dict.fromkeys(NAMES, 1)] * 5), ("rows", None, None)),
]


@pytest.mark.parametrize(("body", "rule"), BY_NAME, ids=range(len(BY_NAME)))
def test_places_count_in_what_was_sent(body: bytes, rule: tuple[Any, ...]) -> None:
    """Whoever sent columns in another order finds the fault where the refusal says it is."""
    assert refused(reader(NAMES), body) == rule


# Any document -------------------------------------------------------------------------------------------------------

numbers = st.one_of(st.floats(), st.integers(), st.sampled_from([0, -0.0, 2**53 + 1, 2**64, 10**30]))
cells: st.SearchStrategy[Any] = st.one_of(
    numbers, numbers, numbers, st.sampled_from([None, True, "1", "[", [], [1], {}])
)
labels = st.sampled_from([*NAMES, *NAMES, "[", "", 0, 1, None])


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    values = draw(st.sampled_from([numbers, numbers, cells]))
    width, count = draw(st.sampled_from([3, 3, 3, 2, 1])), draw(st.integers(0, 5))
    rows = draw(st.lists(st.lists(values, min_size=width, max_size=width), min_size=count, max_size=count))
    in_order: st.SearchStrategy[list[Any]] = st.permutations(NAMES)
    names: list[Any] = draw(st.one_of(in_order, in_order, st.lists(labels, max_size=4)))
    records: list[Any] = [dict(zip(names, row, strict=False)) for row in rows]
    if draw(st.booleans()) and records:
        others: list[Any] = [dict(reversed(records[-1].items())), [1, 2, 3], {}, 1]
        records[-1] = draw(st.sampled_from(others))
    table: dict[str, Any] = {"columns": names, "data": rows, "index": [*range(count)]}
    for member in draw(st.lists(st.sampled_from(["columns", "index", "data"]), max_size=1)):
        table[member] = draw(st.sampled_from([None, [], [[1]], ["["], [0, 1], rows]))
    if draw(st.booleans()):
        del table["index"]
    held = draw(st.sampled_from([rows, records, table, {str(n): [r[0] for r in rows] for n in names}]))
    form = draw(st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]))
    if held is table and draw(st.integers(0, 4)):
        form = "dataframe_split"
    more: Any = draw(st.sampled_from([{}, {}, {}, {"params": {}}, {"params": {"a": []}}, {"inputs": rows}]))
    return json.dumps({form: held, **more}).encode()


PIECES = [b"[", b"]", b",", b"{", b"}", b'"', b"\\", b"-", b"0", b".5", b"[[", b'"b"', b'"age": 1,']


@given(damaged(documents(), PIECES), st.sampled_from([1, 2, 3, NAMES, NAMES, ["b"]]))
def test_paths_agree_on_any_document(body: bytes, columns: Any) -> None:
    """Right or wrong, a document has one outcome: the same array to the last bit, or the same broken rule."""
    agreed(reader(columns), body)


@given(damaged(documents(), PIECES))
def test_paths_agree_on_any_document_of_tensors(body: bytes) -> None:
    """The same where rows have a shape."""
    agreed(reader(shape=(1, 3)), body)


rows_of_three = st.lists(st.floats(-1e300, 1e300) | st.integers(-(2**63), 2**63), min_size=3, max_size=3)


@given(st.lists(rows_of_three, min_size=1, max_size=4), st.permutations([0, 1, 2]))
def test_every_form_gives_the_same_array(rows: list[Any], order: list[int]) -> None:
    """A table, its records and its columns, in any order, are the rows themselves."""
    expected = np.array([[float(cell) for cell in row] for row in rows])
    names = [NAMES[place] for place in order]
    turned = [[row[place] for place in order] for row in rows]
    for body in (
        sent(instances=rows),
        split(turned, columns=names, index=[*range(len(rows))]),
        sent(dataframe_records=[dict(zip(names, row, strict=True)) for row in turned]),
        sent(inputs=dict(zip(names, zip(*turned, strict=True), strict=True))),
    ):
        read = reader(NAMES)
        assert read.fast(body) is not None
        np.testing.assert_array_equal(read.read(body), expected)


def test_very_many_columns_are_refused_before_they_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look-up walks over all members, so a body of a megabyte would keep the event loop for half a minute."""
    read: list[Any] = []
    monkeypatch.setattr("mlguard.inputs.mlflow.numbers_in", lambda *column: read.append(column))
    body = json.dumps({"inputs": {str(number): [1] for number in range(1_000)}}).encode()
    assert refused(reader(NAMES), body) == ("names", None, None)
    assert not read
