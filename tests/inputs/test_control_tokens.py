"""Control tokens of chat templates: which are found, however they are written, and what breaking them up leaves."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.errors import ConfigurationError
from mlguard.inputs.control_tokens import CHAT_CONTROL_TOKENS, ControlTokens

KNOWN = ControlTokens(CHAT_CONTROL_TOKENS, where="the test")
EXAMPLES = sorted({*CHAT_CONTROL_TOKENS, "<|im_start|>", "<|eot_id|>", "<|start_header_id|>", "<|x|>"})


@pytest.mark.parametrize("token", EXAMPLES)
def test_tokens_of_chat_templates_are_found(token: str) -> None:
    """Each known token is found wherever it stands, and is none any more when it was broken up."""
    for text in (token, f"a{token}b", f"<|{token}|>", token * 3):
        assert KNOWN.are_in(text)
        assert not KNOWN.are_in(KNOWN.break_up(text))
    assert KNOWN.break_up(f"a{token}b") == f"a{token[0]} {token[1:]}b"


@pytest.mark.parametrize(
    "text",
    [
        "<\N{FULLWIDTH VERTICAL LINE}im_start\N{FULLWIDTH VERTICAL LINE}>",
        "<\N{FULLWIDTH VERTICAL LINE}end\N{LOWER ONE EIGHTH BLOCK}of\N{FULLWIDTH VERTICAL LINE}>",
        "<|im\N{ZERO WIDTH SPACE}_start|>",
        "[\N{SOFT HYPHEN}INST]",
        "\N{FULLWIDTH LEFT SQUARE BRACKET}INST\N{FULLWIDTH RIGHT SQUARE BRACKET}",
        "<|im_start|>\N{COMBINING LONG SOLIDUS OVERLAY}",  # NFKC makes one character of the last two
        "<|\N{MATHEMATICAL BOLD SMALL S}ystem|>",
        "<s>\U000e0041",
    ],
)
def test_tokens_are_found_as_a_tokenizer_may_read_them(text: str) -> None:
    """Fullwidth letters, invisible characters and combining marks hide no token."""
    assert KNOWN.are_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a <| b |> c",
        "x |> f <| y",
        "<||>",
        "list[INSTALL]",
        "<strong>",
        "a < s > b",
        "<|" + "x" * 65 + "|>",
        "<| |>",
    ],
)
def test_ordinary_text_has_no_tokens(text: str) -> None:
    """Operators of programs and tags of web pages are no control tokens."""
    assert not KNOWN.are_in(text)
    assert KNOWN.break_up(text) == text


def test_tokens_of_ones_own() -> None:
    """A model's own tokens take the place of the list; the form with bars is always known."""
    own = ControlTokens(["USER:", "\N{FULLWIDTH LATIN CAPITAL LETTER A}B"], where="the test")
    assert own.are_in("hello USER: x")
    assert own.are_in("AB")
    assert own.are_in("<|im_end|>")
    assert not own.are_in("[INST]")


def test_no_tokens_at_all() -> None:
    """An empty set switches the search off."""
    none = ControlTokens((), where="the test")
    assert not none.are_in("<|im_start|>[INST]")
    assert none.break_up("<|im_start|>") == "<|im_start|>"


@pytest.mark.parametrize("tokens", ["<s>", None, 5, [""], ["x"], [" USER:"], ["USER:\n"], [b"<s>"], [None]])
def test_tokens_that_cannot_work(tokens: Any) -> None:
    """What is no set of tokens is refused when it is given."""
    with pytest.raises(ConfigurationError, match="the test"):
        ControlTokens(tokens, where="the test")


@given(st.lists(st.sampled_from([*EXAMPLES, "<", "|", ">", "<|", "|>", "[", "/", "s", " ", "INST", "]"])).map("".join))
def test_breaking_up_leaves_no_token_and_loses_nothing(text: str) -> None:
    """Whatever the pieces, no token is left, and nothing but spaces has been added."""
    broken = KNOWN.break_up(text)
    assert not KNOWN.are_in(broken)
    assert broken.replace(" ", "") == text.replace(" ", "")
