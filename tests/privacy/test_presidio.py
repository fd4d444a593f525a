"""Names in sentences, by a real Presidio over a blank model."""

from typing import Any

import pytest

from mlguard import ConfigurationError, PIISearch, PresidioFinder, find_pii, mask_pii

spacy = pytest.importorskip("spacy")
presidio_analyzer = pytest.importorskip("presidio_analyzer")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def analyzer() -> Any:
    """Presidio's engine; a ruler in the place of a trained model knows two names and a town."""
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine

    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns(
        [
            {"label": "PERSON", "pattern": "Zaphod Beeblebrox"},
            {"label": "PERSON", "pattern": "Trillian"},
            {"label": "GPE", "pattern": "Betelgeuse"},
        ]
    )

    class BlankEngine(SpacyNlpEngine):
        def __init__(self) -> None:
            super().__init__(ner_model_configuration=NerModelConfiguration(default_score=0.8))
            self.nlp = {"en": nlp}  # type: ignore[assignment]

        def load(self) -> None:
            pass

    return presidio_analyzer.AnalyzerEngine(nlp_engine=BlankEngine(), supported_languages=["en"])


def test_names_in_sentences_are_found(analyzer: Any) -> None:
    """With the kinds of fields, beside what is found without it."""
    search = PIISearch(finders=[PresidioFinder(analyzer)])
    text = "Zaphod Beeblebrox of Betelgeuse wrote to jane@example.org."
    assert mask_pii({"a": [text]}, search=search) == {"a": ["[name] of [address] wrote to [email]."]}
    assert "Zaphod" not in repr(find_pii(text, search=search))
    assert mask_pii("Trillian, again", search=search) == "[name], again"


def test_long_texts_are_read_in_pieces(analyzer: Any) -> None:
    """Cut at white space, so that names stay whole; with none, somewhere."""
    finder = PresidioFinder(analyzer)
    text = "by Trillian, " * 2_000
    assert [text[one.start : one.end] for one in finder.find(text)] == ["Trillian"] * 2_000
    assert list(finder.find("x" * 25_000)) == []


def test_settings_that_cannot_be_are_refused(analyzer: Any) -> None:
    """No analyzer, an entity that it does not know, a threshold that is none."""
    with pytest.raises(ConfigurationError, match=r"mlguard\[presidio\]"):
        PresidioFinder("en_core_web_lg")
    wrong: tuple[dict[str, Any], ...] = ({"entities": ["PERSONS"]}, {"entities": []}, {"threshold": 2.0})
    for settings in wrong:
        with pytest.raises(ConfigurationError, match="PresidioFinder"):
            PresidioFinder(analyzer, **settings)


def test_other_entities_and_thresholds(analyzer: Any) -> None:
    """What is below the threshold does not count; other entities are called as Presidio calls them."""
    assert list(PresidioFinder(analyzer, threshold=0.9).find("Trillian")) == []
    finder = PresidioFinder(analyzer, entities=["CRYPTO"])
    assert [one.kind for one in finder.find("to 16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ")] == ["crypto"]
    assert repr(finder) == "PresidioFinder(language='en', entities=['CRYPTO'])"
