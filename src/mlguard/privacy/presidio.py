"""Names, places and whatever else Microsoft's Presidio finds in sentences."""

from collections.abc import Iterator, Sequence
from typing import Any

from mlguard.errors import ConfigurationError
from mlguard.privacy._spans import Span

_KINDS = {"PERSON": "name", "LOCATION": "address"}  # as names of fields call them; the others in lower case
_PIECE = 10_000  # characters; spaCy takes memory by the length of a text, and refuses a million


class PresidioFinder:
    """Has Presidio look for what has no form, such as names in sentences: ``PIISearch(finders=[PresidioFinder(...)])``.

    Needs an analyzer, and so a model of a language, of yours: ``pip install 'mlguard[presidio]'``. It finds what that
    model finds, takes milliseconds a text, and is too slow for the logs of a busy service.

    ::

        from presidio_analyzer import AnalyzerEngine

        names = PIISearch(finders=[PresidioFinder(AnalyzerEngine())])

    Args:
        analyzer: Presidio's ``AnalyzerEngine``.
        language: The language of the texts, as the analyzer calls it.
        entities: What it looks for, as Presidio calls it.
        threshold: The lowest score that counts, from 0 to 1.

    Raises:
        ConfigurationError: Something else than an analyzer; an entity that it does not know in this language.
    """

    def __init__(
        self,
        analyzer: Any,
        *,
        language: str = "en",
        entities: Sequence[str] = ("PERSON", "LOCATION"),
        threshold: float = 0.5,
    ) -> None:
        if not callable(getattr(analyzer, "analyze", None)):
            raise ConfigurationError("PresidioFinder needs Presidio's AnalyzerEngine: pip install 'mlguard[presidio]'")
        known = set(analyzer.get_supported_entities(language))
        if not entities or not set(entities) <= known:
            raise ConfigurationError(f"PresidioFinder(entities=...) are some of {', '.join(sorted(known))}")
        if not 0 <= threshold <= 1:
            raise ConfigurationError("PresidioFinder(threshold=...) is from 0 to 1")
        self._analyzer = analyzer
        self._language = language
        self._entities = list(entities)
        self._threshold = threshold

    def find(self, text: str) -> Iterator[Span]:
        """What Presidio finds. A long text is given to it in pieces, cut at white space."""
        start = 0
        while start < len(text):
            end = _end_of_piece(text, start)
            found = self._analyzer.analyze(
                text[start:end], self._language, entities=self._entities, score_threshold=self._threshold
            )
            for one in found:
                yield Span(start + one.start, start + one.end, _KINDS.get(one.entity_type, one.entity_type.lower()))
            start = end

    def __repr__(self) -> str:
        return f"PresidioFinder(language={self._language!r}, entities={self._entities})"


def _end_of_piece(text: str, start: int) -> int:
    end = start + _PIECE
    if end >= len(text):
        return len(text)
    space = text.rfind(" ", start, end)
    return space + 1 if space >= 0 else end
