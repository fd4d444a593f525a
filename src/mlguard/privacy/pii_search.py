"""What is looked for: kinds of personal data and of secrets, with the finders that know them."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Protocol, runtime_checkable

from mlguard.errors import ConfigurationError
from mlguard.privacy import _field_names, _national_ids, _phone_numbers
from mlguard.privacy._card_numbers import find_card_numbers
from mlguard.privacy._credentials import (
    TOKEN_KINDS,
    find_bearers,
    find_named_secrets,
    find_private_keys,
    find_tokens,
    find_url_passwords,
)
from mlguard.privacy._emails import find_emails
from mlguard.privacy._field_names import FieldNames
from mlguard.privacy._glances import Glance
from mlguard.privacy._ibans import find_ibans
from mlguard.privacy._ip_addresses import find_ipv4, find_ipv6
from mlguard.privacy._national_ids import FISCAL_CODE, ONLY_WHEN_NAMED, find_ninos, national_id_finder
from mlguard.privacy._phone_numbers import phone_finder
from mlguard.privacy._plain_text import plain_text
from mlguard.privacy._spans import Span, merged

logger = logging.getLogger("mlguard")

#: Kinds that open doors.
SECRET_KINDS = frozenset({"api_key", "aws_key", "bearer", "jwt", "private_key", "secret", "url_password"})
#: Kinds that are about a person. Those of ``phone`` and of most national ids need an extra.
PERSONAL_KINDS = frozenset(
    {"email", "phone", "card", "iban", "ip", "gb_nino", *_national_ids.KINDS, *_field_names.KINDS}
)
PERSONAL_KINDS -= {"secret"}


@runtime_checkable
class TextFinder(Protocol):
    """Something else that finds personal data in texts, such as ``PresidioFinder``."""

    def find(self, text: str) -> Iterable[Span]:
        """Where they are."""


class PIISearch:
    """What ``find_pii``, ``mask_pii`` and ``Redactor`` look for.

    Patterns are checked: a card has a range that is issued and Luhn's digit, an IBAN its country's length and check
    digits, a telephone number an area code. Time is in proportion to the length of the text, whatever is in it.

    Kinds in texts: ``email``, ``card``, ``iban``, ``ip``, ``gb_nino``; with the extra ``phonenumbers`` also ``phone``;
    with the extra ``stdnum`` also ``us_ssn``, ``de_tax_id``, ``fr_nir``, ``es_dni``, ``es_nie``, ``it_fiscal_code``,
    ``pl_pesel``, ``br_cpf``, ``se_personnummer``, ``in_aadhaar`` and, only if it is named, ``nl_bsn``. Secrets:
    ``jwt``, ``api_key``, ``aws_key``, ``bearer``, ``private_key``, ``url_password``, and ``secret``, which is what a
    name such as ``password=`` announces. By field name: ``email``, ``phone``, ``name``, ``address``, ``birth_date``,
    ``card``, ``iban``, ``ip``, ``national_id``, ``secret``.

    Does not find what has no form and no field: names, addresses and illnesses in a sentence. ``finders`` can.

    Args:
        kinds: What to look for. None: all but ``nl_bsn``; what lacks its extra is left out, and the log says so once.
        regions: Countries in two letters (ISO 3166) whose telephone numbers are found without ``+`` and country code.
        fields: More names of fields with their kinds, such as ``{"shoe_size": "health"}``; None for a name that names
            nothing here, such as ``{"token": None}`` where tokens are words.
        finders: What else finds data in texts. It is given every text, and takes the time it takes.

    Attributes:
        kinds: What is looked for.

    Raises:
        ConfigurationError: A kind that there is not; one that is named and lacks its extra; a region or a field's name
            that cannot be; something that finds nothing.
    """

    def __init__(
        self,
        *,
        kinds: Iterable[str] | None = None,
        regions: Sequence[str] = (),
        fields: Mapping[str, str | None] | None = None,
        finders: Iterable[TextFinder] = (),
    ) -> None:
        self.kinds = _possible_kinds() if kinds is None else _named_kinds(kinds)
        self._fields = FieldNames(self.kinds, fields or {})
        self._finders = tuple(finders)
        if not all(isinstance(finder, TextFinder) for finder in self._finders):
            raise ConfigurationError(
                "PIISearch(finders=...) have a method find(text), such as PresidioFinder(analyzer)"
            )
        self._by_digits, self._find_fiscal_codes = _number_finders(self.kinds)
        self._within_words = [(7, find_ibans)] if "iban" in self.kinds else []
        if "phone" in self.kinds and (kinds is not None or _phone_numbers.is_installed()):
            self._by_digits.append((_phone_numbers.LEAST_DIGITS, phone_finder(regions)))
        elif regions:
            raise ConfigurationError(
                "PIISearch(regions=...) are for the kind 'phone': pip install 'mlguard[phonenumbers]'"
            )

    def kind_of_field(self, name: str) -> str | None:
        """The kind that a field's name tells, or None."""
        return self._fields.kind(name)

    def spans(self, text: str) -> list[Span]:
        """Where data are in a text, in order. Those that overlap are one, of the kind of the longest."""
        plain = plain_text(text)
        found = self._in_plain(plain.text)
        if plain.gaps:
            found = [Span(*plain.original(span.start, span.end), span.kind) for span in found]
        for finder in self._finders:
            found += [Span(max(0, start), min(end, len(text)), kind) for start, end, kind in finder.find(text)]
        return merged(found) if found else found

    def _in_plain(self, text: str) -> list[Span]:
        glance = Glance(text)
        found = [*self._numbers(text, glance), *self._credentials(text, glance)]
        if glance.sees_an_at():
            passwords = [*find_url_passwords(text)] if "url_password" in self.kinds else []
            found += passwords
            found += find_emails(text, {one.end for one in passwords}) if "email" in self.kinds else ()
        return found

    def _numbers(self, text: str, glance: Glance) -> Iterator[Span]:
        for start, end, count, in_word in glance.around_digits() if self._by_digits else ():
            for digits, find in self._within_words if in_word else self._by_digits:
                if digits <= count:
                    yield from find(text, start, end)
        for start, end in glance.like_a_nino() if "gb_nino" in self.kinds else ():
            yield from find_ninos(text, start, end)
        if self._find_fiscal_codes:
            for start, end in glance.like_a_fiscal_code():
                yield from self._find_fiscal_codes(text, start, end)
        if "ip" in self.kinds and glance.sees_colons():
            yield from find_ipv6(text)

    def _credentials(self, text: str, glance: Glance) -> Iterator[Span]:
        if self.kinds & TOKEN_KINDS:
            yield from (span for span in find_tokens(text, glance) if span.kind in self.kinds)
        if "private_key" in self.kinds and "PRIVATE KEY" in text:
            yield from find_private_keys(text)
        if "bearer" in self.kinds:
            yield from find_bearers(text, glance)
        if "secret" in self.kinds:
            yield from find_named_secrets(text, glance)

    def __repr__(self) -> str:
        return f"PIISearch(kinds={sorted(self.kinds)})"


# How many digits there must be at least, and what finds the number.
Finder = tuple[int, Callable[[str, int, int], Iterator[Span]]]

_NUMBERS: dict[str, Finder] = {
    "card": (13, find_card_numbers),
    "iban": (7, find_ibans),
    "ip": (4, find_ipv4),
    "gb_nino": (6, find_ninos),
}


def _number_finders(kinds: frozenset[str]) -> tuple[list[Finder], Callable[[str, int, int], Iterator[Span]] | None]:
    """What finds numbers by their digits, and what finds fiscal codes, whose digits stand too far apart."""
    ids = {kind: national_id_finder(kind) for kind in sorted(kinds & _national_ids.KINDS)}
    _, find_fiscal_codes = ids.pop(FISCAL_CODE, (0, None))
    return [*(finder for kind, finder in _NUMBERS.items() if kind in kinds), *ids.values()], find_fiscal_codes


def _named_kinds(kinds: Iterable[str]) -> frozenset[str]:
    known = PERSONAL_KINDS | SECRET_KINDS
    named = frozenset([kinds] if isinstance(kinds, str) else kinds)
    if not named or named - known:
        raise ConfigurationError(f"PIISearch(kinds=...) are some of {', '.join(sorted(known))}")
    return named


def _possible_kinds() -> frozenset[str]:
    """All kinds but those that are found too often, and those whose extra is missing."""
    kinds = PERSONAL_KINDS - ONLY_WHEN_NAMED | SECRET_KINDS
    if not _phone_numbers.is_installed():
        _say_missing("telephone numbers", "phonenumbers")
    if not _national_ids.is_installed():
        _say_missing("national ids with check digits", "stdnum")
        kinds -= _national_ids.KINDS
    return kinds


@cache
def _say_missing(what: str, extra: str) -> None:
    logger.info("%s are not looked for in texts: pip install 'mlguard[%s]'", what, extra)
