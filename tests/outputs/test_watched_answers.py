"""What guards can do with the answer of the endpoint behind them: look at its scores, and have the label alone sent."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from mlguard import (
    EventStream,
    Features,
    ImageInput,
    OpenInferenceAnswer,
    QueryBudget,
    RateLimit,
    RateLimitedError,
    Text,
    harden,
    repeat_cache,
    truncate_output,
)
from mlguard._guard import Control, Guard, RequestMemory, _Refusal
from mlguard._order import once
from mlguard.monitoring._refusals import refusal_of

SCORES = np.array([[0.1234, 0.8766], [0.9, 0.1]])
CLASSES = ["cat", "dog"]


class Watch(Guard):
    """A guard that looks at scores, and has the label alone sent where it was told to."""

    control = Control.INPUT_VALIDATION

    def __init__(self, *, label_only: bool = False) -> None:
        self.seen: list[np.ndarray] = []
        self.label_only = label_only

    async def __call__(self, conn: HTTPConnection) -> None:
        memory = RequestMemory.of(conn.scope)
        memory.watchers.append(self.seen.append)
        memory.label_only = self.label_only


def service(watch: Watch, returned: Any, **settings: Any) -> FastAPI:
    app = FastAPI()
    harden(app)

    @app.post("/predict", dependencies=[Depends(watch)])
    @truncate_output(**settings)
    def predict() -> Any:
        return returned

    return app


def send(app: FastAPI, method: str, path: str, **more: Any) -> httpx.Response:
    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.request(method, path, **more)

    return asyncio.run(call())


def ask(app: FastAPI) -> Any:
    response = send(app, "POST", "/predict")
    assert response.status_code == 200, response.text
    return response.json()


def test_a_guard_sees_the_scores_before_they_are_truncated() -> None:
    """All digits of them, although the caller gets two."""
    watch = Watch()
    assert ask(service(watch, {"probabilities": SCORES})) == {"probabilities": [[0.12, 0.88], [0.9, 0.1]]}
    assert [seen.tolist() for seen in watch.seen] == [SCORES.tolist()]


@pytest.mark.parametrize(
    ("answer", "settings", "seen"),
    [
        ({"probabilities": [0.25, 0.75]}, {}, [[[0.25, 0.75]]]),
        ({"price": [1.5, 2.5, 3.5]}, {"scores": "price", "significant": 3}, [[1.5, 2.5, 3.5]]),
        ({"price": [1.5, 2.5, 3.5]}, {"scores": "price", "bins": [0, 2, 4]}, [[1.5, 2.5, 3.5]]),
        ({"of": [{"p": [0.5, 0.5]}, {"p": [1.0, 0.0]}]}, {"scores": "of.*.p"}, [[[0.5, 0.5]], [[1.0, 0.0]]]),
        ({"probabilities": [0.25, 0.75]}, {"answer": OpenInferenceAnswer(model_name="m")}, [[[0.25, 0.75]]]),
        (SCORES, {}, [SCORES.tolist()]),
        ({"label": "cat"}, {}, []),
        ({"probabilities": "none"}, {}, []),
    ],
)
def test_scores_are_seen_wherever_they_are(answer: Any, settings: dict[str, Any], seen: Any) -> None:
    """One row is a batch of one; a regression has one dimension; what holds no scores is not shown."""
    watch = Watch()
    ask(service(watch, answer, **settings))
    assert [each.tolist() for each in watch.seen] == seen


@pytest.mark.parametrize("classes", [2, 40])
def test_scores_that_do_not_leave_are_not_seen(classes: int) -> None:
    """NaN would be evidence of nothing, or stay in a sum for ever."""
    watch = Watch()
    scores = np.full((1, classes), 1 / classes)
    scores[0, 1] = np.nan
    assert send(service(watch, {"probabilities": scores}), "POST", "/predict").status_code == 500
    assert watch.seen == []


@pytest.mark.parametrize("settings", [{}, {"top_k": 1}, {"labels": CLASSES}, {"exact": True}])
def test_the_label_alone_has_one_form_however_the_scores_come(settings: dict[str, Any]) -> None:
    """Of one row a label, of a batch of one a list of one: as an array, or as lists."""
    label = "dog" if "labels" in settings else 1
    for row in ([0.25, 0.75], np.array([0.25, 0.75])):
        assert ask(service(Watch(label_only=True), {"probabilities": row}, **settings)) == {"probabilities": label}
    for batch in ([[0.25, 0.75]], np.array([[0.25, 0.75]])):
        assert ask(service(Watch(label_only=True), {"probabilities": batch}, **settings)) == {"probabilities": [label]}


def test_who_watches_can_neither_change_nor_stop_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    """A monitor that fails is logged, and the caller gets what it would have got."""

    class Meddle(Watch):
        async def __call__(self, conn: HTTPConnection) -> None:
            def meddle(scores: np.ndarray) -> None:
                scores[:] = 0.0

            RequestMemory.of(conn.scope).watchers.append(meddle)

    scores = SCORES.copy()
    assert ask(service(Meddle(), {"probabilities": scores})) == {"probabilities": [[0.12, 0.88], [0.9, 0.1]]}
    assert "a monitor could not look at the scores" in caplog.text
    assert scores.flags.writeable


@pytest.mark.parametrize(
    ("answer", "settings", "left"),
    [
        ({"probabilities": SCORES, "t": 0.123}, {"labels": CLASSES}, {"probabilities": ["dog", "cat"], "t": 0}),
        ({"probabilities": SCORES}, {"policy": "open"}, {"probabilities": [1, 0]}),
        ({"price": [1234.5, 0.0678]}, {"scores": "price", "significant": 3}, {"price": [1000.0, 0.07]}),
        ({"price": [1.3]}, {"scores": "price", "bins": [0, 2, 4]}, {"price": [1.0]}),
        ({"label": "cat"}, {}, {"label": "cat"}),
    ],
)
def test_a_guard_has_the_label_alone_sent(answer: Any, settings: dict[str, Any], left: Any) -> None:
    """Whatever the policy of the endpoint; of a regression, one digit or the bin."""
    assert ask(service(Watch(label_only=True), answer, **settings)) == left


def test_an_open_inference_answer_can_be_the_label_alone() -> None:
    """In the form of that protocol."""
    app = service(
        Watch(label_only=True), SCORES, labels=CLASSES, answer=OpenInferenceAnswer(model_name="m", output="kind")
    )
    (output,) = (ask(app))["outputs"]
    assert output["data"] == ["dog", "cat"]


def test_kept_answers_are_not_given_to_who_gets_the_label_alone() -> None:
    """Nor the other way round: the same question has another answer then."""
    app = FastAPI()
    harden(app)
    watch = Watch()

    @app.post("/predict", dependencies=[Depends(watch)])
    @repeat_cache(key="a key for repeated answers, 32 B", model_version="1")
    @truncate_output(labels=CLASSES)
    def predict() -> Any:
        return {"probabilities": SCORES}

    full = {"probabilities": [[0.12, 0.88], [0.9, 0.1]]}
    assert ask(app) == full
    watch.label_only = True
    assert ask(app) == {"probabilities": ["dog", "cat"]}
    watch.label_only = False
    assert ask(app) == full


def test_a_stream_is_watched_item_by_item_and_coarse_from_the_middle_on() -> None:
    """A monitor that has seen enough of a stream has its rest sent as labels."""
    app = FastAPI()
    harden(app)

    class Stop(Watch):
        async def __call__(self, conn: HTTPConnection) -> None:
            memory = RequestMemory.of(conn.scope)

            def look(scores: np.ndarray) -> None:
                self.seen.append(scores)
                memory.label_only = True

            async def decide() -> None:
                memory.watchers.append(look)

            await once(conn, self, decide)

    watch = Stop()

    @app.post("/predict", dependencies=[Depends(watch)], response_class=EventStream)
    @truncate_output(labels=CLASSES)
    def predict() -> Iterator[Any]:
        yield {"probabilities": [0.25, 0.75]}
        yield {"probabilities": [0.25, 0.75]}

    text = send(app, "POST", "/predict").text
    assert len(watch.seen) == 2
    assert text.count("0.75") == 1
    assert '"dog"' in text


def in_memory(use: Callable[[RequestMemory], None]) -> Any:
    """A middleware that is handed the memory of each request, before and after."""

    class Middleware:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            memory = RequestMemory.of(scope)
            memory.timings = {}
            await self.app(scope, receive, send)
            use(memory)

    return Middleware


class Slow(Guard):
    """Waits for one turn of the loop."""

    control = Control.ADDRESS

    async def __call__(self, conn: HTTPConnection) -> None:
        async def decide() -> None:
            await asyncio.sleep(0)

        return await once(conn, self, decide)


def test_a_middleware_learns_how_long_each_guard_took_and_which_one_refused() -> None:
    """Guards that wait and guards that do not, and the refusal that was answered."""
    found: list[Any] = []

    def look(memory: RequestMemory) -> None:
        refusal = memory.refused_with
        found.append((refusal_of(memory)[0], type(refusal), {type(guard) for guard in memory.timings or ()}))
        assert all(taken > 0 for taken in (memory.timings or {}).values())

    app = FastAPI()
    app.add_middleware(in_memory(look))
    harden(app)
    limit = RateLimit("1/minute")

    @app.get("/")
    def home(slow: Annotated[None, Depends(Slow())], _: Annotated[None, Depends(limit)]) -> None: ...

    assert [send(app, "GET", "/").status_code for _ in range(2)] == [200, 429]
    (nobody, nothing, both), (who, what, _) = found
    assert (nobody, nothing, both) == (None, type(None), {Slow, RateLimit})
    assert (who, what) == (limit, RateLimitedError)


def test_a_middleware_learns_what_was_read_and_what_is_left() -> None:
    """Rows that were read, or why they were not, and the budget after them."""
    found: list[Any] = []
    app = FastAPI()
    app.add_middleware(in_memory(lambda memory: found.append((dict(memory.decisions), dict(memory.budget_left)))))
    harden(app)
    rows, text, image = (
        Features(columns=2, low=0, high=9, max_rows=9),
        Text(max_length=9),
        ImageInput(max_bytes=9, max_pixels=9),
    )
    budget = QueryBudget("10/day", by=lambda conn: "anybody", cost=rows, name="rows of a day")

    @app.post("/rows", dependencies=[Depends(budget)])
    def rows_of(x: Annotated[Any, Depends(rows)]) -> int:
        return len(x)

    @app.post("/text")
    def text_of(x: Annotated[str, Depends(text)]) -> int:
        return len(x)

    @app.post("/image")
    def image_of(x: Annotated[Any, Depends(image)]) -> int:
        return len(x)

    assert send(app, "POST", "/rows", json={"features": [[1, 2], [3, 4], [5, 6]]}).json() == 3
    assert send(app, "POST", "/rows", json={"features": [[1, 2], [3]]}).status_code == 422
    assert send(app, "POST", "/text", json={"text": "hello"}).json() == 5
    assert send(app, "POST", "/image", content=b"?", headers={"content-type": "image/png"}).status_code == 422
    (read, left), (ragged, _), (said, _), (shown, _) = found
    assert read[rows].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert left == {"rows of a day": 7}
    assert (type(ragged[rows]), said[text], type(shown[image])) == (_Refusal, "hello", _Refusal)
