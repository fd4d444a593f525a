"""Shared state: under which keys, and which store it is by default."""

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from mlguard.store import Store, default_store, store_key


def test_keys_are_unambiguous() -> None:
    """No two lists of names share a key, however they are cut."""
    lists = [
        ("a/b", "c"), ("a", "b/c"), ("a", "b", "c"), ("a/b/c",), ("abc",), ("a", "bc"), ("ab", "c"), ("", "abc"),
        ("abc", ""), (), ("",), ("", ""), ("1:a",), ("a1:b",), ("a", "1:b"), ("a\0b",), ("a", "\0b"),
        ("é",), ("e\u0301",), ("\u00c3\u00a9",), ("\ud800",), ("\udfff",), ("😀",), ("\ud83d\ude00",), ("?",),
    ]  # fmt: skip
    assert len({store_key(*parts) for parts in lists}) == len(lists)


names = st.lists(st.text(st.characters(), max_size=6) | st.sampled_from(["\ud800", "1:", "0:"]), max_size=4)


@settings(deadline=None)
@given(names, names)
def test_keys_agree_only_for_equal_names(left: list[str], right: list[str]) -> None:
    """Keys are equal exactly when the names are."""
    assert (store_key(*left) == store_key(*right)) == (left == right)


def test_keys_hold_no_names() -> None:
    """A key shows neither the name nor a plain hash of it, and has a fixed size."""
    key = store_key("rate", "alice@example.org")
    assert len(key) == 16
    assert b"alice" not in key
    assert key not in hashlib.blake2b(b"alice@example.org").digest()
    assert len(store_key("x" * 100_000)) == 16


def test_default_store_is_one_for_all() -> None:
    """Guards that were given no store share one, in which a nonce is single-use across all of them."""
    assert default_store() is default_store()
    assert isinstance(default_store(), Store)
