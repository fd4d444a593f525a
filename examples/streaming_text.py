r"""A text that is continued word by word, by a tiny language model that is made as the service starts.

Make a key that may write, start, call::

    export KEY=$(python -c "import secrets; print(secrets.token_urlsafe(32))")
    MLGUARD_API_KEYS="alice=$KEY;write" uvicorn --no-server-header examples.streaming_text:app
    curl -N localhost:8000/complete -H "X-API-Key: $KEY" -H "Content-Type: application/json" \
        -d '{"text": "The data set"}'

The text is checked before the model sees it: what people cannot see, what is too long, and what looks like an
instruction to the model is refused. Each caller has so many words an hour. The words of a whole answer are reserved
before the first one is sent, and given back if they were not used, also when the client leaves half way.
"""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Annotated

import numpy as np
from fastapi import Depends, FastAPI, Request, Security
from fastapi.responses import StreamingResponse
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

from mlguard import APIKeyAuth, APIKeys, PromptScreen, RateLimit, Reservation, Text, harden

LONGEST = 40  # words of an answer


class WordModel:
    """Continues a text by the words that follow the last one in what it has read."""

    def __init__(self, *texts: str) -> None:
        self._next: dict[str, list[str]] = defaultdict(list)
        for text in texts:
            words = text.split()
            for word, following in pairwise(words):
                self._next[word].append(following)

    def words(self, text: str, most: int) -> Iterator[str]:
        """At most so many words, the same ones each time."""
        chance = np.random.default_rng([*text.encode()])
        word = text.rsplit(maxsplit=1)[-1] if text.strip() else ""
        for _ in range(most):
            word = str(chance.choice(self._next.get(word) or self._next["The"]))
            yield word


model = WordModel(*[load().DESCR for load in (load_breast_cancer, load_digits, load_iris, load_wine)])

app = FastAPI(title="Words")
harden(app)

caller = APIKeyAuth(APIKeys.from_env())
beginning = Text(max_length=500)
screened = PromptScreen(text=beginning)
steady = RateLimit("60/minute", by=caller)
words = RateLimit("400/hour", by=caller, name="words")


@app.post("/complete", dependencies=[Security(caller, scopes=["write"]), Depends(steady)])
async def complete(request: Request, text: Annotated[str, Depends(screened)]) -> StreamingResponse:
    """The words that follow, as server-sent events."""
    reservation = await words.reserve(request, LONGEST)  # here, where a refusal is still an answer of its own
    return StreamingResponse(events(text, reservation), media_type="text/event-stream")


async def events(text: str, reservation: Reservation) -> AsyncIterator[str]:
    """One event a word, and one at the end."""
    async with reservation:
        for word in model.words(text, LONGEST):
            reservation.used += 1
            yield f"data: {json.dumps({'word': word})}\n\n"
            if word.endswith("."):
                break
        yield "data: [DONE]\n\n"
