"""DPNoise: OpenDP's mechanisms at the scale that a stated sensitivity asks for."""

import asyncio
import math
import subprocess
import sys
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI
from numpy.typing import NDArray
from tests.asgi import Answer, call

from mlguard import (
    ConfigurationError,
    DPNoise,
    EpsilonLedger,
    Features,
    MemoryStore,
    add_noise,
    harden,
    repeat_cache,
    truncate_output,
)

KEY = "Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jd"
Rows = NDArray[np.float64]


@pytest.mark.parametrize(
    ("epsilon", "sensitivity", "scale"), [(40.0, 2.0, 0.05), (1.0, 2.0, 2.0), (0.5, 2, 4.0), (3, 0.1, 0.1 / 3)]
)
def test_the_arithmetic_of_laplace(epsilon: float, sensitivity: float, scale: float) -> None:
    """Scale is sensitivity over epsilon, never less; probabilities at scale 0.05 are an epsilon of 40."""
    noise = DPNoise(epsilon=epsilon, sensitivity=sensitivity)
    assert noise.scale == pytest.approx(scale, rel=1e-9)
    assert (noise.epsilon, noise.delta) == (epsilon, 0.0)
    assert noise._measurement.map(float(sensitivity)) <= epsilon


def test_the_arithmetic_of_gauss() -> None:
    """OpenDP finds a scale at which epsilon and delta hold, not much above the smallest."""
    noise = DPNoise(epsilon=0.5, sensitivity=2**0.5, mechanism="gaussian", delta=1e-6)
    epsilon, delta = noise._measurement.map(2**0.5)
    assert epsilon <= 0.5
    assert delta <= 1e-6
    classic = 2**0.5 * math.sqrt(2 * math.log(1.25 / 1e-6)) / 0.5  # Dwork and Roth, 2014, theorem 3.22
    assert classic / 2 < noise.scale < classic


@pytest.mark.parametrize("options", [{}, {"mechanism": "gaussian", "delta": 1e-6}], ids=str)
def test_noise_is_fresh_and_of_its_size(options: dict[str, Any]) -> None:
    """It is drawn anew for each number and each time, around the exact scores."""
    noise = DPNoise(epsilon=2.0, sensitivity=0.2, **options)
    scores = np.full((200, 5), 0.25)
    one, other = noise.add(scores, {}), noise.add(scores, {})
    assert one.shape == scores.shape
    assert len(np.unique([one, other])) == 2_000
    assert (scores == 0.25).all()
    spread = noise.scale * (2**0.5 if not options else 1.0)
    assert np.std([one, other]) == pytest.approx(spread, rel=0.2)
    assert np.mean([one, other]) == pytest.approx(0.25, abs=spread / 5)


class Service:
    """A model with differentially private answers, behind a ledger, with and without repeat_cache."""

    def __init__(self, limit: str = "2/ever", *, sync: bool = False, max_entries: int = 100, **options: Any) -> None:
        self.ledger = EpsilonLedger(limit, store=MemoryStore())
        self.runs = 0
        self.rows = 1
        iris = Features(columns=2, low=-9, high=9, max_rows=100)
        noise = add_noise(DPNoise(epsilon=0.5, sensitivity=2.0), ledger=self.ledger, **options)

        async def predict(x: Annotated[Rows, Depends(iris)]) -> Any:
            return self.predict(len(x))

        def predict_in_thread(x: Annotated[Rows, Depends(iris)]) -> Any:
            return self.predict(len(x))

        endpoint = predict_in_thread if sync else predict
        self.app = FastAPI()
        harden(self.app)
        self.app.post("/fresh")(truncate_output(decimals=6)(noise(endpoint)))
        kept = repeat_cache(key=KEY, model_version="1", max_entries=max_entries)(
            truncate_output(decimals=6)(noise(endpoint))
        )
        self.app.post("/kept")(kept)

    def predict(self, rows: int) -> Any:
        self.runs += 1
        return {"probabilities": np.full((rows * self.rows, 2), 0.5)}

    def ask(self, path: str = "/fresh", rows: int = 1) -> Answer:
        body = b'{"features": [' + b",".join([b"[1, 2]"] * rows) + b"]}"
        return call(self.app, path, headers=[(b"content-type", b"application/json")], chunks=[body])


@pytest.mark.parametrize("sync", [True, False])
def test_each_answer_is_charged_before_it_is_computed(*, sync: bool) -> None:
    """Until the ledger is spent: then the model is not asked any more."""
    service = Service(sync=sync, renormalise=False)
    answers = [service.ask() for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 4 + [429]
    assert [answer.headers["epsilon-remaining"] for answer in answers] == ["1.5", "1", "0.5", "0", "0"]
    assert len({answer.body for answer in answers}) == 5
    assert service.runs == 4
    assert answers[4].json["type"] == "urn:mlguard:problem:privacy-budget-exceeded"


def test_a_batch_is_charged_by_its_rows() -> None:
    """All of them or none."""
    service = Service()
    assert [service.ask(rows=rows).status for rows in (3, 2, 1, 1)] == [200, 429, 200, 429]


def test_a_repeat_costs_nothing() -> None:
    """The same answer once more tells nothing new, also when the ledger is spent."""
    service = Service("0.5/ever")
    answers = [service.ask("/kept") for _ in range(5)]
    assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
    assert service.ask("/kept", rows=2).status == 429
    assert service.ask("/kept").status == 200
    assert service.runs == 1


def test_a_repeat_that_was_forgotten_is_charged_again() -> None:
    """Who fills the memory with other questions pays for them, and for the fresh noise that comes of it."""
    service = Service("2/ever", max_entries=1)
    statuses = [service.ask("/kept", rows=rows).status for rows in (1, 2, 1, 1, 2)]
    assert statuses == [200, 200, 200, 200, 429]
    assert service.runs == 3


def test_more_rows_than_were_charged_do_not_leave() -> None:
    """An endpoint cannot answer more than it was asked."""
    service = Service()
    service.rows = 2
    assert service.ask().status == 500


@pytest.mark.parametrize(("scores", "status"), [([0.5], 200), ([0.5, 0.5], 500), ([[0.5, 0.5]], 200)])
def test_predictions_for_rows_that_were_not_charged_do_not_leave(scores: Any, status: int) -> None:
    """Where rows come as columns nobody can count them, so an answer of several numbers says what they are."""
    ledger = EpsilonLedger("9/ever", store=MemoryStore())
    app = FastAPI()
    harden(app)

    @app.post("/")
    @truncate_output(decimals=6)
    @add_noise(DPNoise(epsilon=0.5, sensitivity=2.0), ledger=ledger, renormalise=False)
    def predict(ages: list[float], incomes: list[float]) -> Any:
        return {"probabilities": scores}

    body = b'{"ages": [30, 40], "incomes": [1, 2]}'
    assert call(app, "/", headers=[(b"content-type", b"application/json")], chunks=[body]).status == status


def test_a_failure_stays_charged() -> None:
    """Whether it fails may depend on the data."""
    service = Service("0.5/ever")
    service.rows = 0
    assert service.ask().status == 200  # no rows: nothing has noise
    assert service.ask().status == 429


def test_by_hand_there_is_nobody_to_charge() -> None:
    """So the model is not asked."""

    @add_noise(DPNoise(epsilon=1.0, sensitivity=2.0), ledger=EpsilonLedger("1/ever", store=MemoryStore()))
    def charged(x: float) -> Any:
        raise AssertionError("it was asked")

    with pytest.raises(ConfigurationError, match="nobody to charge"):
        asyncio.run(charged(2.0))


def test_rows_longer_than_the_sensitivity_says_do_not_leave() -> None:
    """Probabilities are checked, as 2 holds for nothing else; a little off is corrected before there is noise."""
    given: list[Rows] = []

    class Spy(DPNoise):
        def add(self, scores: Rows, arguments: Any) -> Rows:
            given.append(scores)
            return scores

    answers = iter([[0.5, 0.6], [-0.1, 1.1], [0.5, 0.5005]])
    app = FastAPI()
    harden(app)

    @app.get("/")
    @truncate_output(decimals=6)
    @add_noise(Spy(epsilon=1.0, sensitivity=2.0), ledger=EpsilonLedger("3/ever", store=MemoryStore()))
    def predict() -> Any:
        return {"probabilities": next(answers)}

    assert [call(app, "/", method="GET").status for _ in range(3)] == [500, 500, 200]
    assert len(given) == 1
    assert given[0].sum() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epsilon": 0}, "epsilon"),
        ({"epsilon": math.inf}, "epsilon"),
        ({"epsilon": True}, "epsilon"),
        ({"epsilon": "1"}, "epsilon"),
        ({"sensitivity": 0.0}, "sensitivity"),
        ({"sensitivity": math.nan}, "sensitivity"),
        ({"mechanism": "exponential"}, "laplace"),
        ({"mechanism": "gaussian"}, "delta"),
        ({"mechanism": "gaussian", "delta": 0.0}, "delta"),
        ({"mechanism": "gaussian", "delta": 1.0}, "below 1"),
        ({"delta": 1e-6}, "Laplace noise has none"),
    ],
    ids=str,
)
def test_settings_that_cannot_work(options: dict[str, Any], says: str) -> None:
    """They stop the start-up, and say which they are."""
    with pytest.raises(ConfigurationError, match=says):
        DPNoise(**{"epsilon": 1.0, "sensitivity": 2.0, **options})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key": KEY}, "takes no key"),
        ({"input_decimals": 2}, "takes no key"),
        ({"model_version": "1"}, "takes no key"),
        ({"keep_argmax": True}, "exact best class"),
        ({"ledger": "1/ever"}, "is an EpsilonLedger"),
        ({}, "answers are counted"),
        ({"ledger": EpsilonLedger("0.999999/ever", store=MemoryStore())}, "less than one answer costs"),
    ],
    ids=str,
)
def test_options_that_would_break_the_promise(options: dict[str, Any], says: str) -> None:
    """Noise that a key repeats, and the best class as it was, are not private."""
    with pytest.raises(ConfigurationError, match=says):
        add_noise(DPNoise(epsilon=1.0, sensitivity=2.0), **options)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenDP is not installed."""
    monkeypatch.setitem(sys.modules, "opendp.prelude", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlguard\[opendp\]'"):
        DPNoise(epsilon=1.0, sensitivity=2.0)


def test_it_is_not_imported_before() -> None:
    """Importing mlguard loads nothing of it."""
    code = "import sys, mlguard; sys.exit('opendp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
