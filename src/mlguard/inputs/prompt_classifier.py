"""A classifier that somebody runs already, as what judges prompts."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, SupportsFloat

from mlguard._threads import FewThreads
from mlguard.errors import ConfigurationError
from mlguard.inputs.prompt_score import PromptScore


class PromptClassifier:
    """Scores prompts with a model of your own: any function from a text to a probability.

    A plain function runs in a thread, few at a time, so that the event loop goes on meanwhile. One that nobody waits
    for any more, because of the screen's time-out, holds its place until it ends. An ``async`` function, such as a call
    to another service, is awaited, and brings a line of its own, such as a client's pool of connections.

    ::

        def probability(text: str) -> float:
            return float(model.predict_proba([text])[0, 1])

        screen = PromptScreen(PromptClassifier(probability), threshold=0.8, text=question)

    A classifier for 512 tokens reads the first 512 of a longer text, and says nothing of it. Give it pieces one by one,
    and return the highest probability.

    Args:
        probability: Takes the text, returns how likely it is an injection, from 0 to 1.
        name: What it is called in the log.
        concurrency: How many texts are classified at the same time in this process, in threads.
        max_waiting: How many may wait for a thread. Beyond it, texts are refused.

    Raises:
        ConfigurationError: ``probability`` is no function, or a number is out of its range.
        OverloadedError: From :meth:`score`: there are too many (503).
    """

    def __init__(
        self,
        probability: Callable[[str], SupportsFloat | Awaitable[SupportsFloat]],
        *,
        name: str = "classifier",
        concurrency: int = 1,
        max_waiting: int = 64,
    ) -> None:
        if not callable(probability) or isinstance(probability, type):
            raise ConfigurationError("PromptClassifier needs a function that takes a text and returns a probability")
        self._probability: Callable[[str], Any] = probability
        self._name = name
        self._threads = FewThreads(
            "prompts", where="PromptClassifier", concurrency=concurrency, max_waiting=max_waiting
        )
        self._is_async = inspect.iscoroutinefunction(probability) or inspect.iscoroutinefunction(
            type(probability).__call__
        )

    async def score(self, text: str) -> PromptScore:
        """The probability, once it is this text's turn."""
        if self._is_async:
            probability = await self._probability(text)
        else:
            async with self._threads.turn() as turn:
                probability = await turn.run(lambda: self._probability(text))
        return PromptScore(float(probability), (self._name,))

    def __repr__(self) -> str:
        return f"PromptClassifier({self._name!r}, concurrency={self._threads.concurrency})"
