"""Drift: found when there is some, over when it is over, and never a reason to refuse anybody."""

import json
import logging
import os
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse

from mlguard.auth.api_keys import APIKey, APIKeyAuth, APIKeys
from mlguard.errors import ConfigurationError
from mlguard.hardening import harden
from mlguard.inputs.features import Features
from mlguard.monitoring import _drift_thresholds
from mlguard.monitoring import drift as drift_file
from mlguard.monitoring._drift_watch import pace_of
from mlguard.monitoring.drift import DriftMonitor
from mlguard.monitoring.drift_reference import DriftReference
from mlguard.monitoring.events import logger as audit
from mlguard.outputs.truncation import truncate_output
from mlguard.traffic.budget import QueryBudget
from tests.asgi import Answer, call
from tests.clock import Clock
from tests.servers import wait_until

RNG = np.random.default_rng(11)
COLUMNS = 4
REFERENCE = DriftMonitor.learn(RNG.normal(size=(3_000, COLUMNS)))
ROWS = Features(columns=COLUMNS, low=-20, high=20, max_rows=10_000)
Event = tuple[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds for tests need not be exact to the last digit."""
    monkeypatch.setattr(_drift_thresholds, "_MOST_DRAWS", 2_000)


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """The events so far."""
    found: list[Event] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            facts: Any = record.__dict__
            found.append((facts["event"], facts["facts"]))

    listener, level = Listener(), audit.level
    audit.addHandler(listener)
    audit.setLevel(logging.INFO)
    yield found
    audit.removeHandler(listener)
    audit.setLevel(level)


def monitor(**settings: Any) -> DriftMonitor:
    return DriftMonitor(ROWS, **{"reference": REFERENCE, "window": 200, "clock": Clock(), **settings})


def window(drift: DriftMonitor, rows: int = 200, *, column: int = 0, shift: float = 0.0, width: float = 1.0) -> None:
    """One window of traffic, in which a column is shifted or wider."""
    sent = RNG.normal(size=(rows, COLUMNS))
    sent[:, column] = sent[:, column] * width + shift
    drift._add(sent)
    drift.judge()


def test_traffic_like_the_reference_causes_no_event(events: list[Event]) -> None:
    """A hundred windows of the same distribution are none; the last distances can be read."""
    drift = monitor(false_alarms=0.001)
    for _ in range(100):
        window(drift)
    assert events == []
    assert drift.drifting == {}
    numbers = {(one.name, one.labels.get("measure")): one.value for one in drift.measurements()}
    assert numbers["mlguard_drift_windows", None] == 100
    assert 0 < numbers["mlguard_drift_distance", "psi"] < 0.3
    assert numbers["mlguard_drift_columns", None] == numbers["mlguard_drift_unreadable", None] == 0


def test_a_sudden_shift_is_found_at_once_and_said_once(events: list[Event]) -> None:
    """One event names the column, the measure, the value and the threshold, and no further one comes while it lasts."""
    drift = monitor()
    for _ in range(8):
        window(drift)
    for _ in range(5):
        window(drift, column=2, shift=2.0)
    (event, facts) = events[0]
    assert event == "drift.found"
    assert (facts["monitor"], facts["of"], facts["feature"], facts["features"]) == ("drift", "input", 2, 1)
    assert facts["pace"] == "sudden"
    assert facts["measure"] in {"psi", "ks"}
    assert facts["value"] > facts["threshold"] > 0
    assert facts["rows"] == 200
    assert len(events) == 1
    assert drift.drifting == {"input": (2,)}


def test_it_is_over_when_it_is_over(events: list[Event]) -> None:
    """When traffic is as before for a while, one event says so; then it can be found again."""
    drift = monitor()
    for _ in range(3):
        window(drift, shift=2.0)
    for _ in range(12):
        window(drift)
    assert [event for event, _ in events] == ["drift.found", "drift.over"]
    assert events[1][1]["feature"] == 0
    assert "pace" not in events[1][1]
    assert drift.drifting == {}
    window(drift, shift=2.0)
    assert events[2][0] == "drift.found"


def test_a_slow_change_is_called_slow(events: list[Event]) -> None:
    """A column that moves a little from window to window is found, and said to be slow."""
    drift = monitor(window=1_000)
    for _ in range(8):
        window(drift, 1_000)
    for step in range(20):
        window(drift, 1_000, shift=0.06 * step)
    assert events[0][1]["pace"] == "slow"


def test_a_change_too_small_for_one_window_shows_in_several(events: list[Event]) -> None:
    """A shift that no single window would tell is found in the last windows together."""
    drift = monitor(smallest=0.0)
    for _ in range(20):
        window(drift, shift=0.2)
    assert events[0][1]["rows"] > 200


def test_what_is_sure_and_small_is_no_drift(events: list[Event]) -> None:
    """Below ``smallest`` nothing is said, however many rows say it."""
    drift = monitor(smallest=0.5)
    for _ in range(20):
        window(drift, shift=0.5)
    assert events == []


def test_a_constant_has_no_distance_by_chance(events: list[Event]) -> None:
    """Where ``smallest`` is 0 too, the same constant is no drift, and the column that did change is named."""
    rows = RNG.normal(size=(1_000, COLUMNS))
    rows[:, 0] = 3.0
    drift = monitor(reference=DriftMonitor.learn(rows), smallest=0, false_alarms=0.001)
    drift._add(rows[:200])
    drift.judge()
    assert events == []
    rows[:, 2] += 3
    drift._add(rows[:200])
    drift.judge()
    assert [(facts["feature"], facts["features"]) for _, facts in events] == [(2, 1)]


def test_a_wider_distribution_is_drift(events: list[Event]) -> None:
    """Not only the middle of a column may change."""
    drift = monitor()
    window(drift, column=1, width=3.0)
    assert events[0][1]["feature"] == 1


def test_many_columns_at_once_are_one_event(events: list[Event]) -> None:
    """Where everything changes, one event says how many columns it is."""
    drift = monitor()
    drift._add(RNG.normal(size=(200, COLUMNS)) + 3)
    drift.judge()
    assert [(event, facts["features"]) for event, facts in events] == [("drift.found", COLUMNS)]


def test_time_ends_a_window_that_has_enough_rows(events: list[Event]) -> None:
    """After ``seconds``, a quarter of the rows is enough; with fewer, the window goes on."""
    clock = Clock()
    drift = monitor(seconds=60, clock=clock)
    window(drift, 49, shift=3.0)
    clock.now = 1_000.0
    drift.judge()
    assert events == []
    window(drift, 1, shift=3.0)
    assert [facts["rows"] for _, facts in events] == [50]


def test_a_clock_that_goes_backwards_stops_no_window(events: list[Event]) -> None:
    """The time of the window is counted from the earlier time on."""
    clock = Clock(1e9)
    drift = monitor(seconds=60, clock=clock)
    window(drift, 100, shift=3.0)
    clock.now = 5.0
    drift.judge()
    assert events == []
    clock.now = 66.0
    drift.judge()
    assert len(events) == 1


def test_windows_that_nobody_judges_take_no_more_memory() -> None:
    """While no thread looks, windows become longer and not more, and no row is lost."""
    drift = monitor(window=50)
    for _ in range(100):
        drift._add(RNG.normal(size=(50, COLUMNS)))
    watch = drift._watches["input"]
    assert len(watch._unjudged) == 16
    assert sum(one.rows for one in watch._unjudged) + watch._rows == 5_000


@pytest.mark.parametrize("cuts", [[1], [59], [1, 2, 3, 30, 31], [*range(1, 60)], [20, 40]])
def test_rows_one_by_one_are_counted_as_rows_together(cuts: list[int]) -> None:
    """In whatever parts they come, with missing values, and where the model writes into its input."""
    rows, usual = (np.where(RNG.random((count, COLUMNS)) < 0.1, np.nan, 1.0) for count in (60, 300))
    rows, usual = rows * RNG.normal(size=rows.shape), usual * RNG.normal(size=usual.shape)
    reference = DriftMonitor.learn(usual)
    together, apart = [monitor(reference=reference, window=60) for _ in range(2)]
    together._add(rows)
    for part in np.split(rows, cuts):
        given = part.copy()
        apart._add(given)
        given[:] = 0.0
    (expected,), (found,) = (one._watches["input"]._unjudged for one in (together, apart))
    assert expected.rows == found.rows == 60
    assert expected.above.tolist() == found.above.tolist()


def test_rows_from_many_threads_are_counted_once() -> None:
    """No update is lost, of single rows and of batches."""
    drift = monitor(window=1_000_000)

    def count() -> None:
        for _ in range(200):
            drift._add(np.zeros((1, COLUMNS)))
            drift._add(np.zeros((7, COLUMNS)))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drift._watches["input"]._rows == 8 * 200 * 8


# In an app ------------------------------------------------------------------------------------------------------------


def body(rows: Any) -> bytes:
    return json.dumps({"features": np.asarray(rows).tolist()}).encode()


def post(app: Any, rows: Any, *headers: tuple[bytes, bytes]) -> Answer:
    return call(app, chunks=[body(rows)], headers=[(b"content-type", b"application/json"), *headers])


def make_app(drift: DriftMonitor, scores: Any, **policy: Any) -> FastAPI:
    """An app whose model gives these scores."""
    app = FastAPI()
    harden(app)

    @app.post("/predict", dependencies=[Depends(drift)])
    @truncate_output(**(policy or {"decimals": 2}))
    def predict(x: Annotated[Any, Depends(ROWS)]) -> Any:
        return {"probabilities": scores(x)}

    return app


def test_requests_are_watched_and_answered_as_before(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    """From the body to the event: batches and single rows are counted, and the answers are the model's."""
    monkeypatch.setattr(drift_file, "_LOOK", 0.01)
    drift = monitor(window=50)
    app = make_app(drift, lambda x: np.full((len(x), 2), 0.5))
    for rows in ([[9.0] * COLUMNS], [[9.0] * COLUMNS] * 49):
        assert post(app, rows).json == {"probabilities": [[0.5, 0.5]] * len(rows)}
    wait_until(lambda: events)  # a thread judges by itself
    assert events[0][1]["features"] == COLUMNS


def test_scores_classes_and_latency_are_watched(events: list[Event]) -> None:
    """A model that becomes unsure, prefers another class, and takes longer: an event each, by name."""
    likely = RNG.dirichlet([8, 1, 1], 2_000)
    reference = DriftMonitor.learn(
        RNG.normal(size=(2_000, COLUMNS)), scores=likely, latency=RNG.uniform(1e-7, 1e-6, 500)
    )
    drift = DriftMonitor(ROWS, reference=reference, window=50, seconds=0.5, name="iris", clock=Clock())
    app = make_app(drift, lambda x: np.tile([0.3, 0.36, 0.34], (len(x), 1)))
    for _ in range(50):
        assert post(app, RNG.normal(size=(2, COLUMNS))).status == 200
    drift.judge()
    found = {facts["of"]: facts for event, facts in events}
    assert found.keys() == {"entropy", "classes", "latency"} or found.keys() == {"confidence", "classes", "latency"}
    assert all(facts["monitor"] == "iris" and facts["feature"] is None for facts in found.values())
    assert drift.drifting == {"entropy": (0,), "confidence": (0,), "classes": (0,), "latency": (0,)}


def test_a_regression_is_watched_by_its_value(events: list[Event]) -> None:
    """Without classes, the value itself is what drifts."""
    reference = DriftMonitor.learn(RNG.normal(size=(500, COLUMNS)), scores=RNG.normal(size=500))
    drift = DriftMonitor(ROWS, reference=reference, window=50, clock=Clock())
    app = make_app(drift, lambda x: x[:, 0] * 0 + 7.0, significant=2)
    post(app, RNG.normal(size=(50, COLUMNS)))
    drift.judge()
    assert [facts["of"] for _, facts in events] == ["value"]
    assert drift.drifting == {"value": (0,)}


def test_one_row_alone_is_a_row(events: list[Event]) -> None:
    """Scores of one row without a dimension for rows are one row."""
    reference = DriftMonitor.learn(RNG.normal(size=(500, COLUMNS)), scores=RNG.dirichlet([1, 1], 500))
    drift = DriftMonitor(ROWS, reference=reference, window=50, clock=Clock())
    app = make_app(drift, lambda x: [0.25, 0.75])
    assert post(app, [[0.0] * COLUMNS]).json == {"probabilities": [0.25, 0.75]}
    assert drift._watches["classes"]._rows == drift._watches["output"]._rows == 1


def test_scores_that_do_not_fit_are_counted_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    """A model of other classes than the reference's is answered for as ever; the monitor says that it cannot read."""
    reference = DriftMonitor.learn(RNG.normal(size=(500, COLUMNS)), scores=RNG.dirichlet([1, 1], 500))
    drift = DriftMonitor(ROWS, reference=reference, window=50, clock=Clock())
    app = make_app(drift, lambda x: np.full((len(x), 5), 0.2))
    for _ in range(3):
        assert post(app, [[0.0] * COLUMNS]).status == 200
    assert caplog.text.count("cannot be counted") == 1
    assert {one.value for one in drift.measurements() if one.name == "mlguard_drift_unreadable"} == {3}


def test_a_stream_has_one_latency() -> None:
    """Each item's scores are counted, the time only until the first."""
    reference = DriftMonitor.learn(
        RNG.normal(size=(500, COLUMNS)), scores=RNG.dirichlet([1, 1], 500), latency=np.ones(100)
    )
    drift = DriftMonitor(ROWS, reference=reference, window=50, clock=Clock())
    app = FastAPI()
    harden(app)

    @app.post("/predict", dependencies=[Depends(drift)])
    @truncate_output(decimals=1)
    def predict(x: Annotated[Any, Depends(ROWS)]) -> Iterator[Any]:
        for row in x:
            yield {"probabilities": [row[0], 1 - row[0]]}

    assert post(app, [[0.5] * COLUMNS] * 3).status == 200
    assert drift._watches["latency"]._rows == 1
    assert drift._watches["output"]._rows == 3


def test_who_is_refused_is_not_counted() -> None:
    """Rows of who has no key, or breaks a rule, say nothing about the traffic of the model."""
    key, secret = APIKey.generate("alice")
    drift = monitor()
    app = FastAPI()
    harden(app)
    budget = QueryBudget("1000/day", by=APIKeyAuth(APIKeys([key])), cost=drift)

    @app.post("/predict", dependencies=[Depends(budget)])
    def predict(x: Annotated[Any, Depends(drift)]) -> int:
        return len(x)

    known = (b"x-api-key", secret.encode())
    assert post(app, [[0.0] * COLUMNS]).status == 401
    assert post(app, [[99.0] * COLUMNS], known).status == 422
    assert drift._watches["input"]._rows == 0
    answer = post(app, [[0.0] * COLUMNS] * 3, known)
    assert answer.json == 3  # its value is the rows
    assert drift._watches["input"]._rows == 3
    assert answer.headers["ratelimit"].split("r=")[1].startswith("996")  # one for the refused, three for these


def test_a_plain_dependency_may_read_the_rows() -> None:
    """What is not of mlguard can be watched, too; what is no array is counted as unreadable, and answered."""
    sent: list[Any] = [np.zeros((2, 2, 2))]

    def rows() -> Any:
        return sent[0]

    drift = DriftMonitor(rows, reference=REFERENCE, clock=Clock())
    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(drift)])
    def predict() -> str:
        return "fine"

    assert call(app, method="GET").json == "fine"
    assert drift._watches["input"]._rows == 2
    for sent[0] in (None, np.zeros((2, 3)), np.zeros((2, 1)), [["a"] * COLUMNS], []):
        assert call(app, method="GET").json == "fine"
    assert drift._unreadable == 5
    assert drift._watches["input"]._rows == 2
    assert drift.units([1, 2]) == [1, 2]


def test_one_request_is_counted_once() -> None:
    """However often the guard is demanded."""
    drift = monitor()
    app = FastAPI()

    @app.post("/predict", dependencies=[Depends(drift), Depends(drift, use_cache=False)])
    def predict(x: Annotated[Any, Depends(drift)]) -> int:
        return len(x)

    assert post(app, [[0.0] * COLUMNS]).json == 1
    assert drift._watches["input"]._rows == 1


def test_without_scores_in_the_reference_only_the_time_is_taken() -> None:
    """A reference of rows and latencies has no use for scores."""
    reference = DriftMonitor.learn(RNG.normal(size=(500, COLUMNS)), latency=np.ones(100))
    drift = DriftMonitor(ROWS, reference=reference, window=50, clock=Clock())
    app = make_app(drift, lambda x: np.full((len(x), 2), 0.5))
    assert post(app, [[0.0] * COLUMNS]).status == 200
    assert drift._watches["latency"]._rows == 1


def test_other_answers_than_the_truncated_are_not_watched() -> None:
    """Without ``truncate_output`` the input is watched alone."""
    reference = DriftMonitor.learn(RNG.normal(size=(500, COLUMNS)), latency=np.ones(100))
    drift = DriftMonitor(ROWS, reference=reference, clock=Clock())
    app = FastAPI()

    @app.post("/predict", dependencies=[Depends(drift)])
    def predict() -> StreamingResponse:
        return StreamingResponse(iter(["raw"]))

    assert post(app, [[0.0] * COLUMNS]).body == b"raw"
    assert (drift._watches["input"]._rows, drift._watches["latency"]._rows) == (1, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_worker_counts_from_the_beginning() -> None:
    """What the parent has counted is not counted by the child again."""
    drift = monitor()
    window(drift, 100)
    drift.restart_in_child()
    assert drift._watches["input"]._rows == 0
    window(drift, 100)
    assert drift._watches["input"]._rows == 100


def test_the_thread_is_started_once_by_many_requests() -> None:
    """Who comes second finds it running."""
    drift = monitor()
    drift._send_out()
    assert drift._lookout.is_out
    drift._send_out()
    assert [thread.name for thread in threading.enumerate()].count("mlguard-drift") >= 1
    assert drift.look() == 1.0


def test_a_slope_is_told_from_a_step() -> None:
    """Numbers, one a window: a step with a window in between is sudden, a slope is slow, and a few are sudden."""
    assert pace_of(np.array([0, 0, 9.0])) == "sudden"
    assert pace_of(np.array([0, 0.5, 0, -0.5, 0, 0, 4, 20.0])) == "sudden"
    assert pace_of(np.array([0, 0, 20, 20, 20, 20, 20, 20.0])) == "sudden"
    assert pace_of(np.array([0, 0, 0, 4, 8, 12, 16, 20.0])) == "slow"
    assert pace_of(np.linspace(0, 35, 8)) == "slow"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"features": None}, "features"),
        ({"features": Features}, "features"),
        ({"reference": "drift.json"}, "reference"),
        ({"features": Features(columns=3, low=0, high=1, max_rows=1)}, "4 columns"),
        ({"window": 49}, "window"),
        ({"window": 10**8}, "window"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"false_alarms": 0}, "false_alarms"),
        ({"false_alarms": float("nan")}, "false_alarms"),
        ({"smallest": -1}, "smallest"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], named: str) -> None:
    """Each is named when the monitor is built."""
    with pytest.raises(ConfigurationError, match=named):
        DriftMonitor(**{"features": ROWS, "reference": REFERENCE, **settings})


def test_a_poisoned_reference_is_no_crash(events: list[Event]) -> None:
    """A reference of constants only, or of values at the edge of what floats hold, is compared as any other."""
    for rows in (
        np.zeros((100, COLUMNS)),
        np.full((100, COLUMNS), 1.7e308),
        RNG.choice([-1e-320, 0, 1e308], (100, COLUMNS)),
    ):
        reference = DriftReference.learn(rows)
        drift = DriftMonitor(ROWS, reference=reference, window=50, clock=Clock())
        window(drift, 50)
        assert np.isfinite(drift._watches["input"].last.psi).all()
    assert {event for event, _ in events} == {"drift.found"}
    assert repr(drift) == "DriftMonitor('drift')"
