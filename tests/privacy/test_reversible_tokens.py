"""Tokens that can be turned back: by the key and for the purpose only."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard import ConfigurationError, ReversibleTokens

OLD, NEW = secrets.token_urlsafe(32), secrets.token_bytes(32)
TOKENS = ReversibleTokens({"new": NEW, "old": OLD})
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXTS, TEXTS.filter(bool), TEXTS.filter(bool))
def test_a_value_comes_back_for_its_purpose_only(value: str, purpose: str, another: str) -> None:
    """Every text comes back whole, the same text has the same token, and another purpose does not open it."""
    token = TOKENS.token(value, purpose=purpose)
    assert TOKENS.value(token, purpose=purpose) == value
    assert TOKENS.token(value, purpose=purpose) == token
    if purpose != another:
        assert TOKENS.token(value, purpose=another) != token
        with pytest.raises(ValueError, match="no token of these keys"):
            TOKENS.value(token, purpose=another)


def test_older_tokens_open_after_a_rotation() -> None:
    """The newest key makes them, all of them open; a key that was taken out does not."""
    older = ReversibleTokens({"old": OLD}).token("jane", purpose="mail")
    assert TOKENS.value(older, purpose="mail") == "jane"
    assert TOKENS.token("jane", purpose="mail").startswith("t1.new.")
    with pytest.raises(ValueError, match="no token of these keys"):
        ReversibleTokens({"new": NEW}).value(older, purpose="mail")


@given(st.integers(0, 39), st.characters(codec="ascii"))
def test_an_altered_token_does_not_open(position: int, character: str) -> None:
    """Whatever one character becomes, also where base64 would overlook it."""
    token = TOKENS.token("jane@example.org", purpose="mail")
    altered = token[:position] + character + token[position + 1 :]
    if altered != token:
        with pytest.raises(ValueError, match="no token of these keys") as refused:
            TOKENS.value(altered, purpose="mail")
        assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize(
    "text",
    ["", "t1", "t1.new", "t1.new.", "t1.new.AA", "t1.new.\N{SNOWMAN}", "t1.new.====", "x" * 100_000, "t1.\ud800.a"],
)
def test_what_is_no_token_does_not_open(text: str) -> None:
    """Nothing, too little, no base64, too much."""
    with pytest.raises(ValueError, match=r"no token|surrogate"):
        TOKENS.value(text, purpose="mail")


def test_every_spelling_but_one_is_refused() -> None:
    """Padding, the other alphabet and loose bits open nothing, so that one value has one token."""
    token = TOKENS.token("ab", purpose="mail")
    tail = {chr(code) for code in range(48, 123)} - {token[-1]}
    for altered in [token + "=", token + "\n", *(token[:-1] + one for one in tail)]:
        with pytest.raises(ValueError, match="no token of these keys"):
            TOKENS.value(altered, purpose="mail")


def test_a_token_is_of_text() -> None:
    """Bytes would come back as something else."""
    with pytest.raises(TypeError, match="not bytes"):
        TOKENS.token(b"jane", purpose="mail")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="purpose="):
        TOKENS.token("jane", purpose="")


def test_weak_keys_are_refused_and_no_key_is_shown() -> None:
    """As for pseudonyms."""
    with pytest.raises(ConfigurationError, match=r"ReversibleTokens\(keys="):
        ReversibleTokens({"1": "changeme"})
    assert repr(TOKENS) == "ReversibleTokens(keys=['new', 'old'])"
