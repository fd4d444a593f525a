"""Refuses texts that look like prompt injections."""

import asyncio
import inspect
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NoReturn

from fastapi import Depends
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard
from mlguard._numbers import is_number, whole
from mlguard._order import charge_refused_input, once
from mlguard.errors import ConfigurationError, InvalidInputError, MLGuardError, UnavailableError
from mlguard.inputs.prompt_heuristic import PromptHeuristic
from mlguard.inputs.prompt_score import PromptScore, PromptScorer

logger = logging.getLogger("mlguard")

_MAX_LOGGED = 200  # characters of the names that a scorer of the app's own gives
_ASK_AGAIN = 1  # seconds, when the scorer is away


class PromptScreen(Guard):
    """Refuses a text that looks like a prompt injection, before the model sees it.

    Guards against the injections that its scorer knows. **It does not stop prompt injection**: whoever finds other
    words gets through, and some honest texts are refused. Keep the model's rights small, and use ``PromptTemplate``.

    As a dependency it takes the text from another one, and returns it::

        screened = PromptScreen(text=question)

        @app.post("/ask")
        async def ask(question: Annotated[str, Depends(screened)]): ...

    Screens can follow each other: ``PromptScreen(PromptClassifier(probability), text=PromptScreen(text=question))``
    asks the classifier for what the heuristic has let through. For other texts, such as a document that was looked up
    or a message of a WebSocket, call ``await screened.judge(text)``.

    The caller is told that the rule ``prompt`` is broken, and not by what. The log has the score and the names of what
    was found, never the text.

    Args:
        scorer: What judges. None: ``PromptHeuristic()``.
        text: The dependency that returns the text, such as a guard or a function. None: only :meth:`judge` is used.
        threshold: The least score that is refused, above 0 and up to 1.
        max_length: The longest text, in characters. What is longer is refused unread (``length``). The heuristic keeps
            the event loop for as long as it reads.
        timeout: Seconds until the scorer counts as away.
        on_error: What happens while the scorer is away: it raises, takes too long, or returns no probability.
            ``"refuse"``: nobody is admitted. ``"allow"``: everybody is, and the log says so; whoever can make the
            scorer fail or slow gets anything through. One that has too much to do (``OverloadedError``) always refuses.

    Raises:
        ConfigurationError: A setting that cannot work; when used: ``text`` returned no text.
        InvalidInputError: The text is refused (422, ``broken`` is ``prompt`` or ``length``). A budget whose cost is
            this screen, or the guard that it takes its text from, is charged one.
        UnavailableError: The scorer is away, and ``on_error`` is ``"refuse"`` (503).
        OverloadedError: The scorer has too much to do (503).
    """

    control: ClassVar[Control] = Control.INPUT_VALIDATION
    statuses: tuple[int, ...] = (422, 503)
    reads_body: ClassVar[bool] = True

    def __init__(
        self,
        scorer: PromptScorer | None = None,
        *,
        text: Callable[..., Any] | None = None,
        threshold: float = 0.5,
        max_length: int = 10_000,
        timeout: float = 2.0,
        on_error: Literal["refuse", "allow"] = "refuse",
    ) -> None:
        self._scorer = PromptHeuristic() if scorer is None else scorer
        if isinstance(scorer, type) or not inspect.iscoroutinefunction(getattr(self._scorer, "score", None)):
            raise ConfigurationError(
                "PromptScreen needs an object with an async method score, such as PromptHeuristic() or "
                "PromptClassifier(probability)"
            )
        if (text is not None and not callable(text)) or (isinstance(text, type) and issubclass(text, Guard)):
            raise ConfigurationError(
                "PromptScreen(text=...) is a dependency that returns the text: a guard or a function"
            )
        if not is_number(threshold) or not 0 < threshold <= 1:
            raise ConfigurationError("PromptScreen(threshold=...) is above 0 and at most 1")
        whole("PromptScreen(max_length=...)", max_length, least=1)
        if not is_number(timeout) or not 0 < timeout < math.inf:
            raise ConfigurationError("PromptScreen(timeout=...) is a number of seconds above 0")
        if on_error not in {"refuse", "allow"}:
            raise ConfigurationError('PromptScreen(on_error=...) is "refuse" or "allow"')
        self._text = text
        self.source = text if isinstance(text, Guard) else None
        self._threshold = threshold
        self._max_length = max_length
        self._timeout = timeout
        self._on_error = on_error
        self.__signature__ = _signature(text)

    def check(self) -> None:
        """Raise ``ConfigurationError`` if a route uses a screen that takes its text from nowhere."""
        if self._text is None:
            raise ConfigurationError("PromptScreen is used as a dependency: say with text=... where the text is from")

    async def __call__(self, conn: HTTPConnection, text: Any = None) -> str:
        """The text, if it is not refused. Who may call is judged before."""
        self.check()
        return await once(conn, self, partial(self._judge_sent, conn, text))

    async def _judge_sent(self, conn: HTTPConnection, text: Any) -> str:
        try:
            return await self.judge(text)
        except InvalidInputError:
            await charge_refused_input(conn, self)
            raise

    def units(self, value: Any) -> int:  # noqa: ARG002  # whatever stands in it
        """One text counts as one."""
        return 1

    async def judge(self, text: str) -> str:
        """Judge one text, each time that this is called.

        Returns:
            The text.

        Raises:
            InvalidInputError: It is refused (422).
            UnavailableError: The scorer is away (503).
        """
        if not isinstance(text, str):
            raise ConfigurationError(f"PromptScreen was given a {type(text).__name__} and no text")
        if len(text) > self._max_length:
            raise InvalidInputError("a text over max_length", detail="The text is too long.", broken="length")
        score = await self._score(text)
        if score is not None and score.value >= self._threshold:
            found = ascii(", ".join(score.found))[1:-1][:_MAX_LOGGED]
            raise InvalidInputError(
                f"prompt screen: score {score.value:.2f} for {found or 'nothing that has a name'}",
                detail="The text is not accepted.",
                broken="prompt",
            )
        return text

    async def _score(self, text: str) -> PromptScore | None:
        """What the scorer says, or None if it is away and everybody is admitted."""
        try:
            async with asyncio.timeout(self._timeout):
                score = await self._scorer.score(text)
            if not 0 <= score.value <= 1:  # nor NaN
                raise ValueError
        except MLGuardError:
            raise
        except Exception as error:
            failure = type(error).__name__  # its own text may quote the prompt
        else:
            return score
        if self._on_error == "refuse":
            _refuse(failure)
        logger.error("a prompt was let through unjudged, the scorer failed with %s", failure)
        return None

    def __repr__(self) -> str:
        return f"PromptScreen({self._scorer!r}, threshold={self._threshold})"


def _refuse(failure: str) -> NoReturn:
    raise UnavailableError(f"prompt screen: the scorer failed with {failure}", retry_after=_ASK_AGAIN)


def _signature(text: Callable[..., Any] | None) -> inspect.Signature:
    """What FastAPI sees: the connection, and the dependency that has the text."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("conn", kind, annotation=HTTPConnection)]
    if text is not None:
        parameters.append(inspect.Parameter("text", kind, annotation=Annotated[Any, Depends(text)]))
    return inspect.Signature(parameters)
