"""What judges prompts: any object with one method, and what it says."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PromptScore:
    """How much a text looks like a prompt injection.

    Attributes:
        value: From 0, nothing speaks for it, to 1.
        found: What speaks for it, for the operator's log: names of patterns, never a part of the text.
    """

    value: float
    found: tuple[str, ...] = ()


class PromptScorer(Protocol):
    """Scores prompts for ``PromptScreen``: ``PromptHeuristic``, ``PromptClassifier``, or any object like them."""

    async def score(self, text: str, /) -> PromptScore:
        """How much the text looks like a prompt injection. May raise anything: ``PromptScreen`` says what then."""
