"""Numbers that states give to persons. Their form is looked for here, and python-stdnum knows their check digits."""

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec

from mlguard.errors import ConfigurationError
from mlguard.privacy._spans import Span

FindIn = Callable[[str, int, int], Iterator[Span]]

#: Has letters between its digits, so that a glance at digits does not see it.
FISCAL_CODE = "it_fiscal_code"

# The form of each, how many digits it has, and the module of stdnum that judges it.
_FORMS = {
    "us_ssn": (r"\d{3}([ -])\d\d\1\d{4}", 9, "us.ssn"),  # no check digit: only as it is written, with separators
    "de_tax_id": (r"\d{11}|\d\d \d{3} \d{3} \d{3}", 11, "de.idnr"),
    "fr_nir": (r"[12] ?\d\d ?\d\d ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d", 8, "fr.nir"),  # 8: behind Corsica's letter
    "es_dni": (r"\d{8}[ -]?[A-Z]", 8, "es.dni"),
    "es_nie": (r"[XYZ][ -]?\d{7}[ -]?[A-Z]", 7, "es.nie"),
    FISCAL_CODE: (r"[A-Z]{6}\d\d[ABCDEHLMPRST]\d\d[A-Z]\d{3}[A-Z]", 7, "it.codicefiscale"),
    "pl_pesel": (r"\d{11}", 11, "pl.pesel"),
    "br_cpf": (r"\d{3}\.\d{3}\.\d{3}-\d\d|\d{11}", 11, "br.cpf"),
    "se_personnummer": (r"(?:\d\d)?\d{6}[-+]?\d{4}", 10, "se.personnummer"),
    "in_aadhaar": (
        r"(?<!\d[ -])\d{4}([ -])\d{4}\1\d{4}(?![ -]\d)",
        12,
        "in_.aadhaar",
    ),  # in groups: one in ten has the digit
    "nl_bsn": (r"\d{9}|\d{4}\.\d\d\.\d{3}", 9, "nl.bsn"),
}
#: One in eleven numbers of nine digits is one: found only where it is asked for.
ONLY_WHEN_NAMED = frozenset({"nl_bsn"})
KINDS = frozenset(_FORMS)

_ALONE = r"(?<![^\W_])(?<!\d[.,])(?:%s)(?![^\W_])(?![.,]\d)"
_NINO = re.compile(
    r"(?<![^\W_])(?!BG|GB|NK|KN|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D](?![^\W_])",
    re.ASCII | re.IGNORECASE,
)


def is_installed() -> bool:
    """Whether the extra is there."""
    return find_spec("stdnum") is not None


def national_id_finder(kind: str) -> tuple[int, FindIn]:
    """The digits that numbers of one kind have at least, and what finds them.

    Raises:
        ConfigurationError: python-stdnum is not installed.
    """
    if not is_installed():
        raise ConfigurationError(f"kind {kind!r} needs the package python-stdnum: pip install 'mlguard[stdnum]'")
    written, digits, module = _FORMS[kind]
    form = re.compile(_ALONE % written, re.ASCII | re.IGNORECASE)
    is_valid: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid

    def find(text: str, start: int, end: int) -> Iterator[Span]:
        for match in form.finditer(text, start, end):
            if is_valid(match[0].replace(" ", "")):
                yield Span(match.start(), match.end(), kind)

    return digits, find


def find_ninos(text: str, start: int, end: int) -> Iterator[Span]:
    """British National Insurance numbers in this part of a plain text: by their form, for they have no check digit."""
    for match in _NINO.finditer(text, start, end):
        yield Span(match.start(), match.end(), "gb_nino")
