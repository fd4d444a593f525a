"""Labels beside rows: read by two paths that agree, and nothing passes for a label that is none."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.errors import ConfigurationError, InvalidInputError
from mlguard.inputs.features import Features
from mlguard.inputs.json_bodies import JSONBodies
from mlguard.inputs.labelled_rows import Classes, LabelledRows
from tests.inputs.reading import outcome

RULES = Features(columns=2, low=-10, high=10, max_rows=4).rules
TEXTS = Classes(["a", "b[", "null"], where="test")
NUMBERS = Classes([0, 1, 2**40], where="test")
BOOLEANS = Classes(np.array([False, True]), where="test")


def reader(classes: Classes = TEXTS, **rules: Any) -> JSONBodies:
    judged = Features(columns=2, low=-10, high=10, max_rows=4, **rules).rules if rules else RULES
    return JSONBodies({"json": LabelledRows(judged, "features", "labels", classes)})


def told(bodies: JSONBodies, body: bytes, *, fast: bool = True) -> Any:
    """What is made of a body: rows and labels, or the broken rule and its place."""

    def read() -> Any:
        sent = (bodies.fast(body) if fast else None) or bodies.exact(body)
        labels.append(sent.labels)
        return sent.judged(RULES)

    labels: list[Any] = []
    found = outcome(read)
    return found if isinstance(found, dict) else (found, labels[0].tolist())


def body(features: Any, labels: Any) -> bytes:
    return json.dumps({"features": features, "labels": labels}).encode()


def test_each_row_has_its_label() -> None:
    """Labels come out as the places that they have among the classes."""
    bodies = reader()
    sent = bodies.fast(body([[1, 2], [3, 4]], ["null", "a"]))
    assert sent is not None
    assert sent.labels is not None
    assert sent.labels.tolist() == [2, 0]
    assert sent.judged(RULES).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert TEXTS.of(sent.labels).tolist() == ["null", "a"]
    assert NUMBERS.of(np.array([2, 0])).tolist() == [2**40, 0]


def test_a_single_row_has_one_label_in_an_array() -> None:
    """Its own brackets may be left out, as without labels."""
    assert told(reader(), body([1, 2], ["a"])) == told(reader(), body([[1, 2]], ["a"]))
    assert told(reader(), body([1, 2], "a")) == {"broken": "labels"}


def test_a_bracket_in_a_label_is_no_array() -> None:
    """It is counted as one, which leads to the exact path."""
    bodies = reader()
    sent = body([[1, 2], [3, 4]], ["b[", "a"])
    assert bodies.fast(sent) is None
    assert told(bodies, sent)[1] == [1, 0]


def test_a_missing_value_is_no_reason_to_change_a_label() -> None:
    """Null may stand in a row, and the word in a label."""
    bodies = reader(missing=[0])
    sent = bodies.sent(body([[None, 2], [3, 4]], ["null", "a"]))
    assert sent.labels is not None
    assert sent.labels.tolist() == [2, 0]
    assert told(bodies, b'{"features": [[9e99, 2]], "labels": ["null"]}') == {"broken": "range", "row": 0, "column": 0}


NO_NUMBERS = [
    b"true",
    b"false",
    b"1.0",
    b"1e0",
    b'"1"',
    b"null",
    b"[1]",
    b'{"1": 1}',
    b"NaN",
    b"-1",
    b"1e999",
    b"9" * 5000,
]


@pytest.mark.parametrize("label", NO_NUMBERS, ids=lambda label: label[:10].decode())
def test_what_looks_like_a_number_is_no_label(label: bytes) -> None:
    """A label is a whole number of the list, written as one: no boolean, no float, no text, nothing huge or nested."""
    sent = b'{"features": [[1, 2], [3, 4]], "labels": [0, %s]}' % label
    assert told(reader(NUMBERS), sent) == {"broken": "label", "row": 1}


@pytest.mark.parametrize("label", [b"0", b"1", b"1.0", b'"true"', b"null", b"[true]", b"True"])
def test_what_looks_like_a_boolean_is_no_label(label: bytes) -> None:
    """A label of a model that has learnt booleans is one."""
    assert told(reader(BOOLEANS), b'{"features": [[1, 2], [3, 4]], "labels": [true, false]}')[1] == [1, 0]
    sent = b'{"features": [[1, 2], [3, 4]], "labels": [true, %s]}' % label
    assert told(reader(BOOLEANS), sent) == ({"broken": "json"} if label == b"True" else {"broken": "label", "row": 1})


@pytest.mark.parametrize(
    "label", [b"0", b"true", b"null", b'"A"', b'"a "', b'"\\u0430"', b'["a"]', b'"\\ud800"', b'""']
)
def test_what_looks_like_a_text_is_no_label(label: bytes) -> None:
    """Neither another case nor a letter that looks the same."""
    assert told(reader(), b'{"features": [[1, 2]], "labels": [%s]}' % label) == {"broken": "label", "row": 0}


@pytest.mark.parametrize(
    ("sent", "rule"),
    [
        (b'{"features": [[1, 2]]}', "field"),
        (b'{"labels": ["a"]}', "field"),
        (b'{"features": [[1, 2]], "labels": ["a"], "weight": [9]}', "field"),
        (b'{"features": [[1, 2]], "labels": ["a"], "labels": ["a"]}', "duplicate"),
        (b'{"features": [[1, 2]], "labels": ["a"], "features": [[1, 2]]}', "duplicate"),
        (b'{"features": [[1, 2]], "labels": {"0": "a"}}', "labels"),
        (b'{"features": [[1, 2]], "labels": null}', "labels"),
        (b'{"features": [[1, 2]], "labels": ["a", "a", "a", "a", "a"]}', "labels"),
        (b'{"features": "a", "labels": ["a"]}', "array"),
        (b'{"features": [[1, 2, [3]]], "labels": ["a"]}', "columns"),
        (b"[]", "object"),
        (b"", "json"),
    ],
)
def test_broken_rules_are_named(sent: bytes, rule: str) -> None:
    """Every other form is refused, and the refusal names the rule."""
    assert told(reader(), sent)["broken"] == rule


def test_a_refusal_repeats_no_label() -> None:
    """Neither the one that was sent nor one that would be taken."""
    with pytest.raises(InvalidInputError) as refusal:
        reader().sent(body([[1, 2]], ["secret"]))
    assert "secret" not in f"{refusal.value.detail}{refusal.value.reason}{refusal.value.members}"
    assert refusal.value.detail == "A label is not one of those that are allowed (row 0, counted from 0)."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["a", "b[", 0, 1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
ROWS = st.lists(st.lists(st.integers(-11, 11) | st.floats(-11, 11), min_size=2, max_size=2), min_size=1, max_size=5)


@given(JSON | ROWS, JSON | st.lists(st.sampled_from(["a", "b[", "null", 0, 1, True, 2**40]), max_size=5))
def test_both_paths_agree(features: Any, labels: Any) -> None:
    """Whatever is sent, the fast path says what the exact one says, or nothing."""
    for classes in (TEXTS, NUMBERS, BOOLEANS):
        sent = body(features, labels)
        assert told(reader(classes), sent) == told(reader(classes), sent, fast=False)


@given(st.binary(max_size=60))
def test_no_body_is_an_error_of_another_kind(sent: bytes) -> None:
    """Bytes of any kind are a refusal."""
    with pytest.raises(InvalidInputError):
        reader().sent(b'{"labels": ["a"], "features": ' + sent)


@pytest.mark.parametrize(
    "labels",
    [[], ["a"], ["a", "a"], [1, "a"], [True, True], [True], [1, True], [0.0, 1.0], "ab", b"ab", 3, None, ["a\0", "a"],
     ["a", "\ud800"], [0, 2**63], [None, "a"], [["a"], ["b"]], [("a",), ("b",)]],
)  # fmt: skip
def test_classes_that_cannot_work(labels: Any) -> None:
    """Labels are two or more texts or whole numbers, all different."""
    with pytest.raises(ConfigurationError, match=r"test\(labels"):
        Classes(labels, where="test")


def test_classes_of_a_model() -> None:
    """NumPy's labels are the plain ones."""
    assert Classes(np.array(["a", "b"]), where="test").labels == ("a", "b")
    assert Classes(np.array([3, 1], np.int32), where="test").labels == (3, 1)
    assert BOOLEANS.labels == (False, True)
    assert BOOLEANS.of(np.array([1, 0])).tolist() == [True, False]


def test_there_is_no_other_form() -> None:
    """A document of another form is wrong, and not somebody else's."""
    assert LabelledRows(RULES, "features", "labels", TEXTS).claims({})


def test_members_need_names_of_their_own() -> None:
    """Rows and labels cannot be the same member."""
    with pytest.raises(ConfigurationError, match="different names"):
        LabelledRows(RULES, "labels", "labels", TEXTS)
    with pytest.raises(ConfigurationError, match="field"):
        LabelledRows(RULES, "features", "la[bels", TEXTS)


def test_openapi_tells_no_label() -> None:
    """It says of which type they are, and how many there may be."""
    for classes, kind in ((TEXTS, "string"), (NUMBERS, "integer"), (BOOLEANS, "boolean")):
        described = reader(classes).openapi()
        assert described["schema"]["properties"]["labels"]["items"] == {"type": kind}
        assert described["schema"]["required"] == ["features", "labels"]
        assert "b[" not in json.dumps(described)
        assert str(2**40) not in json.dumps(described)
        assert len(described["example"]["labels"]) == 1
