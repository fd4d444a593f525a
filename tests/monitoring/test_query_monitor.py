"""Queries that look like an attack: who is noticed, who is not, and what is done about it."""

import asyncio
import json
import logging
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    AuditLog,
    ConcurrencyLimit,
    ConfigurationError,
    Features,
    MemoryStore,
    Principal,
    QueryMonitor,
    QueryReference,
    RedisStore,
    Sighting,
    UnavailableError,
    Watch,
    WatchedQuery,
    harden,
    install_audit_log,
    install_metrics,
    truncate_output,
)
from mlguard._guard import Control
from mlguard.monitoring._own_metrics import DURATION
from mlguard.monitoring._query_watch import QueryWatch
from mlguard.monitoring.measurements import Measured
from mlguard.monitoring.query_reference import Floats
from tests.asgi import Answer, acall
from tests.clock import Clock
from tests.monitoring.notebook import Notebook
from tests.redis_server import redis_server

COLUMNS = 8
WEIGHTS = np.linspace(-1.0, 1.0, COLUMNS)
KEY = "queries-Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jd"
SCOPES: dict[str, Any] = {"columns": COLUMNS, "low": -100.0, "high": 100.0, "max_rows": 1_000}

random = np.random.default_rng(7)
USUAL = random.normal(size=(600, COLUMNS))


def scores(x: Floats) -> Floats:
    """A logistic regression."""
    one = 1 / (1 + np.exp(-(x.reshape(len(x), -1) @ WEIGHTS)))
    return np.column_stack([1 - one, one])


REFERENCE = QueryMonitor.calibrate(USUAL, scores=scores(USUAL))


def who(conn: HTTPConnection) -> str:
    return conn.headers.get("x-client", "nobody")


def walk(steps: int, *, seed: int = 1) -> Floats:
    """Small steps around a point at the boundary that is far from what is usual."""
    fresh = np.random.default_rng(seed)
    point = 4 * np.sign(fresh.normal(size=COLUMNS))
    point -= WEIGHTS * (WEIGHTS @ point) / (WEIGHTS @ WEIGHTS)
    return point + fresh.normal(0, 1e-4, (steps, COLUMNS))


class Service:
    """An app with a monitor, and its clients."""

    def __init__(
        self, *guards: Any, reference: QueryReference = REFERENCE, model: Any = scores, **settings: Any
    ) -> None:
        features = settings.pop("features", Features(**SCOPES))
        settings = {"by": who, "store": MemoryStore(), **settings}
        self.monitor = QueryMonitor(features, reference=reference, **settings)
        self.app = FastAPI()
        harden(self.app)
        self.gate: asyncio.Event | None = None

        @self.app.post("/predict", dependencies=[*map(Depends, guards), Depends(self.monitor)])
        @truncate_output(decimals=2)
        def predict(x: Annotated[Any, Depends(features)]) -> Any:
            return {"probabilities": model(x)}

    async def ask(self, rows: Any, client: str = "mallory", **headers: str) -> Answer:
        """One request."""
        body = json.dumps({"features": np.asarray(rows).tolist()}).encode()
        sent = {"content-type": "application/json", "x-client": client, **headers}
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in sent.items()]
        return await acall(self.app, headers=named, chunks=[body])

    async def send(self, rows: Any, client: str = "mallory", **headers: str) -> list[int]:
        """A request for each row, one after the other. The status of each."""
        return [(await self.ask(row, client, **headers)).status for row in rows]

    @property
    def numbers(self) -> dict[str, float]:
        """What it has counted, without what all names begin with."""
        counted = [one for one in self.monitor.measurements() if one.value and "kind" not in one.labels]
        return {one.name.removeprefix("mlguard_"): one.value for one in counted}

    @property
    def evidence(self) -> dict[str, float]:
        """How much of each kind it has lately seen against anybody."""
        return {one.labels["kind"]: one.value for one in self.monitor.measurements() if "kind" in one.labels}


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """The events of queries so far."""
    caplog.set_level(logging.INFO, "mlguard.audit")

    def found() -> list[dict[str, Any]]:
        records = [vars(record) for record in caplog.records if record.name == "mlguard.audit"]
        return [{"event": one["event"], **one["facts"]} for one in records if one["event"].startswith("query.")]

    return found


Events = Callable[[], list[dict[str, Any]]]


# Who is noticed -----------------------------------------------------------------------------------------------------


def test_a_walk_is_noticed_once_within_25_queries_and_answered(events: Events) -> None:
    """One event says who, by what and after how many queries, and nothing of the input; by default no more is done."""
    service = Service()
    assert set(asyncio.run(service.send(walk(60)))) == {200}
    (event,) = events()
    assert event.pop("queries") <= 25
    assert len(event.pop("votes").split(",")) >= 2
    assert len(event.pop("caller")) == 16
    assert event == {"event": "query.suspected", "monitor": "queries", "act": "observe"}
    assert service.numbers["queries_watched"] == 60
    assert service.numbers["queries_near"] > 50
    assert service.numbers["query_suspects"] == 1
    assert isinstance(service.monitor, Measured)


def test_evidence_is_seen_before_there_is_a_verdict() -> None:
    """Of each kind, the most against anybody, and no name; it is gone after two minutes without."""
    clock = Clock(1.0)
    service = Service(clock=clock)
    assert set(service.evidence.values()) == {0.0}
    asyncio.run(service.send(walk(3)))
    nearly = service.evidence
    assert 0 < nearly["near-duplicates"] < 1
    asyncio.run(service.send(USUAL[:3], "alice"))
    assert service.evidence["near-duplicates"] == nearly["near-duplicates"], "somebody else's is less"
    asyncio.run(service.send(walk(60)[3:]))
    assert service.evidence["near-duplicates"] >= 1
    assert service.numbers["query_suspects"] == 1
    clock.now += 120
    assert set(service.evidence.values()) == {0.0}


def test_usual_queries_and_their_repeats_are_not_noticed(events: Events) -> None:
    """Nor is one query that is asked a thousand times."""
    fresh = np.random.default_rng(3).normal(size=(300, COLUMNS))
    service = Service()

    async def work() -> None:
        await service.send(fresh, "honest")
        await service.send(fresh, "honest")
        await service.send(np.repeat(fresh[:1], 300, axis=0), "eager")

    asyncio.run(work())
    assert not events()
    assert service.numbers["queries_repeated"] > 540
    assert service.numbers["queries_near"] < 60


def test_each_row_of_a_batch_is_a_query(events: Events) -> None:
    """A walk in one request is noticed, also behind many other rows, and margins of it count for the next request."""
    service = Service()
    rows = np.concatenate([np.random.default_rng(3).normal(size=(280, COLUMNS)), walk(120)])
    assert asyncio.run(service.ask(rows)).status == 200
    (event,) = events()
    assert 280 < event["queries"] <= 400


def test_a_walk_that_is_spread_over_accounts_is_noticed(events: Events) -> None:
    """Near-duplicates of others' queries count; with ``across_callers=False`` they do not."""
    rows = walk(400)

    async def spread(service: Service) -> None:
        for number, row in enumerate(rows):
            # What an account asks itself is apart, what accounts ask is not.
            await service.ask(row + (number // 40) * 0.5, f"mallory {number % 40}")

    seen = Service(act="coarsen")
    asyncio.run(spread(seen))
    assert {event["event"] for event in events()} == {"query.suspected"}
    assert len(events()) == 40
    assert all(event["queries"] <= 10 for event in events())
    assert "near-duplicates" in events()[0]["votes"]
    before = len(events())
    unseen = Service(act="coarsen", across_callers=False)
    asyncio.run(spread(unseen))
    assert all("near-duplicates" not in event["votes"] for event in events()[before:])


def test_an_account_that_asks_everything_before_hides_nothing(events: Events) -> None:
    """That another account has asked the very same, and was refused, does not make a walk a list of repeats."""
    points = np.random.default_rng(4).normal(size=(30, COLUMNS))
    points -= np.outer(points @ WEIGHTS, WEIGHTS) / (WEIGHTS @ WEIGHTS)  # many at once, so that nothing stands still
    rows = np.concatenate([points + np.random.default_rng(step).normal(0, 1e-3, points.shape) for step in range(4)])
    service = Service(act="refuse")

    async def work() -> list[int]:
        await service.ask(rows, "burnt")
        return await service.send(rows)

    statuses = asyncio.run(work())
    assert statuses[-1] == 403
    assert "near-duplicates" in events()[-1]["votes"]


def test_a_walk_over_two_routes_is_one_walk() -> None:
    """Two monitors of one name, as for two formats, know each other's fingerprints, also without a key."""
    store = MemoryStore()
    one, other = [Service(store=store, act="coarsen") for _ in range(2)]

    async def work() -> None:
        await one.send(walk(1))
        await other.send(walk(2))

    asyncio.run(work())
    assert other.numbers["queries_repeated"] == 1
    assert other.numbers["queries_near"] == 1


def test_repeats_that_are_known_no_longer_are_outweighed() -> None:
    """A thousand rows asked again and again, more than there are places for, are no evidence of near-duplicates."""
    rows = np.random.default_rng(1).normal(size=(1_000, COLUMNS))
    watch = QueryWatch(REFERENCE, KEY.encode(), MemoryStore(), bucket="", hold=60, ttl=60, across=True)

    async def work() -> list[Sighting]:
        return [await watch.note(watch.asked(b"honest", rows)) for _ in range(4)]

    first, *again = asyncio.run(work())
    assert first.queries == 1_000
    assert again[-1].queries > 1_300, "many are taken for new ones"
    assert {sighting.votes for sighting in again} == {0}


def test_callers_who_ask_the_same_rows_are_not_suspected(events: Events) -> None:
    """Their few near-duplicates are outweighed by the other rows, also where others have asked these before."""
    fresh = np.random.default_rng(6)
    parts = fresh.normal(size=(6, 15, COLUMNS))
    rows = np.concatenate([part for some in parts for part in (some, some[-1:] + 1e-3)])
    far = 3 * fresh.normal(size=(12, COLUMNS))  # one kind of evidence, beside which there must be no other
    service = Service()

    async def work() -> None:
        for client in ("one", "two", "three"):
            await service.send(np.concatenate([rows, far]), client)

    asyncio.run(work())
    assert not events()
    assert service.numbers["queries_near"] >= 18


def test_who_asks_close_to_what_another_will_ask_accuses_it_by_two_kinds_of_votes(events: Events) -> None:
    """By these alone nobody is to be blocked, as the page says; without the comparison there is no accusation."""

    async def accuse(service: Service) -> None:
        for number, row in enumerate(USUAL[:20]):
            await service.ask(row + 1e-3, f"mallory {number}")
        await service.send(USUAL[:20], "innocent")

    asyncio.run(accuse(Service(across_callers=False)))
    assert not events()
    asyncio.run(accuse(Service()))
    assert [event["votes"] for event in events()] == ["near-duplicates,other-accounts"]


def test_callers_share_nothing_but_what_is_across(events: Events) -> None:
    """An honest caller is not suspected beside a suspect."""
    service = Service(act="refuse")

    async def work() -> list[int]:
        await service.send(walk(40))
        return await service.send(np.random.default_rng(3).normal(size=(40, COLUMNS)), "honest")

    assert set(asyncio.run(work())) == {200}
    assert len(events()) == 1


def test_a_walk_is_noticed_without_scores_and_with_missing_values(events: Events) -> None:
    """Two kinds of evidence are left, and must agree; a missing value is like the mean."""
    usual = USUAL.copy()
    usual[::7, 2] = np.nan
    reference = QueryMonitor.calibrate(usual)
    features = Features(**SCOPES, missing=[2])
    service = Service(reference=reference, features=features, model=lambda x: scores(np.nan_to_num(x)))
    rows = walk(40).astype(object)
    rows[:, 2] = None
    asyncio.run(service.send(rows))
    assert [event["votes"] for event in events()] == ["near-duplicates,distances"]


def test_a_regression_is_watched(events: Events) -> None:
    """There, unusual answers are the evidence."""

    def price(x: Floats) -> Floats:
        value: Floats = x @ WEIGHTS
        return value

    reference = QueryMonitor.calibrate(USUAL, scores=price(USUAL))
    assert reference.output_centre is not None
    features = Features(**SCOPES)
    monitor = QueryMonitor(features, reference=reference, by=who, store=MemoryStore(), across_callers=False)
    app = FastAPI()
    harden(app)

    @app.post("/predict", dependencies=[Depends(monitor)])
    @truncate_output(significant=3, scores="price")
    def predict(x: Annotated[Floats, Depends(features)]) -> Any:
        return {"price": price(x)}

    async def work() -> None:
        for number in range(40):
            row = (3 + 1e-5 * number) * WEIGHTS / np.linalg.norm(WEIGHTS)
            body = json.dumps({"features": row.tolist()}).encode()
            assert (await acall(app, headers=[(b"content-type", b"application/json")], chunks=[body])).status == 200

    asyncio.run(work())
    assert "margins" in events()[0]["votes"]


def test_images_are_rows(events: Events) -> None:
    """Of any shape, as long as they have as many numbers."""
    features = Features(shape=(2, 4), low=-100.0, high=100.0, max_rows=100)
    service = Service(features=features)
    asyncio.run(service.send(walk(40).reshape(-1, 1, 2, 4)))
    assert len(events()) == 1


def test_numbers_of_any_size_are_watched() -> None:
    """The largest that a caller may send is as far as can be, and no crash."""
    features = Features(columns=COLUMNS, low=-1.7e308, high=1.7e308, max_rows=10)
    service = Service(features=features, model=lambda x: np.full((len(x), 2), 0.5))
    rows = [[1.7e308] * COLUMNS, [-1.7e308] * COLUMNS, [5e-324] * COLUMNS]
    assert asyncio.run(service.send(rows)) == [200, 200, 200]


def test_rows_of_another_width_are_a_fault_of_the_app() -> None:
    """A dependency that hands out something else is answered with 500, and not unwatched."""

    async def wrong() -> Floats:
        return np.zeros((1, COLUMNS + 1))

    service = Service(features=wrong)
    assert asyncio.run(service.ask([[0.0]])).status == 500


def test_no_rows_are_no_query() -> None:
    """A dependency of the app's own may find none."""

    async def none() -> Floats:
        return np.zeros((0, COLUMNS))

    service = Service(features=none, model=lambda _: np.array([[0.5, 0.5]]))
    assert asyncio.run(service.ask([[0.0]])).status == 200
    assert service.numbers == {}


# What is done about it ----------------------------------------------------------------------------------------------


def test_a_suspect_is_refused_before_its_body_is_read() -> None:
    """With 403, and a problem that says which rule and nothing else; the very query that was too much is, too."""
    service = Service(act="refuse")

    async def work() -> tuple[list[int], Answer]:
        return await service.send(walk(40)), await service.ask(USUAL[:1])

    statuses, last = asyncio.run(work())
    assert statuses == sorted(statuses)
    assert set(statuses) == {200, 403}
    assert last.reads == 0
    problem = last.json
    assert problem["type"] == "urn:mlguard:problem:queries-suspected"
    assert set(problem) == {"type", "title", "status", "detail", "request_id"}
    assert not any(character.isdigit() for character in problem["detail"] + problem["title"])
    assert service.numbers["queries_refused"] == statuses.count(403) + 1


@pytest.mark.parametrize("act", ["refuse", "slow"])
def test_what_stops_a_suspect_is_recorded_as_the_monitor(act: str, tmp_path: Path) -> None:
    """Once in each record and each metric, whether it was stopped before its body was read or after."""
    service = Service(act=act, delay=0.0, max_waiting=1)
    metrics, log = Notebook(), AuditLog(tmp_path, key=KEY)
    install_metrics(service.app, to=metrics, timed_per_second=1e6)
    install_audit_log(service.app, log)

    async def work() -> list[int]:
        return await service.send(walk(40))

    statuses = asyncio.run(work())
    assert log.flush()
    lines = [json.loads(line) for file in tmp_path.glob("*.jsonl") for line in file.read_text().splitlines()]
    records = [line for line in lines if line["event"] == "request"]
    assert [record["status"] for record in records] == statuses
    names = {tuple(sorted(record["guards"])) for record in records}
    assert names == {("Features", "QueryMonitor"), *([("QueryMonitor",)] if act == "refuse" else [])}
    assert {record["refused_by"] for record in records if record["status"] == 403} == (
        {"QueryMonitor"} if act == "refuse" else set()
    )
    counted = {(guard, outcome): number for (guard, outcome, *_), number in metrics.counts.items()}
    assert {guard for guard, _ in counted} == {"Features", "QueryMonitor"}
    assert counted["QueryMonitor", "admitted"] == statuses.count(200)
    assert counted.get(("QueryMonitor", "refused"), 0) == statuses.count(403)
    times = {values: numbers for (name, values), numbers in metrics.numbers.items() if name == DURATION.name}
    assert len(times[("QueryMonitor",)]) == len(statuses)


def test_a_suspect_gets_the_label_alone() -> None:
    """From the query on that was too much; others get scores."""
    service = Service(act="coarsen")

    async def work() -> list[Any]:
        await service.send(walk(40))
        return [(await service.ask(USUAL[:1], client)).json["probabilities"] for client in ("mallory", "honest")]

    suspect, honest = asyncio.run(work())
    assert suspect in ([0], [1])
    assert honest == [pytest.approx(scores(USUAL[:1])[0], abs=0.006)]


def test_a_suspect_waits_and_takes_no_place_meanwhile(events: Events) -> None:
    """Nobody else waits for it, although there is one place for all; as many wait as may, and the rest is refused."""
    service = Service(ConcurrencyLimit(1, store=MemoryStore(), wait=0), act="slow", delay=0.3, max_waiting=2)

    async def work() -> tuple[list[int], list[str]]:
        for row in walk(40):
            await service.ask(row)
            if events():
                break
        order: list[str] = []

        async def ask(client: str) -> int:
            status = (await service.ask(USUAL[:1], client)).status
            order.append(f"{client} {status}")
            return status

        slow = [asyncio.create_task(ask("mallory")) for _ in range(2)]
        while service.numbers.get("queries_waiting") != 2:  # noqa: ASYNC110  # the monitor has no event for it
            await asyncio.sleep(0)
        quick = [await ask("mallory"), *[await ask("honest") for _ in range(3)]]
        assert not any(task.done() for task in slow)
        await asyncio.gather(*slow)
        return quick, order

    quick, order = asyncio.run(work())
    assert quick == [429, 200, 200, 200]
    assert {one.split()[0] for one in order[-2:]} == {"mallory"}
    assert service.numbers["queries_slowed"] == 2
    assert "queries_waiting" not in service.numbers


def test_an_act_shows_in_openapi() -> None:
    """The refusals that it can give."""
    for act, statuses in (("observe", ()), ("slow", (429,)), ("coarsen", ()), ("refuse", (403,))):
        assert Service(act=act).monitor.statuses == statuses
    assert Service().monitor.control is Control.DETECTION
    paths = Service(act="refuse").app.openapi()["paths"]
    assert "403" in paths["/predict"]["post"]["responses"]


# Ends ---------------------------------------------------------------------------------------------------------------


def test_a_verdict_ends_and_that_is_an_event(events: Events) -> None:
    """Once, when its time is over: at the next request, whosever it is."""
    clock = Clock(1.0)
    service = Service(act="refuse", hold=60.0, clock=clock, store=MemoryStore(clock=clock))

    async def work() -> None:
        await service.send(walk(40))
        clock.now += 59
        assert await service.send(USUAL[:1]) == [403]
        assert len(events()) == 1
        clock.now += 1
        assert await service.send(USUAL[:2], "honest") == [200, 200]
        assert await service.send(USUAL[:2]) == [200, 200]

    asyncio.run(work())
    began, ended = events()
    assert ended == {"event": "query.cleared", "monitor": "queries", "caller": began["caller"], "by": "time"}
    assert "query_suspects" not in service.numbers


def test_a_verdict_ends_with_the_suspects_own_request(events: Events) -> None:
    """Where that comes first."""
    clock = Clock(1.0)
    service = Service(act="coarsen", hold=60.0, clock=clock, store=MemoryStore(clock=clock))

    async def work() -> None:
        await service.send(walk(40))
        clock.now += 60
        await service.send(USUAL[:2])

    asyncio.run(work())
    assert [event["event"] for event in events()] == ["query.suspected", "query.cleared"]


def test_an_operator_clears_a_caller(events: Events) -> None:
    """It is forgotten, with its verdict."""
    service = Service(act="refuse")

    async def work() -> None:
        await service.send(walk(40))
        await service.monitor.clear("mallory")
        assert await service.send(USUAL[:20]) == [200] * 20

    asyncio.run(work())
    assert [(event["event"], event.get("by")) for event in events()] == [
        ("query.suspected", None),
        ("query.cleared", "operator"),
    ]


def test_who_was_cleared_elsewhere_is_not_cleared_again(events: Events) -> None:
    """A process that had told of the verdict learns that there is none any more."""
    clock = Clock(1.0)
    store = MemoryStore(clock=clock)
    one, other = [Service(act="coarsen", store=store, key=KEY, hold=60.0, clock=clock) for _ in range(2)]

    async def work() -> None:
        await one.send(walk(40))
        await other.monitor.clear("mallory")
        clock.now += 60
        await one.send(USUAL[:1], "honest")

    asyncio.run(work())
    assert [event["event"] for event in events()] == ["query.suspected", "query.cleared"]
    assert "query_suspects" not in one.numbers


def test_few_suspects_are_kept_in_mind(monkeypatch: pytest.MonkeyPatch, events: Events) -> None:
    """Of more, the store still knows."""
    monkeypatch.setattr("mlguard.monitoring.query_monitor._MOST_KNOWN", 1)
    monkeypatch.setattr("mlguard.monitoring._query_watch._MOST_CALLERS", 1)
    service = Service(act="refuse", across_callers=False)

    async def work() -> None:
        for client in ("a", "b"):
            await service.send(walk(40), client)
            assert await service.send(USUAL[:1], "a") == [403]

    asyncio.run(work())
    assert len(events()) == 2


# Who is exempt ------------------------------------------------------------------------------------------------------


def _keys() -> tuple[APIKeyAuth, dict[str, str]]:
    made = [APIKey.generate("sensor"), APIKey.generate("fleet", scopes={"sensor"}), APIKey.generate("mallory")]
    return APIKeyAuth(APIKeys([key for key, _ in made])), {key.id: secret for key, secret in made}


@pytest.mark.parametrize(
    ("settings", "watched"),
    [
        ({}, {"sensor", "fleet", "mallory"}),
        ({"exempt": ["sensor"]}, {"fleet", "mallory"}),
        ({"exempt": [Principal("sensor", method="api-key")]}, {"fleet", "mallory"}),
        (
            {"exempt": [Principal("sensor", method="jwt", issuer="https://elsewhere.test")]},
            {"sensor", "fleet", "mallory"},
        ),
        ({"exempt_scopes": ["sensor"]}, {"sensor", "mallory"}),
    ],
)
def test_sensors_can_be_exempt(settings: dict[str, Any], watched: set[str], events: Events) -> None:
    """By id, by principal or by scope. Events name principals."""
    caller, keys = _keys()
    service = Service(by=caller, act="refuse", **settings)

    async def work() -> None:
        for name, secret in keys.items():
            statuses = await service.send(walk(30), x_api_key=secret)
            assert (403 in statuses) == (name in watched)

    asyncio.run(work())
    assert {(event["principal"], event["method"]) for event in events()} == {(name, "api-key") for name in watched}


def test_who_has_no_name_is_not_exempt(events: Events) -> None:
    """Although somebody is whose name is that of nothing in Python."""
    service = Service(by=lambda: None, exempt={"None"})
    asyncio.run(service.send(walk(40)))
    assert len(events()) == 1


def test_a_name_can_be_exempt(events: Events) -> None:
    """Where a function names callers."""
    service = Service(exempt={"sensor"})
    asyncio.run(service.send(walk(40), "sensor"))
    assert not events()
    assert service.numbers == {}


# The store ----------------------------------------------------------------------------------------------------------


class Away(MemoryStore):
    """A store that does not answer, while it is so told."""

    down = True
    down_for_looks = False

    async def watch(self, key: bytes, queries: Sequence[WatchedQuery], rule: Watch, **more: Any) -> Sighting:
        if self.down or (self.down_for_looks and not queries):
            raise UnavailableError("away", retry_after=1)
        return await super().watch(key, queries, rule, **more)


@pytest.mark.parametrize(("setting", "status"), [("refuse", 503), ("allow", 200)])
def test_what_happens_while_the_store_is_away(setting: str, status: int) -> None:
    """By setting, nobody is admitted, or everybody unwatched."""
    service = Service(act="coarsen", store=Away(), on_store_error=setting)
    assert asyncio.run(service.send(walk(3))) == [status] * 3
    assert service.numbers == ({"queries_unwatched": 3} if setting == "allow" else {})


def test_a_known_suspect_gets_the_label_alone_while_the_store_is_away() -> None:
    """Who can bring the store down gets no scores by it; others get theirs."""
    store = Away()
    store.down = False
    service = Service(store=store, act="coarsen", on_store_error="allow")

    async def work() -> list[Any]:
        await service.send(walk(40))
        store.down = True
        return [(await service.ask(USUAL[:1], client)).json["probabilities"] for client in ("mallory", "honest")]

    suspect, honest = asyncio.run(work())
    assert suspect in ([0], [1])
    assert len(honest) == 1
    assert len(honest[0]) == 2


def test_margins_that_wait_take_little_room() -> None:
    """What a process keeps of a caller beside the store stays below 30 KB, whatever it asks."""
    watch = QueryWatch(REFERENCE, KEY.encode(), MemoryStore(), bucket="", hold=60, ttl=60, across=False)

    async def work() -> int:
        asked = watch.asked(b"warm", USUAL)
        await watch.note(asked)
        tracemalloc.start()
        try:
            asked.see(np.concatenate([scores(USUAL)] * 10))
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert asyncio.run(work()) < 30_000


def test_evidence_waits_for_a_store_that_is_away(events: Events) -> None:
    """Margins that could not be noted are noted later, and nobody else is refused for the end of a verdict."""
    clock = Clock(1.0)
    store = Away(clock=clock)
    store.down = False
    service = Service(act="coarsen", store=store, clock=clock, hold=60.0, on_store_error="allow")

    async def work() -> None:
        await service.send(walk(40))
        store.down = True
        assert await service.send(USUAL[:1]) == [200]
        store.down, store.down_for_looks = False, True
        clock.now += 60
        assert await service.send(USUAL[1:2], "honest") == [200]
        store.down_for_looks = False
        assert await service.send(USUAL[2:3], "honest") == [200]
        assert len(events()) == 1
        clock.now += 60
        await service.send(USUAL[3:4], "honest")

    asyncio.run(work())
    assert [event["event"] for event in events()] == ["query.suspected", "query.cleared"]


def test_processes_share_what_they_know(events: Events) -> None:
    """Two services with one Redis: half a walk at each is a walk, told of once, and both refuse."""
    with redis_server() as server:
        one, other = [Service(act="refuse", store=RedisStore(server.url, timeout=30.0), key=KEY) for _ in range(2)]

        async def work() -> tuple[int, list[int]]:
            rows = walk(60)
            number = 0
            while not events():
                await (one, other)[number % 2].ask(rows[number])
                number += 1
            return number, [(await each.ask(rows[-1])).status for each in (one, other)]

        number, statuses = asyncio.run(work())
    assert number <= 25
    assert statuses == [403, 403]
    assert len(events()) == 1
    assert one.monitor.statuses == (403, 503)


def test_a_verdict_that_another_process_prolongs_does_not_end(events: Events) -> None:
    """Who has told of its beginning asks before it tells of the end."""
    clock = Clock(1.0)
    store = MemoryStore(clock=clock)
    one, other = [Service(act="coarsen", store=store, key=KEY, hold=60.0, clock=clock) for _ in range(2)]

    async def work() -> None:
        await one.send(walk(40))
        clock.now += 30
        await other.send(walk(40, seed=2))
        clock.now += 30
        await one.send(USUAL[:1], "honest")
        assert len(events()) == 1
        clock.now += 30
        await other.send(USUAL[1:2], "honest")
        assert len(events()) == 1, "only one of them tells"
        await one.send(USUAL[2:3], "honest")

    asyncio.run(work())
    assert [event["event"] for event in events()] == ["query.suspected", "query.cleared"]


# Settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"features": 3}, "features"),
        ({"features": Features}, "features"),
        ({"features": Features(columns=5, low=0, high=1, max_rows=1)}, "reference"),
        ({"reference": {"columns": 8}}, "reference"),
        ({"act": "punish"}, "act"),
        ({"on_store_error": "local"}, "on_store_error"),
        ({"store": {}}, "store"),
        ({"store": RedisStore("redis://127.0.0.1:1/0")}, "key"),
        ({"key": "short"}, "key"),
        ({"name": ""}, "name"),
        ({"delay": 31}, "delay"),
        ({"delay": True}, "delay"),
        ({"hold": 0.5}, "hold"),
        ({"hold": 600.0, "remember": 60.0}, "remember"),
        ({"max_waiting": 0}, "max_waiting"),
        ({"exempt": "sensor"}, "exempt"),
        ({"exempt": [3]}, "exempt"),
        ({"exempt": 3}, "exempt"),
        ({"exempt": [["sensor"]]}, "exempt"),
        ({"exempt": [""]}, "exempt"),
        ({"exempt_scopes": "sensor"}, "exempt_scopes"),
        ({"exempt_scopes": [""]}, "exempt_scopes"),
        ({"exempt_scopes": 3}, "exempt_scopes"),
        ({"by": Features(**SCOPES)}, "by"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    """At once, with what to change."""
    given = {"features": Features(**SCOPES), "reference": REFERENCE, "store": MemoryStore(), **settings}
    with pytest.raises(ConfigurationError, match=rf"QueryMonitor\({said}"):
        QueryMonitor(given.pop("features"), **given)


def test_a_monitor_says_what_it_is() -> None:
    """Its name and what it does."""
    assert repr(Service(act="slow", name="iris").monitor) == "QueryMonitor('iris', act='slow')"
