"""What is recorded of a request, brought into form."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.monitoring._request_records import InputDigest, Outputs, RequestRecord

DIGEST = InputDigest(b"k" * 32)


@given(st.text(), st.text())
def test_nothing_that_a_caller_chooses_leaves_its_line(method: str, path: str) -> None:
    """Not by line feeds, escapes, surrogates or length."""
    record = RequestRecord(method)
    record.path = path
    line = json.dumps(dict(record), ensure_ascii=False)
    assert line.isprintable()
    assert line.isascii()
    assert len(line) < 2_500
    assert record["event"] == "request"
    assert len(record) == len(dict(record))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_json_has_one_digest_however_it_is_written(value: Any) -> None:
    """With white space, in any order of members, and escaped or not."""
    texts = [
        json.dumps(value, indent=2, sort_keys=True),
        json.dumps(value, ensure_ascii=True),
    ]
    assert len({DIGEST.of_body(text.encode()) for text in texts}) == 1


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[NaN]", b'"\\ud800"', b"[" * 100_000, b"{", b"9" * 400, b" " * 1_048_577]
)
def test_what_is_no_json_has_a_digest_of_its_bytes(body: bytes) -> None:
    """And never an exception."""
    assert len(DIGEST.of_body(body)) == 32
    assert DIGEST.of_body(body) != DIGEST.of_body(body + b"x")


def test_values_that_differ_in_dtype_or_shape_differ() -> None:
    """Zeros are told apart by what they are zeros of; what cannot be told has no digest."""
    values: list[Any] = [
        np.zeros((1, 2)), np.zeros((2, 1)), np.zeros((1, 2), np.float32), np.zeros((1, 2), np.int64), "0", b"0",
    ]  # fmt: skip
    assert len({DIGEST.of_value(value) for value in values}) == len(values)
    assert DIGEST.of_value(np.array([[-0.0, 1]])) == DIGEST.of_value(np.array([[0.0, 1]]))
    assert DIGEST.of_value(object()) is None


@given(
    st.lists(
        st.lists(st.floats(0, 1), min_size=3, max_size=3).flatmap(
            lambda row: st.lists(st.just(row), min_size=1, max_size=40)
        ),
        max_size=12,
    )
)
def test_counts_are_those_of_all_scores_kept_or_not(batches: list[list[list[float]]]) -> None:
    """Whatever the sizes in which they come."""
    outputs = Outputs()
    for batch in batches:
        array = np.array(batch)
        outputs.add(array)
        array[:] = -1  # the model may use it again
    summary = outputs.summary(("a", "b", "c"))
    rows = [row for batch in batches for row in batch]
    if not rows:
        assert summary is None
        return
    assert summary is not None
    for position, name in enumerate("abc"):
        assert summary["labels"].get(name, 0) == sum(row.index(max(row)) == position for row in rows)
    for tenth in range(10):
        expected = sum(min(int(max(row) * 10), 9) == tenth for row in rows)
        assert summary["confidence"].get(f"0.{tenth}", 0) == expected


def test_many_labels_are_counted_together() -> None:
    """Twenty have names."""
    outputs = Outputs()
    outputs.add(np.eye(30))
    summary = outputs.summary(None)
    assert summary is not None
    assert len(summary["labels"]) == 21
    assert summary["labels"]["..."] == 10
    assert summary["confidence"] == {"0.9": 30}


def test_scores_that_are_no_probabilities_have_no_confidence_and_numbers_no_label() -> None:
    """Of logits the label is known; of a regression nothing is."""
    outputs = Outputs()
    outputs.add(np.array([[-5.0, 12.0]]))
    assert outputs.summary(("a",)) == {"labels": {"1": 1}, "confidence": {}}
    regression = Outputs()
    regression.add(np.array([1.5, 2.5]))
    regression.add(np.empty((0, 3)))
    assert regression.summary(None) is None


def test_what_comes_after_a_record_was_handed_over_is_not_in_it() -> None:
    """Another thread may be reading it."""
    record = RequestRecord("GET")
    record.is_closed = True
    record.look(np.array([[0.5, 0.5]]))
    assert record["output"] is None
