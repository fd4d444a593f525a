# that they look alike is the point
"""What the names of fields tell, and what only sounds like it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard import ConfigurationError, PIISearch

SEARCH = PIISearch()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("email", "email"),
        ("eMail", "email"),
        ("e_mail", "email"),
        ("user[email]", "email"),
        ("[email] phone", "phone"),
        ("E-MAIL", "email"),
        ("customer-email", "email"),
        ("customerEmailAddress", "email"),
        ("ｅｍａｉｌ", "email"),
        ("emails", "email"),
        ("Telefonnummer", "phone"),
        ("mobile_phone_2", "phone"),
        ("Teléfono", "phone"),
        ("firstName", "name"),
        ("patient.last_name", "name"),
        ("prénom", "name"),
        ("Date of Birth", "birth_date"),
        ("DOB", "birth_date"),
        ("Straße", "address"),
        ("zip", "address"),
        ("userIP", "ip"),
        ("X-Forwarded-For", "ip"),
        ("IBAN", "iban"),
        ("ssn", "national_id"),
        ("Steuer-ID", "national_id"),
        ("DB_PASSWORD", "secret"),
        ("apiKey", "secret"),
        ("X-API-Key", "secret"),
        ("refresh_token", "secret"),
        ("Set-Cookie", "secret"),
        ("cvv2", "secret"),
    ],
)
def test_names_of_fields_tell_a_kind(name: str, kind: str) -> None:
    """However words are put together, in several languages, with a number behind them."""
    assert SEARCH.kind_of_field(name) == kind


@pytest.mark.parametrize(
    "name",
    [
        "emailed_at",
        "email_sent_at",
        "email_count",
        "has_phone_support",
        "prompt_tokens",
        "max_tokens",
        "passing",
        "zipped",
        "description",
        "name",
        "file_name",
        "feature_names",
        "ship",
        "addressed",
        "password_changed_at",
        "",
        "_",
        "42",
        "[email]",
        "[phone] 2",
        "x:[secret]",
        "email" * 100,
    ],
)
def test_other_names_tell_nothing(name: str) -> None:
    """What happened to a mail, how many tokens, names of files and features, texts as keys."""
    assert SEARCH.kind_of_field(name) is None


def test_callers_add_names_and_take_some_away() -> None:
    """The longest ending decides, so one field can be let be while others of its kind are not."""
    search = PIISearch(fields={"shoe_size": "health", "token": None, "support email": None})
    assert search.kind_of_field("customerShoeSize") == "health"
    assert search.kind_of_field("token") is None
    assert search.kind_of_field("access_token") == "secret"
    assert search.kind_of_field("support_email") is None
    assert search.kind_of_field("email") == "email"


def test_only_kinds_that_are_looked_for_have_names() -> None:
    """Who looks for mail addresses gets no telephone numbers."""
    assert PIISearch(kinds={"email"}).kind_of_field("email") == "email"
    assert PIISearch(kinds={"email"}).kind_of_field("telefon") is None


@pytest.mark.parametrize("fields", [{"": "x"}, {"12": "x"}, {"a": ""}, {"a": "no word"}, {1: "x"}, {"a": 1}])
def test_fields_that_cannot_be_are_refused(fields: object) -> None:
    """A name without a letter, a kind that is no word."""
    with pytest.raises(ConfigurationError, match="fields="):
        PIISearch(fields=fields)  # type: ignore[arg-type]


@given(st.text())
def test_any_text_may_be_a_name(name: str) -> None:
    """No key of anybody's data is an error, and asking twice is answered alike."""
    assert SEARCH.kind_of_field(name) == SEARCH.kind_of_field(name)


def test_what_is_remembered_is_bounded() -> None:
    """A million different keys do not fill the memory."""
    from mlguard.privacy import _field_names

    search = PIISearch(kinds={"email"})
    for number in range(_field_names._MAX_KNOWN + 10):
        search.kind_of_field(f"email_{number}_")
    assert search.kind_of_field("email_x_1") is None
    assert len(search._fields._known) == _field_names._MAX_KNOWN
