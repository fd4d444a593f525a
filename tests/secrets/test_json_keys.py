"""Secrets that are JSON objects, and the keys in them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.secrets.servers import SECRET

from mlguard.secrets._answers import Missing, Unusable
from mlguard.secrets._json_keys import pick, split

OBJECT = json.dumps({"token": SECRET, "": "x"})


@pytest.mark.parametrize("text", [OBJECT, OBJECT.encode(), "\n " + OBJECT])
def test_a_key_of_an_object(text: str | bytes) -> None:
    """A key is looked up, all of the text is taken by an empty one, and without one an object is refused."""
    assert pick(text, "token") == SECRET
    assert pick(text, "") == text
    with pytest.raises(Unusable, match="name one of its keys"):
        pick(text, None)
    with pytest.raises(Missing, match="no such key"):
        pick(text, "Token")


@pytest.mark.parametrize(
    "text", [SECRET, "[1]", '"a"', "7", "{", "{nonsense", "{'a': 1}", "", b"\xff", '{"a": ' * 9000]
)
def test_what_is_no_object_is_a_secret_as_it_is(text: str | bytes) -> None:
    """A text that is no object is taken whole, and has no keys."""
    assert pick(text, None) == text
    with pytest.raises(Unusable, match="no JSON object"):
        pick(text, "token")


@pytest.mark.parametrize("key", [None, "token", "a"])
def test_a_key_twice_is_no_key(key: str | None) -> None:
    """Which one of two is meant nobody knows, at any depth."""
    for text in ('{"token": "a", "token": "b"}', '{"token": "a", "a": {"b": 1, "b": 2}}'):
        with pytest.raises(Unusable, match="a key twice"):
            pick(text, key)


@pytest.mark.parametrize("value", [None, 7, [SECRET], "x" * 100_000])
def test_what_is_judged_elsewhere_passes(value: object) -> None:
    """What is no text or too large is not parsed; the judgement of answers refuses it."""
    assert pick(value, "token") is value


def test_names_are_split_once() -> None:
    """What stands behind the first # is the key."""
    assert split("a/b") == ("a/b", None)
    assert split("a/b#") == ("a/b", "")
    assert split("a/b#c") == ("a/b", "c")


@given(st.text(), st.one_of(st.none(), st.text()))
def test_any_text_and_any_key(text: str, key: str | None) -> None:
    """Nothing but the two reasons ever comes out."""
    try:
        pick(text, key)
    except Unusable as reason:
        assert SECRET not in str(reason)  # noqa: PT017  # either is right


@given(st.dictionaries(st.text(), st.text(), min_size=1), st.data())
def test_each_key_is_found(found: dict[str, str], data: st.DataObject) -> None:
    """Each key of an object leads to its own value."""
    key = data.draw(st.sampled_from(sorted(found)))
    assert pick(json.dumps(found), key) == (found[key] if key else json.dumps(found))
