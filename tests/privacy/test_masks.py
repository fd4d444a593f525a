# that they look alike is the point
"""What stands in the place of a datum."""

import secrets

import pytest

from mlguard import ConfigurationError, KeepLast, Pseudonymiser, PseudonymMask, mask_pii

PSEUDONYMS = Pseudonymiser({"k": secrets.token_bytes(32)})


def test_the_kind_is_shown_by_default() -> None:
    """Nothing of the value, and nothing of its length."""
    assert mask_pii("jane@example.org and j@x.org") == "[email] and [email]"


def test_the_last_characters_are_kept() -> None:
    """Of cards, accounts and telephones, as on a receipt; not of mail addresses, and not of what is short."""
    data = {"n": "4111 1111 1111 1111", "iban": "DE89 3704 0044 0532 0130 00", "email": "jane@x.org", "phone": "911"}
    masked = mask_pii(data, mask=KeepLast())
    assert masked == {"n": "********1111", "iban": "********3000", "email": "[email]", "phone": "[phone]"}
    assert mask_pii(masked, mask=KeepLast()) == masked
    assert mask_pii({"password": "********1234"}, mask=KeepLast()) == {"password": "[secret]"}
    assert mask_pii("4111111111111111", mask=KeepLast(2, kinds={"iban"})) == "[card]"


@pytest.mark.parametrize("count", [0, 5, True, "4"])
def test_more_than_the_end_is_not_kept(count: object) -> None:
    """Six digits of a card and the bank's first six leave a thousand cards."""
    with pytest.raises(ConfigurationError, match="KeepLast"):
        KeepLast(count)  # type: ignore[arg-type]


def test_a_pseudonym_is_the_same_for_the_same_value() -> None:
    """One can count by it; odd digits make no difference, the kind does, and secrets have none."""
    mask = PseudonymMask(PSEUDONYMS, purpose="logs")
    first, second = mask_pii(["by 4111111111111111", "４１１１１１１１１１１１１１１１"], mask=mask)
    assert first == f"by {second}"
    assert second == PSEUDONYMS.pseudonym("4111111111111111", purpose="logs/card")
    assert mask_pii({"password": "x", "email": "x", "phone": "x"}, mask=mask) == {
        "password": "[secret]",
        "email": PSEUDONYMS.pseudonym("x", purpose="logs/email"),
        "phone": PSEUDONYMS.pseudonym("x", purpose="logs/phone"),
    }
    some = PseudonymMask(PSEUDONYMS, purpose="logs", kinds=["phone"])
    assert mask_pii({"email": "x"}, mask=some) == {"email": "[email]"}


def test_a_pseudonym_is_not_masked_again() -> None:
    """Neither as a value, nor in a text beside data, nor behind a name."""
    mask = PseudonymMask(PSEUDONYMS, purpose="logs")
    text = "a jane@x.org b 4111111111111111 c j@x.org, token=abc"
    once = mask_pii(text, mask=mask)
    assert once.count("p1.k.") == 3
    assert mask_pii(once, mask=mask) == once
    assert mask_pii({"email": mask_pii("j@x.org", mask=mask)}, mask=mask) == {"email": mask_pii("j@x.org", mask=mask)}
    assert mask_pii(f"{once} k@x.org", mask=mask).count("p1.k.") == 4
    named = f"password={PSEUDONYMS.pseudonym('x', purpose='y')}, token=abc"
    assert mask_pii(named, mask=mask) == named.replace("abc", "[secret]")


def test_what_looks_like_a_pseudonym_hides_nothing() -> None:
    """A foreign key's, and a datum that is more than the pseudonym in it."""
    mask = PseudonymMask(PSEUDONYMS, purpose="logs")
    own = PSEUDONYMS.pseudonym("x", purpose="y")
    assert "@" not in mask_pii(f"{own}@example.org", mask=mask)
    assert "4111" not in mask_pii(f"p1.4111111111111111.{own[-43:]} 4111111111111111", mask=mask).replace("p1.4111", "")


def test_half_a_surrogate_pair_has_a_pseudonym() -> None:
    """Whatever stands under a name can be masked."""
    assert mask_pii({"email": "\ud800"}, mask=PseudonymMask(PSEUDONYMS, purpose="a"))["email"].startswith("p1.k.")


def test_masks_that_cannot_work_are_refused() -> None:
    """No pseudonymiser, no purpose."""
    with pytest.raises(ConfigurationError, match="Pseudonymiser"):
        PseudonymMask("key", purpose="logs")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="purpose"):
        PseudonymMask(PSEUDONYMS, purpose="")
