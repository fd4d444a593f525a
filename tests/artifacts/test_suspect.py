"""A suspect is asked over a real socket, by what any of its callers may send."""

import gzip
import hashlib
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from sklearn.datasets import load_iris
from sklearn.neighbors import KNeighborsClassifier

from mlguard import (
    ConfigurationError,
    Features,
    SuspectService,
    SuspectServiceError,
    Watermark,
    harden,
    truncate_output,
)
from tests.servers import serving

X, Y = load_iris(return_X_y=True)
NAMES = ["setosa", "versicolor", "virginica"]
MARK = Watermark.generate(hashlib.sha256(b"of the tests").digest(), like=X, classes=NAMES, size=30)
MODEL = MARK.embed(KNeighborsClassifier(1), X, [NAMES[y] for y in Y])
ROWS = X[:2]

BOMB = gzip.compress(gzip.compress(bytes(1 << 26)))  # 64 MiB

app = FastAPI()
harden(app)


@app.post("/predict")
@truncate_output(top_k=2, scores="probabilities", labels=MODEL.classes_.tolist(), decimals=2)
def predict(x: Annotated[np.ndarray, Depends(Features(columns=4, low=0.0, high=10.0, max_rows=50))]) -> dict[str, Any]:
    return {"probabilities": MODEL.predict_proba(x)}


@app.post("/rows")
async def rows(request: Request) -> dict[str, Any]:
    return {"version": [1], "answers": [{"best": NAMES[at]} for at in range(len((await request.json())["rows"]))]}


@app.post("/answers/{which}")
def answers(which: str) -> Any:
    return {
        "plain": JSONResponse([1, 2]),
        "scores": JSONResponse({"n": 2, "scores": [[0.5, 0.5], [1.0, 0.0]]}),
        "empty": JSONResponse({"labels": [[], {}]}),
        "none": JSONResponse({"labels": 7}),
        "number": JSONResponse(7),
        "html": PlainTextResponse("<h1>hello</h1>"),
        "refused": JSONResponse({}, 429),
        "huge": PlainTextResponse(b"x" * (1 << 22) + b"x"),
        "bomb": Response(BOMB, headers={"Content-Encoding": "gzip, gzip"}),
        "elsewhere": RedirectResponse("/answers/plain", 307),
    }[which]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(app) as address:
        yield address


def test_a_copy_is_told_from_its_answers(url: str) -> None:
    """Through the guards of the service that runs it, the copied model matches every trigger."""
    with httpx.Client() as client:
        evidence = MARK.verify(SuspectService(f"{url}/predict", client))
    assert evidence.matches == evidence.asked == 30
    assert evidence.p_value < 1e-14


@pytest.mark.parametrize(("which", "labels"), [("plain", [1, 2]), ("scores", [None, None]), ("empty", [None, None])])
def test_labels_are_found(which: str, labels: list[Any], url: str) -> None:
    """The first list of an answer has the labels; what is none counts as no answer."""
    with httpx.Client() as client:
        assert SuspectService(f"{url}/answers/{which}", client)(ROWS) == labels


def test_other_services_speak_otherwise(url: str) -> None:
    """How rows are sent and where labels are, can be said."""
    with httpx.Client() as client:
        suspect = SuspectService(
            f"{url}/rows",
            client,
            send=lambda rows: {"rows": rows},
            read=lambda answer: [one["best"] for one in answer["answers"]],
        )
        assert suspect(ROWS) == ["setosa", "versicolor"]


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("none", "no labels"),
        ("number", "no labels"),
        ("html", "than JSON"),
        ("refused", "429"),
        ("huge", "larger"),
        ("bomb", "compressed"),
        ("elsewhere", "307"),
    ],
)
def test_what_is_no_answer_is_no_evidence(which: str, said: str, url: str) -> None:
    """An answer without labels stops the test, and is not quoted."""
    with httpx.Client(follow_redirects=True) as client, pytest.raises(SuspectServiceError, match=said) as raised:
        SuspectService(f"{url}/answers/{which}", client)(ROWS)
    assert "hello" not in str(raised.value)


def test_an_answer_that_drips_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that sends a byte now and then keeps within every time-out of the client."""
    clock = iter(range(100))
    monkeypatch.setattr("mlguard.artifacts.suspect.monotonic", lambda: next(clock))

    def drip() -> Iterator[bytes]:
        while True:
            yield b" "

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=drip()))
    with httpx.Client(transport=transport) as client:
        with pytest.raises(SuspectServiceError, match="longer than 3 seconds"):
            SuspectService("http://suspect", client, within=3)(ROWS)
        with pytest.raises(ConfigurationError, match="within"):
            SuspectService("http://suspect", client, within=0)
    assert next(clock) == 5
