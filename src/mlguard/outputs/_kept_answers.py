"""Where answers are kept: in this process, bounded, or in the store that several processes share."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from starlette.responses import Response

from mlguard.errors import UnavailableError
from mlguard.store import Store

logger = logging.getLogger("mlguard")

_OVERHEAD = 400  # bytes that an answer takes in this process besides its body, about


class Kept(NamedTuple):
    """An answer of status 200: nothing of it was for one request only.

    Attributes:
        body: The bytes that are sent.
        media_type: What they are.
    """

    body: bytes
    media_type: str

    @classmethod
    def of(cls, answer: object) -> "Kept | None":
        """What may be kept of an answer, if anything."""
        if type(answer) is Response and answer.status_code == 200 and answer.media_type is not None:
            return cls(bytes(answer.body), answer.media_type)
        return None

    def respond(self, headers: list[tuple[bytes, bytes]]) -> Response:
        """The answer to one more request, with headers of its own."""
        response = Response(self.body, media_type=self.media_type)
        response.raw_headers.extend(headers)
        return response


class KeptAnswers(Protocol):
    """Answers by question. A question is a digest."""

    async def get(self, question: bytes) -> Kept | None:
        """The answer that is kept, if there is one."""

    async def put(self, question: bytes, answer: Kept) -> Kept:
        """Keep an answer, if there is none yet.

        Returns:
            The answer that is kept: another process may have been first.
        """


class AnswersInProcess:
    """The answers used last, as many as there is room for.

    Args:
        max_entries: How many.
        max_bytes: How large they are together, about. A larger one is not kept.
        ttl: Seconds for which one is kept.
        clock: Seconds, never going backwards.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, ttl: float, clock: Callable[[], float]) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._clock = clock
        self._lock = threading.Lock()  # a server may have several event loops
        self._answers: OrderedDict[bytes, tuple[Kept, float]] = OrderedDict()
        self._bytes = 0

    async def get(self, question: bytes) -> Kept | None:
        """The answer that is kept, if there is one."""
        with self._lock:
            answer, expires = self._answers.get(question, (None, 0.0))
            if answer is not None and expires <= self._clock():
                self._drop(question)
                return None
            if answer is not None:
                self._answers.move_to_end(question)
            return answer

    async def put(self, question: bytes, answer: Kept) -> Kept:
        """Keep an answer. Whoever asks here asked first: two are not at work on one question."""
        size = _size(answer)
        if size > self._max_bytes:
            return answer
        with self._lock:
            if question in self._answers:  # by another event loop, or of another one
                self._drop(question)
            while len(self._answers) >= self._max_entries or self._bytes + size > self._max_bytes:
                self._drop(next(iter(self._answers)))
            self._answers[question] = (answer, self._clock() + self._ttl)
            self._bytes += size
        return answer

    def _drop(self, question: bytes) -> None:
        answer, _ = self._answers.pop(question)
        self._bytes -= _size(answer)


def _size(answer: Kept) -> int:
    return len(answer.body) + _OVERHEAD


class AnswersInStore:
    """Answers that several processes share. The store forgets them, so how many there are is up to it.

    While it does not answer, every question is a new one.

    Args:
        store: Where.
        ttl: Seconds for which one is kept.
    """

    def __init__(self, store: Store, *, ttl: float) -> None:
        self._store = store
        self._ttl = ttl
        self._is_away = False

    async def get(self, question: bytes) -> Kept | None:
        """The answer that is kept, if there is one."""
        try:
            (record,) = await self._store.get(question)
        except UnavailableError as error:
            self._note_failure(error)
            return None
        if record is None:
            return None
        media_type, _, body = record.partition(b"\n")
        return Kept(body, media_type.decode())

    async def put(self, question: bytes, answer: Kept) -> Kept:
        """Keep an answer, if there is none yet."""
        record = answer.media_type.encode() + b"\n" + answer.body
        try:
            is_kept = await self._store.swap(question, None, record, self._ttl)
        except UnavailableError as error:
            self._note_failure(error)
            return answer
        self._is_away = False  # here alone: one without room lets itself be read
        if is_kept:
            return answer
        return await self.get(question) or answer  # None where it has expired since

    def _note_failure(self, error: UnavailableError) -> None:
        if not self._is_away:
            logger.error("repeat_cache goes on without its store, and keeps no answer: %s", error.reason)
        self._is_away = True
