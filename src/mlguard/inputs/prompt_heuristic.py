"""A quick look for prompt injections, without a model."""

import re
from math import inf, prod

from mlguard.inputs._prompt_disguises import views_of
from mlguard.inputs._prompt_rules import MEANINGS, RULES, Rule
from mlguard.inputs._prompt_structure import structure_in
from mlguard.inputs._prompt_words import NUMBER, WORD, vocabulary
from mlguard.inputs.prompt_score import PromptScore

_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_MANY_INVISIBLE = 8
_HIDING = {"invisible": [("invisible text", 0.6)], "encoded": [("encoded text", 0.2)]}

# The rules in which each meaning has a part, and the meanings of each rule, by number.
_NUMBERED = [(rule, tuple(NUMBER[meaning] for meaning in rule.meanings)) for rule in RULES]
_RULES_OF: list[list[tuple[Rule, tuple[int, ...]]]] = [
    [(rule, numbers) for rule, numbers in _NUMBERED if number in numbers] for number in range(len(MEANINGS))
]


class PromptHeuristic:
    """Scores a text by words that are close to each other, and by what looks like another author's structure.

    Finds injections that say what they want in known words: in English, with fewer words in fifteen other
    languages, and in base64, hexadecimal, bits, escapes, invisible letters, rot13, backwards, with letters that look
    alike, with spaces between letters or none between words.

    **It misses what is said in other words, and refuses honest people who write about prompt injection.** The how-to
    page has measured figures. Use it to make noise in the log and to stop the lazy, not as the only thing between a
    user and what the model may do.

    It takes time in proportion to the text. Nothing that is written before or after a text, on
    lines of its own, lowers its score.
    """

    def __init__(self) -> None:
        self._vocabulary = vocabulary()

    async def score(self, text: str) -> PromptScore:
        """How much the text looks like an injection. Waits for nothing.

        Returns:
            The score, and in ``found`` the names of what was found.
        """
        found: dict[str, float] = {}
        for way, view in views_of(text):
            folded = self._vocabulary.fold(view)
            for name, weight in (*_HIDING.get(way, ()), *structure_in(view, folded)):
                found[name] = max(weight, found.get(name, 0.0))
            self._read(folded, found)
        if len(_INVISIBLE.findall(text)) >= _MANY_INVISIBLE:
            found["invisible characters"] = 0.3
        return PromptScore(1 - prod(1 - weight for weight in found.values()), tuple(sorted(found)))

    def _read(self, folded: str, found: dict[str, float]) -> None:
        """Add what the words of a text say to what was found."""
        last = [-inf] * len(MEANINGS)
        for place, meanings in self._vocabulary.read(folded):
            for number in meanings:
                last[number] = place
            for number in meanings:
                for rule, numbers in _RULES_OF[number]:
                    if (
                        min(map(last.__getitem__, numbers)) >= place - WORD * rule.within
                        and found.get(rule.name, 0.0) < rule.weight
                    ):
                        found[rule.name] = rule.weight
