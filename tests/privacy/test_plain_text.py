# that they look alike is the point
"""Texts as a person reads them, for looking, with the places of the original."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.privacy._plain_text import plain_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("４１１１", "4111"),
        ("٤١١١ ४१११ 𝟒𝟏𝟏𝟏", "4111 4111 4111"),
        ("1\u00a02\u202f3\u30004", "1 2 3 4"),
        ("1\u20112\u20123\u20134\u22125", "1-2-3-4-5"),
        ("a＠b。c｡d．e․f", "a@b.c.d.e.f"),
        ("1\u200b2\u200d3\ufeff4\u00ad5\u20606\U000e00317", "1234567"),
        ("Straße 東京 é", "Straße 東京 é"),
        ("plain", "plain"),
    ],
)
def test_what_looks_alike_is_alike(text: str, plain: str) -> None:
    """Digits of other scripts, wide letters, odd spaces, dashes and dots; what cannot be seen is gone."""
    assert plain_text(text).text == plain


@given(st.text(st.sampled_from("1a\u00a0\u200b\u200d４é\ufeff")), st.data())
def test_places_are_those_of_the_original(text: str, data: st.DataObject) -> None:
    """A piece of the plain form leads back to the piece that it was made of."""
    plain = plain_text(text)
    if plain.text:
        start = data.draw(st.integers(0, len(plain.text) - 1))
        end = data.draw(st.integers(start + 1, len(plain.text)))
        first, last = plain.original(start, end)
        assert plain_text(text[first:last]).text == plain.text[start:end]
        assert plain_text(text[first]).text
        assert plain_text(text[last - 1]).text


def test_the_forms_that_are_remembered_are_bounded() -> None:
    """A text of every character there is does not fill the memory."""
    from mlguard.privacy import _plain_text

    plain_text("".join(map(chr, range(0x100, 0x8000))))
    assert len(_plain_text._FORMS) <= _plain_text._MAX_KNOWN
