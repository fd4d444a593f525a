"""Missing values, categories, integers and clipping in whatever format the rows come."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.inputs.csv_rows import CSVRows
from mlguard.inputs.features import Features
from mlguard.inputs.json_bodies import JSONBodies, JSONFormat
from mlguard.inputs.json_rows import JSONRows
from mlguard.inputs.mlflow import MLflowRows
from mlguard.inputs.open_inference import OpenInferenceRows
from mlguard.inputs.row_rules import RowRules
from tests.inputs import test_column_names, test_csv_rows, test_mlflow, test_open_inference
from tests.inputs.reading import Reading, agreed, damaged, rows_of

NAMES = ["age", "secret_income", "b"]
SETTINGS: dict[str, dict[str, Any]] = {
    "missing": {"missing": True},
    "missing in one column": {"missing": ["b"], "dtype": np.float32, "low": -1e38, "high": 1e38},
    "missing, clipped": {"missing": [0, 1], "low": -1.0, "high": 9e99, "out_of_range": "clip"},
    "signed": {"dtype": np.int64, "low": -(2**63), "high": 2**63 - 1},
    "unsigned": {"dtype": np.uint64, "low": 0, "high": 2**64 - 1},
    "small, clipped": {"dtype": np.int8, "low": -5, "high": 100, "out_of_range": "clip"},
    "texts": {"categories": {0: ("1", "null", "[", "=1")}},
    "numbers": {"categories": {1: (1, 2, 9e99)}, "missing": [1]},
}
some_settings = st.sampled_from(sorted(SETTINGS))
without_names = st.sampled_from(sorted(SETTINGS.keys() - {"missing in one column"}))


def rules(name: str, columns: Any = NAMES, shape: Any = None) -> RowRules:
    usual: dict[str, Any] = {"low": -1e300, "high": 1e300, "max_rows": 4, "dtype": np.float64}
    settings = {**usual, **SETTINGS[name]}
    return RowRules(columns=None if shape else columns, shape=shape, **settings)


def json_reading(of: RowRules) -> Reading:
    forms: dict[str, JSONFormat] = {
        "open-inference": OpenInferenceRows(of, only_objects=True),
        "mlflow": MLflowRows(of),
        "json": JSONRows(of, "features"),
    }
    return Reading(JSONBodies(forms), of)


PIECES = [b"[", b"]", b",", b"null", b" 9e99 ", b"-", b".0", b'"', b"NaN", b"9007199254740993"]
documents = st.one_of(test_column_names.documents(), test_mlflow.documents(), test_open_inference.requests)


@given(damaged(documents, PIECES), some_settings)
def test_paths_agree_on_any_document(body: bytes, settings: str) -> None:
    """Right or wrong, a document has one outcome, whatever the rules allow."""
    agreed(json_reading(rules(settings)), body)


@given(damaged(documents, PIECES), without_names)
def test_paths_agree_on_any_document_of_tensors(body: bytes, settings: str) -> None:
    """The same where rows have a shape."""
    agreed(json_reading(rules(settings, shape=(1, 3))), body)


@given(damaged(test_csv_rows.tables(), PIECES), some_settings)
def test_paths_agree_on_any_table(body: bytes, settings: str) -> None:
    """The same of tables."""
    of = rules(settings)
    agreed(Reading(CSVRows(of), of), body)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"features": [{"size": null, "sort": "b", "count": 3}]}'),
        ("application/json", b'{"dataframe_split": {"columns": ["sort", "count", "size"], "data": [["b", 3, null]]}}'),
        ("application/json", b'{"inputs": {"sort": ["b"], "count": [3], "size": [null]}}'),
        ("text/csv", b"sort,size,count\nb,,3\n"),
    ],
)
def test_what_is_missing_and_what_is_a_text(content_type: str, body: bytes) -> None:
    """An empty cell is a missing value as null is, and a text is one in every format that has texts."""
    guard = Features(
        columns=["size", "sort", "count"],
        low=0,
        high=9,
        max_rows=4,
        missing=["size"],
        categories={"sort": ["a", "b"]},
        formats=["json", "mlflow", "csv"],
    )
    np.testing.assert_array_equal(rows_of(guard, body, content_type), [[np.nan, 1, 3]])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"features": [["1", 3], ["02", 4], ["1e1", 5]]}'),
        ("text/csv", b'count,grade\n3,1\n4,"02"\n5,1e1\n'),
    ],
)
def test_texts_may_look_like_numbers(content_type: str, body: bytes) -> None:
    """Where a column takes texts, "1" and "02" are two of them, also where nothing tells texts from numbers."""
    guard = Features(
        columns=["grade", "count"],
        low=0,
        high=9,
        max_rows=4,
        categories={"grade": ["1", "02", "1e1"]},
        formats=["json", "csv"],
    )
    np.testing.assert_array_equal(rows_of(guard, body, content_type), [[0, 3], [1, 4], [2, 5]])


def test_formats_and_shape_are_saved(tmp_path: Any) -> None:
    """A guard that was loaded reads what the saved one did."""
    guard = Features(shape=(2, 2), low=0, high=[[1, 2], [3, 4]], max_rows=4, formats=["npy", "json"])
    guard.save(tmp_path / "guard.json")
    loaded = Features.load(tmp_path / "guard.json")
    assert loaded.shape == (2, 2)
    assert loaded._formats.names == {"npy", "json"}
    assert rows_of(loaded, b'{"features": [[1, 2], [3, 4]]}').tolist() == [[[1.0, 2.0], [3.0, 4.0]]]
