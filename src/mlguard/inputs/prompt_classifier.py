"""A classifier that somebody runs already, as what judges prompts."""

import asyncio
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, SupportsFloat

from mlguard.errors import ConfigurationError, OverloadedError
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
        max_waiting: How many may be there beside these. Beyond it, texts are refused.

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
        for setting, value, least in (("concurrency", concurrency, 1), ("max_waiting", max_waiting, 0)):
            if type(value) is not int or value < least:
                raise ConfigurationError(f"PromptClassifier({setting}=...) is a whole number of at least {least}")
        self._probability: Callable[[str], Any] = probability
        self._name = name
        self._concurrency = concurrency
        self._places = concurrency + max_waiting
        self._is_async = inspect.iscoroutinefunction(probability) or inspect.iscoroutinefunction(
            type(probability).__call__
        )
        self._start()

    async def score(self, text: str) -> PromptScore:
        """The probability, once it is this text's turn."""
        if self._process != os.getpid():  # after a fork: the threads have stayed behind, and nobody would classify
            self._start()
        free = self._free
        if not free.acquire(blocking=False):
            raise OverloadedError("too many prompts are waiting for the classifier", retry_after=1)
        if self._is_async:
            try:
                probability = await self._probability(text)
            finally:
                free.release()
        else:
            running = self._threads.submit(self._probability, text)
            running.add_done_callback(lambda _: free.release())
            probability = await asyncio.wrap_future(running)
        return PromptScore(float(probability), (self._name,))

    def _start(self) -> None:
        self._process = os.getpid()
        self._free = threading.Semaphore(self._places)
        self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="mlguard-prompts")

    def __repr__(self) -> str:
        return f"PromptClassifier({self._name!r}, concurrency={self._concurrency})"
