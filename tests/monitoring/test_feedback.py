"""An endpoint that collects labels, behind ``FeedbackGuard``: what gets in, what waits, and what callers are told."""

import asyncio
import json
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import pytest
from fastapi import Depends, FastAPI, Request, Response, Security
from hypothesis import given
from hypothesis import strategies as st

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    BitDepth,
    ConfigurationError,
    Features,
    Feedback,
    FeedbackGuard,
    FeedbackQuarantine,
    MemoryStore,
    QueryBudget,
    RateLimit,
    RedisStore,
    harden,
    truncate_output,
)
from mlguard.monitoring.measurements import Measurement
from tests.asgi import Answer, acall, call
from tests.clock import Clock
from tests.redis_server import redis_server
from tests.traffic.test_outages import AWAY, Moody

RECORDS = {name: APIKey.generate(name, scopes={"teach", "more"}) for name in ("alice", "bob", "carol")}
JSON = (b"content-type", b"application/json")
NOVEMBER = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
RANDOM = np.random.default_rng(5)
CODES = RANDOM.integers(0, 2, 300)
X = np.array([[2.0, 2.0], [8.0, 8.0]])[CODES] + RANDOM.uniform(-1, 1, (300, 2))
Y = np.array(["low", "high"])[CODES]
LOW, HIGH = [2.0, 2.5], [8.0, 7.5]


def predict(x: Any) -> Any:
    """A model that is sure of its border, in the order of the labels: high, low."""
    return np.where(x.sum(axis=1, keepdims=True) > 10, [[0.9, 0.1]], [[0.1, 0.9]])


class Service:
    """Feedback behind keys; what was accepted is in ``stored``."""

    def __init__(self, folder: Path, *, hardened: bool = True, direct: bool = False, **options: Any) -> None:
        self.clock = Clock(NOVEMBER)
        self.stored: list[tuple[Any, Any]] = []
        self.last: Feedback | None = None
        self.caller = APIKeyAuth(APIKeys([record for record, _ in RECORDS.values()]))
        self.quarantine = FeedbackQuarantine(folder / "feedback.db", clock=self.clock)
        self.features = options.pop("features", None) or Features(columns=2, low=0, high=10, max_rows=100)
        settings: dict[str, Any] = {
            "by": self.caller,
            "labels": ["high", "low"],
            "predict": predict,
            "reference": (X, Y),
            "store": MemoryStore(),
        }
        settings |= options
        self.guard = FeedbackGuard(self.features, quarantine=self.quarantine, clock=self.clock, **settings)
        self.app = FastAPI()
        if hardened:
            harden(self.app, docs=True)

        def take(sent: Annotated[Feedback, Depends(self.guard)], response: Response) -> Any:
            self.last = sent
            self.stored += zip(sent.x.tolist(), sent.y.tolist(), strict=True)
            response.status_code = 202
            return {}

        self.app.post("/feedback")(truncate_output(decimals=1)(take) if direct else take)

    def send(self, rows: Any, labels: Any, who: str = "alice", **more: Any) -> Answer:
        return self.post(orjson.dumps({"features": rows, "labels": labels}), who, **more)

    def post(self, body: bytes, who: str = "alice", **more: Any) -> Answer:
        answer = call(self.app, "/feedback", chunks=[body], headers=[JSON, key(who)], **more)
        self.guard.flush()
        return answer

    def measured(self) -> dict[str, float]:
        return {"".join((one.name, *one.labels.values())): one.value for one in self.guard.measurements()}


def key(name: str) -> tuple[bytes, bytes]:
    return (b"x-api-key", RECORDS[name][1].encode())


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


@pytest.mark.parametrize("direct", [False, True])
def test_only_what_is_believed_is_accepted(tmp_path: Path, direct: bool) -> None:
    """Right labels get in; a wrong one waits, with who has sent it and why."""
    service = Service(tmp_path, direct=direct)
    assert service.send([LOW, HIGH, LOW], ["low", "high", "high"]).status == 202
    assert service.stored == [(LOW, "low"), (HIGH, "high")]
    assert service.last is not None
    assert (dict(service.last.quarantined), service.last.rows_sent) == ({2: "model+neighbours"}, 3)
    assert service.last.x.dtype == np.float64
    (row,) = service.quarantine.rows()
    assert (row.method, row.caller, row.label, row.reason) == ("api-key", "alice", "high", "model+neighbours")
    assert row.features.tolist() == LOW


def test_an_operator_lets_it_in(service: Service) -> None:
    """What was released comes out for the next training."""
    service.send([LOW, HIGH], ["high", "low"])
    service.quarantine.release([1])
    service.quarantine.reject([2])
    with service.quarantine.released() as released:
        assert (released.x.tolist(), released.y.tolist()) == ([LOW], ["high"])
        assert released.who == (("api-key", "", "alice"),)


def test_booleans_are_labels(tmp_path: Path) -> None:
    """Of a model that has learnt them: taken, kept back, shown and handed out as booleans."""
    service = Service(tmp_path, labels=np.array([True, False]), reference=(X, CODES == 1))
    assert service.send([LOW, HIGH, HIGH], [False, True, False]).status == 202
    assert service.stored == [(LOW, False), (HIGH, True)]
    assert [row.label for row in service.quarantine.rows()] == [False]
    service.quarantine.release([1])
    with service.quarantine.released() as released:
        assert (released.x.tolist(), released.y.tolist()) == ([HIGH], [False])
        assert released.y.dtype == np.bool_
    assert service.send([LOW], [0]).status == 422


def test_answers_tell_nothing(service: Service) -> None:
    """A caller sees no difference between what was accepted and what was not."""
    good, bad = service.send([LOW], ["low"]), service.send([LOW], ["high"])
    told = [{name: value for name, value in one.headers.items() if name != "x-request-id"} for one in (good, bad)]
    assert told[0] == told[1]
    assert (good.status, good.body) == (bad.status, bad.body)


def test_a_full_quarantine_tells_nothing_either(service: Service) -> None:
    """Nor one that cannot be written: what found no room is counted, and not accepted."""
    service.quarantine.path.unlink()
    assert service.send([LOW, HIGH], ["high", "high"]).status == 202
    assert service.stored == [(HIGH, "high")]
    assert service.measured()["mlguard_feedback_dropped"] == 1


# Doubts ---------------------------------------------------------------------------------------------------------------

UNKNOWN = [5.0, 5.0]  # between the two, and far from both


@pytest.mark.parametrize(
    ("options", "row", "label", "reason"),
    [
        ({"reference": None}, LOW, "high", "model"),
        ({"predict": None}, LOW, "high", "neighbours"),
        ({}, LOW, "high", "model+neighbours"),
        ({"doubt": "any"}, LOW, "high", "model+neighbours"),
        ({}, UNKNOWN, "low", "far"),
        ({"reference": None}, UNKNOWN, "low", None),
        ({"predict": lambda x: np.tile([0.9, 0.1], (len(x), 1))}, LOW, "low", None),
        ({"predict": lambda x: np.tile([0.9, 0.1], (len(x), 1)), "doubt": "any"}, LOW, "low", "model"),
        ({"predict": lambda x: np.tile([0.9, 0.1], (len(x), 1)), "doubt": "any"}, LOW, "high", "neighbours"),
        ({"predict": lambda x: np.full((len(x), 2), np.nan), "reference": None}, LOW, "low", "model"),
        ({"predict": lambda x: ["low"] * len(x), "reference": None}, LOW, "low", None),
        ({"predict": lambda x: ["low"] * len(x), "reference": None, "min_support": 1.0}, LOW, "high", "model"),
    ],
)
def test_what_is_doubted(tmp_path: Path, options: Any, row: Any, label: str, reason: str | None) -> None:
    """With both checks, a label needs the support of one of them, or of both; a row unlike all others always waits."""
    service = Service(tmp_path, **options)
    service.send([row], [label])
    assert service.last is not None
    assert dict(service.last.quarantined) == ({} if reason is None else {0: reason})
    assert len(service.stored) == (reason is None)


def test_the_model_sees_what_it_sees_elsewhere(tmp_path: Path) -> None:
    """Rows are squeezed as for predictions, and stored so."""
    features = Features(columns=2, low=0, high=10, max_rows=9, squeeze=[BitDepth(1, low=0, high=10)])
    asked: list[Any] = []

    def ask(x: Any) -> list[str]:
        asked.extend(x.tolist())
        return ["low"] * len(x)

    service = Service(tmp_path, features=features, reference=None, predict=ask)
    service.send([LOW], ["low"])
    assert asked == [[0.0, 0.0]]
    assert service.stored == [([0.0, 0.0], "low")]


def test_a_model_that_writes_into_its_rows_changes_no_training_data(tmp_path: Path) -> None:
    """What is stored, and what the neighbours are asked of, is what was sent."""

    def scale(x: Any) -> Any:
        x *= 0
        return np.tile([0.5, 0.5], (len(x), 1))

    service = Service(tmp_path, predict=scale)
    service.send([LOW, HIGH], ["low", "high"])
    assert service.stored == [(LOW, "low"), (HIGH, "high")]


def test_a_model_that_fails_accepts_nothing(tmp_path: Path) -> None:
    """It is a crash of the service, of which the caller is told nothing."""

    def fail(x: Any) -> Any:
        raise RuntimeError("a secret of the model")

    service = Service(tmp_path, predict=fail)
    answer = service.send([LOW], ["low"])
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert not service.stored


def test_plausible_labels_get_in(tmp_path: Path) -> None:
    """It does not stop wrong labels that could be right, one a day from each of several accounts."""
    service = Service(tmp_path, predict=lambda x: np.tile([0.3, 0.7], (len(x), 1)))
    for _ in range(3):
        for who in RECORDS:
            service.send([LOW], ["high"], who)
        service.clock.now += 86_400
    assert service.stored == [(LOW, "high")] * 9
    assert not service.quarantine.count()


# Caps -----------------------------------------------------------------------------------------------------------------


def test_a_caller_sends_no_more_than_the_cap(tmp_path: Path) -> None:
    """Rows count whatever becomes of them, all of a request or none, until the next period."""
    service = Service(tmp_path, cap="5/day")
    assert service.send([LOW] * 3, ["low", "low", "high"]).status == 202
    refused = service.send([LOW] * 3, ["low"] * 3)
    assert (refused.status, refused.json["title"]) == (429, "Budget exceeded")
    assert refused.headers["retry-after"] == str(12 * 3_600)
    assert service.send([LOW] * 2, ["low"] * 2).status == 202
    assert service.send([LOW], ["low"], "bob").status == 202
    assert service.send([LOW], ["low"]).status == 429
    service.clock.now += 12 * 3_600
    assert service.send([LOW], ["low"]).status == 202


def test_a_body_that_comes_slowly_counts_when_it_is_there(tmp_path: Path) -> None:
    """Requests that were begun before midnight and held open have no room of the day that is over."""
    service = Service(tmp_path, cap="1/day")
    body = orjson.dumps({"features": [LOW], "labels": ["low"]})
    sent: list[Any] = [
        {"type": "http.request", "body": body[:9], "more_body": True},
        {"type": "http.request", "body": body[9:], "more_body": False},
    ]

    async def slowly() -> Any:
        if len(sent) == 1:
            service.clock.now += 86_400
        return sent.pop(0)

    async def nothing(message: Any) -> None:
        """The answer is of no interest."""

    scope = {
        "type": "http", "method": "POST", "path": "/feedback", "query_string": b"", "headers": [JSON, key("alice")],
        "client": ("192.0.2.1", 1), "scheme": "http", "server": ("test", 80),
    }  # fmt: skip
    asyncio.run(service.app(scope, slowly, nothing))
    assert len(service.stored) == 1
    assert service.send([LOW], ["low"]).status == 429


def test_more_rows_than_a_whole_cap_never_get_in(tmp_path: Path) -> None:
    """Waiting does not help, so no time is told."""
    refused = Service(tmp_path, cap="5/day").send([LOW] * 6, ["low"] * 6)
    assert refused.status == 429
    assert "retry-after" not in refused.headers


def test_trying_out_the_rules_costs_a_row(tmp_path: Path) -> None:
    """What breaks a rule is charged too, so that labels and bounds are not found out for nothing."""
    service = Service(tmp_path, cap="3/day")
    assert service.send([LOW], ["?"]).status == 422
    assert service.send([[99, 99]], ["low"]).status == 422
    assert service.post(b"{}").status == 422
    assert service.send([LOW], ["?"]).status == 429


def test_nobody_has_more_than_a_share(tmp_path: Path) -> None:
    """What is beyond it waits; with what others send, it grows."""
    service = Service(tmp_path, max_share=0.5, share_of_at_least=4)
    service.send([LOW] * 3, ["low"] * 3)
    assert len(service.stored) == 2
    assert [row.reason for row in service.quarantine.rows()] == ["share"]
    for who in ("bob", "carol"):
        service.send([LOW] * 2, ["low"] * 2, who)
    service.send([LOW] * 3, ["low"] * 3)
    assert len(service.stored) == 8
    assert service.measured()["mlguard_feedback_quarantinedshare"] == 2


def test_a_doubted_row_takes_nothing_of_the_share(tmp_path: Path) -> None:
    """In whatever order rows come: only what is accepted counts."""
    service = Service(tmp_path, max_share=0.5, share_of_at_least=4)
    service.send([LOW, LOW, LOW, HIGH], ["high", "high", "low", "high"])
    assert service.stored == [(LOW, "low"), (HIGH, "high")]


def test_one_account_under_several_names(tmp_path: Path) -> None:
    """Who a caller is, the credential says: no header, no address and no member of the body makes two of one."""
    service = Service(tmp_path, cap="2/day")
    body = orjson.dumps({"features": [LOW], "labels": ["low"]})
    tricks: list[Any] = [
        {"headers": [JSON, key("alice")]},
        {"headers": [JSON, key("alice"), (b"x-forwarded-for", b"192.0.2.9")], "client": ("192.0.2.1", 1)},
        {"headers": [JSON, key("alice"), (b"x-user", b"bob"), (b"from", b"bob@test")], "client": ("192.0.2.2", 1)},
    ]
    statuses = [call(service.app, "/feedback", chunks=[body], **trick).status for trick in tricks]
    assert statuses == [202, 202, 429]
    with_name = orjson.dumps({"features": [LOW], "labels": ["low"], "caller": "bob"})
    assert service.post(with_name, "bob").status == 422


def test_caps_hold_against_requests_at_once(tmp_path: Path) -> None:
    """Fifty at once get in what one after the other would, in Redis as in memory."""
    with redis_server() as redis:
        for number, store in enumerate((MemoryStore(), RedisStore(redis.url, timeout=30))):
            folder = tmp_path / str(number)
            folder.mkdir()
            service = Service(folder, cap="30/day", max_share=0.1, share_of_at_least=100, store=store, name="race")
            body = orjson.dumps({"features": [LOW] * 2, "labels": ["low"] * 2})

            async def race(app: Any = service.app, body: bytes = body) -> list[int]:
                asked = [acall(app, "/feedback", chunks=[body], headers=[JSON, key("alice")]) for _ in range(50)]
                return [answer.status for answer in await asyncio.gather(*asked)]

            statuses = asyncio.run(race())
            assert (statuses.count(202), statuses.count(429)) == (15, 35)
            assert len(service.stored) == 10


def test_a_store_that_is_away_accepts_nothing(tmp_path: Path) -> None:
    """Nobody is counted, so nobody gets in."""
    store = Moody()
    store.failure = AWAY
    service = Service(tmp_path, store=store)
    assert service.send([LOW], ["low"]).status == 503
    assert not service.stored


# Among other guards ---------------------------------------------------------------------------------------------------


def test_nothing_is_read_of_who_may_not_call(service: Service) -> None:
    """The caller is judged before one byte of the body, also where only this guard is on the route."""
    answer = call(service.app, "/feedback", chunks=[b"{}"], headers=[JSON])
    assert (answer.status, answer.reads) == (401, 0)
    assert not service.measured()["mlguard_feedback_accepted"]


def test_guards_compose_by_reference(tmp_path: Path) -> None:
    """A limit and a budget of the same route count once, the budget in rows that were sent, in whatever order."""
    service = Service(tmp_path)
    app = FastAPI()
    harden(app)
    steady = RateLimit("3/minute", by=service.caller, store=MemoryStore())
    budget = QueryBudget("6/month", by=service.caller, cost=service.guard, store=MemoryStore(), clock=service.clock)
    guards = [Depends(budget), Depends(steady), Security(service.caller, scopes=["teach"])]

    @app.post("/feedback", dependencies=guards)
    async def take(sent: Annotated[Feedback, Security(service.guard, scopes=["more"])]) -> None:
        service.last = sent

    def send(labels: list[str]) -> Answer:
        body = orjson.dumps({"features": [LOW] * len(labels), "labels": labels})
        return call(app, "/feedback", chunks=[body], headers=[JSON, key("alice")])

    answer = send(["low", "high", "high", "high"])
    assert (answer.status, answer.headers["ratelimit"].split(";")[1]) == (200, "r=2")
    assert [value.split(";")[1] for value in answer.headers.getlist("ratelimit")] == ["r=2", "r=2"]
    assert send(["?"]).status == 422
    assert send(["low", "low"]).status == 429
    assert send(["low"]).status == 429


def test_it_counts_once_a_request(service: Service) -> None:
    """Also where it is demanded with several scopes, which makes FastAPI call it several times."""
    app = FastAPI()
    harden(app)

    @app.post("/feedback", dependencies=[Security(service.guard, scopes=["teach"])])
    async def take(
        sent: Annotated[Feedback, Security(service.guard, scopes=["more"])],
        again: Annotated[Feedback, Depends(service.guard)],
    ) -> bool:
        return sent is again

    body = orjson.dumps({"features": [LOW], "labels": ["low"]})
    answer = call(app, "/feedback", chunks=[body], headers=[JSON, key("alice")])
    assert answer.json is True
    assert service.measured()["mlguard_feedback_accepted"] == 1


def test_it_works_without_harden(tmp_path: Path) -> None:
    """As any dependency."""
    service = Service(tmp_path, hardened=False)
    assert service.send([LOW], ["low"]).status == 202
    assert service.send([LOW], ["?"]).status == 422
    assert service.stored == [(LOW, "low")]


def test_callers_without_keys_are_told_apart_by_address(tmp_path: Path) -> None:
    """Or by what a function returns; such a name is no business of the log."""
    for by in (None, lambda request: request.client.host, whose):
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        folder.mkdir()
        service = Service(folder, by=by, cap="1/day")
        sent = [service.send([LOW], ["high"], client=(address, 1)).status for address in ("192.0.2.1", "192.0.2.2")]
        assert sent == [202, 202]
        assert service.send([LOW], ["low"], client=("192.0.2.1", 2)).status == 429
        assert {(row.method, row.caller) for row in service.quarantine.rows()} == {
            ("name", "192.0.2.1"),
            ("name", "192.0.2.2"),
        }


async def whose(request: Request) -> str:
    assert request.client is not None
    return request.client.host


def test_long_and_odd_names_stay_apart(tmp_path: Path) -> None:
    """The file holds no more than 200 characters of a name, and can be written whatever is in it."""
    names = ["x" * 500 + "1", "x" * 500 + "2", "\ud800", "a\x1b[2J\nb"]
    service = Service(tmp_path, by=lambda request: names[int(request.headers["x-name"])])
    for number in range(4):
        headers = [JSON, (b"x-name", b"%d" % number)]
        call(service.app, "/feedback", chunks=[orjson.dumps({"features": [LOW], "labels": ["high"]})], headers=headers)
    service.guard.flush()
    found = [row.caller for row in service.quarantine.rows()]
    assert len(set(found)) == 4
    assert max(map(len, found)) == 200


def test_openapi_tells_what_to_send(service: Service) -> None:
    """Rows and labels, the refusals, and no label."""
    described = call(service.app, "/openapi.json", method="GET").json["paths"]["/feedback"]["post"]
    assert [*described["requestBody"]["content"]] == ["application/json"]
    assert {"401", "413", "415", "422", "429", "503"} <= described["responses"].keys()
    assert b"high" not in orjson.dumps(described)


# What is recorded -----------------------------------------------------------------------------------------------------


def test_a_caller_is_one_event_an_hour(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """However often wrong labels come; the next event says how many came meanwhile."""

    def events() -> list[Any]:
        return [(facts.get("caller"), facts["rows"]) for facts in (vars(record)["facts"] for record in caplog.records)]

    with caplog.at_level(logging.INFO, "mlguard.audit"):
        for _ in range(5):
            service.send([LOW, HIGH], ["high", "high"])
        service.send([HIGH], ["low"], "bob")
        service.send([HIGH], ["high"], "carol")
        assert events() == [("alice", 1), ("bob", 1)]
        service.clock.now += 3_600
        service.send([LOW], ["high"])
        service.clock.now -= 7_200  # a clock that goes backwards
        service.send([LOW], ["high"])
    assert events() == [("alice", 1), ("bob", 1), ("alice", 5), ("alice", 1)]
    assert {vars(record)["event"] for record in caplog.records} == {"feedback.quarantined"}
    assert "2.5" not in caplog.text


def test_no_more_callers_are_noted_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, however many there are."""
    monkeypatch.setattr("mlguard.monitoring.feedback._MOST_NOTED", 3)
    service = Service(tmp_path, by=None)
    for number in range(9):
        service.send([LOW], ["high"], client=(f"192.0.2.{number}", 1))
    assert len(service.guard._noted) == 3


@pytest.mark.usefixtures("frequent_switches")
def test_event_loops_of_several_threads_lose_no_count(tmp_path: Path) -> None:
    """Of what is accepted and of what is kept back."""
    service = Service(tmp_path, max_share=1)

    def work() -> None:
        for _ in range(30):
            assert service.send([LOW, HIGH], ["low", "low"]).status == 202

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measured = service.measured()
    assert measured["mlguard_feedback_accepted"] == 120
    assert measured["mlguard_feedback_quarantinedmodel+neighbours"] == 120


def test_its_numbers_are_for_charts(service: Service) -> None:
    """Rows that were accepted, kept back and why, and dropped. Nothing that a caller chooses."""
    service.send([LOW, HIGH, UNKNOWN], ["low", "low", "low"])
    assert next(iter(service.guard.measurements())) == Measurement("mlguard_feedback_accepted", 1, {}, "counter")
    assert {name: value for name, value in service.measured().items() if value} == {
        "mlguard_feedback_accepted": 1,
        "mlguard_feedback_quarantinedmodel+neighbours": 1,
        "mlguard_feedback_quarantinedfar": 1,
    }


# What is sent ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b'{"features": [[2, 2], [8, 8]], "labels": ["low"]}', "labels"),
        (b'{"features": [2, 2], "labels": ["low", "low"]}', "labels"),
        (b'{"features": [[2, 2]], "labels": []}', "labels"),
        (b'{"features": [[2, 2]], "labels": ["Low"]}', "label"),
        (b'{"features": [[2, 2]], "labels": [[["low"]]]}', "label"),
        (b'{"features": [[2, NaN]], "labels": ["low"]}', "finite"),
        (b'{"features": [[2, 11]], "labels": ["low"]}', "range"),
        (b'{"features": [[2, true]], "labels": ["low"]}', "number"),
        (b'{"features": [], "labels": []}', "empty"),
        (b'{"features": [[2, 2]], "labels": ["low"]}x', "trailing"),
        (b'{"features": [[2, 2]], "labels": ' + b"[" * 50_000, "depth"),
        (b'{"features": [[2, 2]], "labels": [' + b'"low",' * 100 + b'"low"]}', "labels"),
    ],
)
def test_what_breaks_a_rule(service: Service, body: bytes, rule: str) -> None:
    """It is a 422 that says which rule, and nothing gets in."""
    answer = service.post(body)
    assert (answer.status, answer.json["broken"]) == (422, rule)
    assert not service.stored
    assert not service.quarantine.count()


@pytest.mark.parametrize("content_type", [b"text/csv", b"application/x-npy", b"text/plain", None])
def test_only_json_is_read(service: Service, content_type: bytes | None) -> None:
    """Other formats have no place for labels."""
    headers = [key("alice"), *([(b"content-type", content_type)] if content_type else [])]
    assert call(service.app, "/feedback", chunks=[b"{}"], headers=headers).status == 415


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["low", "high", 2.0, 8.0])
MEMBERS = st.sampled_from(["features", "labels"])


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner), max_leaves=8))
def test_nothing_that_is_sent_is_a_crash(shared: Service, document: Any) -> None:
    """Whatever the document, it is accepted or refused."""
    for body in (json.dumps(document), json.dumps({"features": [LOW], "labels": document})):
        assert shared.post(body.encode()).status in {202, 422}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """One for all examples."""
    return Service(tmp_path_factory.mktemp("feedback"), cap="1000000/day")


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"labels": ["high"]}, {"labels": "high"}, {"labels": ["high", "lo"]}, {"predict": None, "reference": None},
        {"predict": "model"}, {"reference": X}, {"reference": (X, Y, Y)}, {"reference": (X, Y[:-1])}, {"cap": "5/dy"},
        {"cap": "0/day"}, {"max_share": 0}, {"max_share": 1.1}, {"max_share": True}, {"share_of_at_least": 0},
        {"max_share": 0.01, "share_of_at_least": 99}, {"min_support": 0}, {"min_support": 2}, {"neighbours": 0},
        {"neighbours": 200}, {"max_reference": 5}, {"doubt": "none"}, {"field": "features"}, {"field": ""},
        {"name": ""}, {"by": 3}, {"by": Features}, {"store": "redis://"},
    ],
)  # fmt: skip
def test_settings_that_cannot_work(tmp_path: Path, options: dict[str, Any]) -> None:
    """They are refused when the guard is built."""
    with pytest.raises(ConfigurationError):
        Service(tmp_path, **options)


def test_parts_that_are_none(service: Service) -> None:
    """The guard needs the Features of the model, and a quarantine of its own kind."""
    settings: dict[str, Any] = {"labels": ["high", "low"], "predict": predict}
    with pytest.raises(ConfigurationError, match="features"):
        FeedbackGuard(lambda: None, quarantine=service.quarantine, **settings)  # type: ignore[arg-type]  # is the point
    with pytest.raises(ConfigurationError, match="quarantine"):
        FeedbackGuard(service.features, quarantine="feedback.db", **settings)  # type: ignore[arg-type]  # is the point


def test_two_guards_share_no_count_unknowingly(tmp_path: Path) -> None:
    """Two of the same cap and callers are refused at start-up, as with limits, until one has a name of its own."""
    store = MemoryStore()
    for name, statuses in ((None, None), ("other", [401, 401])):
        app = FastAPI()
        harden(app)
        for number, one in enumerate((None, name)):
            guard = Service(tmp_path, store=store, name=one).guard
            app.post(f"/{number}", dependencies=[Depends(guard)])(lambda: None)
        if statuses is None:
            with pytest.raises(ConfigurationError, match="FeedbackGuards are called"):
                call(app, "/0", chunks=[b"{}"], headers=[JSON])
        else:
            assert [call(app, path, chunks=[b"{}"], headers=[JSON]).status for path in ("/0", "/1")] == statuses
