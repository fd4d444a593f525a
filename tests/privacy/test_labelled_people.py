"""The labelled set that the documentation quotes figures of: what must be found is, and little else."""

import pytest
from bench.labelled_people import Labelled, negatives, positives

from mlguard import PIISearch

SEARCH = PIISearch()
DATA = [*positives(7, 60)]
OTHERS = [*negatives(7, 60)]
WHOLE = ["email", "card", "iban", "ip", "gb_nino", "secret", "bearer", "jwt", "url_password", "phone with +"]
WHOLE_IDS = ["de_tax_id", "fr_nir", "es_dni", "it_fiscal_code", "pl_pesel", "br_cpf", "se_personnummer"]
HARDLY = ["order number, 8 to 12 digits", "order number, 13 to 19 digits", "grouped number", "EAN", "decorator"]
NEVER = sorted({sample.kind for sample in OTHERS} - set(HARDLY))


def is_covered(sample: Labelled) -> bool:
    start, end = sample.start or 0, sample.end or 0
    return any(span.start <= start and span.end >= end for span in SEARCH.spans(sample.text))


@pytest.mark.parametrize("kind", [*WHOLE, *WHOLE_IDS])
def test_data_are_found_whole(kind: str) -> None:
    """In every language and format, in odd digits too, as long as they have a form."""
    if kind == "phone with +":
        pytest.importorskip("phonenumbers")
    if kind in WHOLE_IDS:
        pytest.importorskip("stdnum")
    samples = [sample for sample in DATA if sample.kind == kind]
    assert len(samples) == 60
    assert [sample.text for sample in samples if not is_covered(sample)] == []


@pytest.mark.parametrize("kind", NEVER)
def test_what_only_looks_like_data_is_let_be(kind: str) -> None:
    """Times, digests, versions, numbers of measurements."""
    assert [sample.text for sample in OTHERS if sample.kind == kind and SEARCH.spans(sample.text)] == []


def test_numbers_of_things_are_hardly_taken_for_data() -> None:
    """Some have right check digits by chance: fewer than one in ten of those that could."""
    taken = [sample for sample in OTHERS if sample.kind in HARDLY and SEARCH.spans(sample.text)]
    assert len(taken) < 0.1 * 60 * len(HARDLY)


def test_what_has_no_form_is_not_found() -> None:
    """Names and addresses in sentences: the documentation says so, and this is why."""
    assert not any(is_covered(sample) for sample in DATA if "sentence" in sample.kind or "words" in sample.kind)


def test_the_set_is_the_same_for_a_seed() -> None:
    """So that figures can be made again."""
    assert [*positives(7, 60)] == DATA
    assert [*negatives(8, 60)] != OTHERS
