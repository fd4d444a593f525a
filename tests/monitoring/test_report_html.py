"""HTML from elements: nothing that somebody else has written becomes one, obeys or hides."""

import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.monitoring._report_html import Html, element, isolated, joined, name_of, shown


class Seen(HTMLParser):
    """The elements and the texts of a fragment."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.data = ""
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.data += data


@given(st.text())
def test_a_text_is_no_element(text: str) -> None:
    """Whatever a text is, in an element and in an attribute it is only a text."""
    seen = Seen(element("p", shown(text), title=shown(text)))
    assert seen.tags == ["p"]
    assert seen.attributes == [("title", shown(text))]
    assert seen.data == shown(text)


def test_what_is_put_together_otherwise_is_a_text_again() -> None:
    """Only what the builders make is HTML: two of them in an f-string are escaped."""
    bold = element("b", "x")
    assert element("p", bold) == "<p><b>x</b></p>"
    assert element("p", f"{bold} and") == "<p>&lt;b&gt;x&lt;/b&gt; and</p>"
    assert element("p", bold + bold) == f"<p>{'&lt;b&gt;x&lt;/b&gt;' * 2}</p>"
    assert isinstance(joined([bold, "<"]), Html)
    assert joined([bold, None, "<"]) == "<b>x</b>&lt;"


def test_attributes() -> None:
    """Underscores are hyphens, None is left out, numbers are short."""
    assert element("i", class_="a", aria_label='"', x=1.2345, y=3, z=None, w=0.0) == (
        '<i class="a" aria-label="&quot;" x="1.23" y="3" w="0"></i>'
    )


@given(st.text())
def test_nothing_that_is_shown_obeys_or_hides(text: str) -> None:
    """No control character, no bidirectional control and no other invisible one is left, and no pile of marks."""
    told = shown(text)
    assert told.isprintable()
    marks = "".join("m" if unicodedata.category(one) in {"Mn", "Me"} else "-" for one in told)
    assert "mmm" not in marks


def test_what_is_not_to_be_seen_is_written_out() -> None:
    """A terminal escape, a line, a change of direction and a lone surrogate are named by their numbers."""
    assert shown("a\x1b[31m\n\u202eb\ud800") == "a\\u{1b}[31m\\u{a}\\u{202e}b\\u{d800}"
    assert shown("é\u0301\u0301\u0301\u0301") == "é\u0301\u0301\\u{301}\\u{301}"
    assert shown("plain") == "plain"


@pytest.mark.parametrize("same", ["\u3164", "\ufe0f", "\u115f", "\u034f", "\u2800", "\U000e0100", "\u17b4", "\uffa0"])
def test_letters_without_a_picture_are_written_out(same: str) -> None:
    """Nobody is called as another is, but for a letter that is not to be seen."""
    assert shown(f"al{same}ice") == f"al\\u{{{ord(same):x}}}ice"


def test_spaces_that_a_browser_leaves_out_are_written_out() -> None:
    """At the ends, and beside another one; between words they are spaces."""
    assert shown("alice ") == "alice\\u{20}"
    assert shown(" alice") == "\\u{20}alice"
    assert shown("a   b") == "a \\u{20}\\u{20}b"
    assert shown("a b") == "a b"
    assert shown(" ") == "\\u{20}"


def test_what_was_not_written_out_does_not_look_so() -> None:
    """A name with a backslash is another one than a name with what it spells."""
    assert shown("\\u{202e}") == "\\u{5c}u{202e}"
    assert shown("DOMAIN\\user") == "DOMAIN\\user"


def test_a_long_text_is_cut() -> None:
    """A megabyte is 80 characters, and how many there were."""
    assert shown("x" * 1_000_000) == "x" * 80 + "… (1000000 characters)"
    assert len(name_of("<" * 1_000_000)) < 500


def test_a_name_stands_apart() -> None:
    """Letters that are written from right to left do not turn round what stands beside them; an empty name is one."""
    assert name_of("<a>") == '<bdi class="name">&lt;a&gt;</bdi>'
    assert isolated("a") == "\u2068a\u2069"
    assert name_of("") == '<bdi class="name">&quot;&quot;</bdi>'
