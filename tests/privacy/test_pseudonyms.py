"""Pseudonyms: the same for the same, of no use without the key, and older ones are still known after a rotation."""

import re
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard import ConfigurationError, Pseudonymiser

OLD, NEW = secrets.token_urlsafe(32), secrets.token_bytes(32)
PSEUDONYMS = Pseudonymiser({"2026-11": NEW, "2026-05": OLD})
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXTS, TEXTS, TEXTS.filter(bool), TEXTS.filter(bool))
def test_only_the_same_value_and_purpose_have_the_same_pseudonym(
    value: str, other: str, purpose: str, another: str
) -> None:
    """Nothing moves between purpose and value, and what is made twice is the same."""
    first, second = PSEUDONYMS.pseudonym(value, purpose=purpose), PSEUDONYMS.pseudonym(other, purpose=another)
    assert (first == second) == ((value, purpose) == (other, another))
    assert first == PSEUDONYMS.pseudonym(value.encode(), purpose=purpose)
    assert PSEUDONYMS.pseudonym(purpose + value, purpose=another) != PSEUDONYMS.pseudonym(
        value, purpose=another + purpose
    )


def test_a_pseudonym_names_its_key_and_nothing_else() -> None:
    """The form is fixed: a version, the newest key's id, 256 bits."""
    pseudonym = PSEUDONYMS.pseudonym("jane@example.org", purpose="logs")
    assert re.fullmatch(r"p1\.2026-11\.[A-Za-z0-9_-]{43}", pseudonym)
    assert PSEUDONYMS.spans(f"by {pseudonym}, seen") == [(3, 3 + len(pseudonym))]


def test_another_key_makes_another_pseudonym() -> None:
    """Who has the code and not the key can make none."""
    other = Pseudonymiser({"2026-11": secrets.token_bytes(32)})
    assert other.pseudonym("a", purpose="b") != PSEUDONYMS.pseudonym("a", purpose="b")


def test_older_pseudonyms_match_after_a_rotation() -> None:
    """Those of every key match and are listed; those of a key that was taken out are not."""
    older = Pseudonymiser({"2026-05": OLD}).pseudonym("a", purpose="b")
    assert older != PSEUDONYMS.pseudonym("a", purpose="b")
    assert PSEUDONYMS.matches("a", older, purpose="b")
    assert PSEUDONYMS.all_pseudonyms("a", purpose="b") == [PSEUDONYMS.pseudonym("a", purpose="b"), older]
    assert not Pseudonymiser({"2026-11": NEW}).matches("a", older, purpose="b")


@pytest.mark.parametrize(
    ("value", "purpose", "given"),
    [
        ("b", "b", None),
        ("a", "c", None),
        ("a", "b", ""),
        ("a", "b", "p1.2026-11."),
        ("a", "b", "\N{SNOWMAN}"),
        ("a", "b", "p1.2026-05."),
    ],
)
def test_what_is_not_the_pseudonym_does_not_match(value: str, purpose: str, given: str | None) -> None:
    """Another value, another purpose, another text."""
    pseudonym = PSEUDONYMS.pseudonym("a", purpose="b")
    assert not PSEUDONYMS.matches(value, pseudonym if given is None else given, purpose=purpose)


def test_a_pseudonym_relabelled_with_another_key_id_does_not_match() -> None:
    """The id in the text is bound to the key that made it."""
    pseudonym = PSEUDONYMS.pseudonym("a", purpose="b").replace("2026-11", "2026-05")
    assert not PSEUDONYMS.matches("a", pseudonym, purpose="b")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        None,
        OLD,
        [OLD],
        {"": OLD},
        {"a.b": OLD},
        {"a b": OLD},
        {"x" * 33: OLD},
        {"1\n": OLD},
        {1: OLD},
        {"ä": OLD},
        {"1": "changeme"},
        {"1": b""},
        {"1": None},
        {"1": OLD, "2": OLD.encode()},
    ],
)
def test_keys_that_keep_nothing_are_refused(keys: object) -> None:
    """No key, an id that could not be read back, a weak or missing secret, one secret under two ids."""
    with pytest.raises(ConfigurationError, match=r"Pseudonymiser\(keys=") as refused:
        Pseudonymiser(keys)  # type: ignore[arg-type]
    assert OLD not in str(refused.value)


@pytest.mark.parametrize("purpose", ["", None, b"logs"])
def test_a_purpose_is_a_text(purpose: object) -> None:
    """Forgetting it, or an empty setting, is an error and not a purpose of its own."""
    with pytest.raises(ConfigurationError, match="purpose="):
        PSEUDONYMS.pseudonym("a", purpose=purpose)  # type: ignore[arg-type]


def test_a_value_that_cannot_be_written_is_refused_without_repeating_it() -> None:
    """A number has no one spelling, and half a surrogate pair has no UTF-8."""
    with pytest.raises(TypeError, match="not int"):
        PSEUDONYMS.pseudonym(4912345, purpose="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="surrogate") as refused:
        PSEUDONYMS.pseudonym("jane\ud800", purpose="a")
    assert "jane" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_the_keys_are_not_in_the_repr() -> None:
    """Ids are, secrets are not."""
    assert repr(PSEUDONYMS) == "Pseudonymiser(keys=['2026-11', '2026-05'])"


def test_keys_are_read_once() -> None:
    """Changing the mapping later changes nothing: rotating is a new object."""
    keys: dict[str, str | bytes] = {"1": OLD}
    made = Pseudonymiser(keys)
    before = made.pseudonym("a", purpose="b")
    keys["1"] = NEW
    assert made.pseudonym("a", purpose="b") == before
