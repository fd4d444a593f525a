"""The epsilon ledger: every answer counted, exactly, in every process, and never below what it was."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection
from tests.asgi import Answer, acall, call, make_scope
from tests.clock import Clock
from tests.redis_server import RedisServer, redis_server
from tests.traffic.test_outages import AWAY, Moody

import mlguard.store
from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    EpsilonLedger,
    EpsilonStatus,
    MemoryStore,
    Principal,
    PrivacyBudgetExceededError,
    QueryBudget,
    RedisStore,
    Store,
    harden,
)
from mlguard.__main__ import main
from mlguard.traffic.epsilon import Account, _units

RECORDS = {name: APIKey.generate(name) for name in ("alice", "bob")}
NOVEMBER = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Service:
    """An endpoint each of whose answers costs the epsilon that is asked for."""

    def __init__(self, limit: str, **options: Any) -> None:
        self.clock = Clock(NOVEMBER)
        self.caller = APIKeyAuth(APIKeys([record for record, _ in RECORDS.values()]))
        settings = {"store": MemoryStore(), "clock": self.clock, "by": self.caller, **options}
        self.ledger = EpsilonLedger(limit, **settings)
        self.answered = 0
        self.app = FastAPI()
        harden(self.app)

        @self.app.get("/")
        async def predict(
            account: Annotated[Account, Depends(self.ledger)], epsilon: float = 0.5, answers: int = 1
        ) -> None:
            await account.spend(epsilon, answers=answers)
            self.answered += 1

        @self.app.get("/left")
        async def left(status: Annotated[EpsilonStatus, Depends(self.ledger.status)]) -> EpsilonStatus:
            return status

    def ask(self, query: str = "", name: str = "alice") -> Answer:
        return call(self.app, f"/?{query}", method="GET", headers=[(b"x-api-key", RECORDS[name][1].encode())])

    def statuses(self, *queries: str, name: str = "alice") -> list[int]:
        return [self.ask(query, name).status for query in queries]

    def left(self) -> Any:
        return call(self.app, "/left", method="GET", headers=[(b"x-api-key", RECORDS["alice"][1].encode())]).json


# What is counted ------------------------------------------------------------------------------------------------------


def test_each_answer_is_counted_until_nothing_is_left() -> None:
    """For each caller; what is refused costs nothing, and the endpoint does no more than it was charged for."""
    service = Service("1.2/ever")
    assert service.statuses("", "", "", "epsilon=0.2", "epsilon=0.000001") == [200, 200, 429, 200, 429]
    assert service.statuses("answers=2", "answers=1", name="bob") == [200, 429]
    assert service.answered == 4
    assert service.left() == {"limit": 1.2, "spent": 1.2, "remaining": 0.0, "resets_at": None}


def test_what_callers_see() -> None:
    """Answers and refusals say what is left; Retry-After is there where waiting helps."""
    service = Service("1/month")
    answer = service.ask()
    assert (answer.status, answer.headers["epsilon-remaining"]) == (200, "0.5")
    refusal = service.ask("epsilon=0.6")
    assert refusal.json["type"] == "urn:mlguard:problem:privacy-budget-exceeded"
    assert refusal.headers["epsilon-remaining"] == "0.5"
    assert int(refusal.headers["retry-after"]) == DECEMBER.timestamp() - NOVEMBER
    assert "retry-after" not in service.ask("epsilon=1.1").headers
    assert service.left()["resets_at"] == "2026-12-01T00:00:00Z"
    never = Service("0.1/ever").ask()
    assert (never.status, "retry-after" in never.headers) == (429, False)


def test_periods_begin_anew() -> None:
    """Only where the limit has one."""
    monthly, ever = Service("0.5/month"), Service("0.5/ever")
    for service in (monthly, ever):
        assert service.statuses("", "") == [200, 429]
        service.clock.now = DECEMBER.timestamp() + 366 * 86_400 * 100
    assert monthly.statuses("") == [200]
    assert ever.statuses("") == [429]


def test_a_small_epsilon_is_no_free_one() -> None:
    """It is rounded up to a millionth."""
    service = Service("0.000003/ever")
    assert service.statuses(*["epsilon=1e-12"] * 4) == [200, 200, 200, 429]


@given(st.floats(1e-12, 1e9))
def test_nothing_is_counted_for_less_than_it_is(epsilon: float) -> None:
    """And for less than a millionth more."""
    units = _units(epsilon, where="test")
    assert epsilon * 1e6 * (1 - 1e-12) <= units <= epsilon * 1e6 * (1 + 1e-12) + 1


@pytest.mark.parametrize(
    ("epsilon", "units"),
    [(0.1, 100_000), (0.3, 300_000), (1, 1_000_000), (1e-6, 1), (1.1e-6, 2), (np.float64(0.3), 300_000)],
)
def test_epsilons_are_taken_as_they_are_written(epsilon: float, units: int) -> None:
    """Ten answers of 0.1 are 1, though no float is 0.1."""
    assert _units(epsilon, where="test") == units


def test_huge_batches_are_refused() -> None:
    """They overflow nothing."""
    assert Service("1/ever").statuses("epsilon=1000000&answers=1000000000000000000", "") == [429, 200]


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "inf"])
def test_an_answer_costs_something(epsilon: str) -> None:
    """An epsilon that is none is a mistake of the endpoint, and answers nothing."""
    service = Service("1/ever")
    assert service.statuses(f"epsilon={epsilon}") == [500]
    assert service.left()["spent"] == 0


@pytest.mark.parametrize("answers", ["-1", "-1000000000000"])
def test_fewer_answers_than_none_give_nothing_back(answers: str) -> None:
    """It is a mistake of the endpoint, and would be epsilon for nothing."""
    service = Service("1/ever")
    assert service.statuses("", f"answers={answers}") == [200, 500]
    assert service.left()["spent"] == 0.5


def test_it_is_charged_outside_of_requests_too() -> None:
    """For jobs, and for data sets: the same account, the same refusal."""
    ledger = EpsilonLedger("1/ever", store=MemoryStore())

    async def spend() -> list[float]:
        left = [(await ledger.spend("patients", 0.4)).remaining for _ in range(2)]
        with pytest.raises(PrivacyBudgetExceededError):
            await ledger.spend("patients", 0.4)
        with pytest.raises(ConfigurationError, match="above 0"):
            await ledger.spend("patients", -0.4)
        return [*left, (await ledger.status_of("patients")).remaining]

    assert asyncio.run(spend()) == [0.6, 0.2, 0.2]


def test_a_budget_of_queries_is_another_one() -> None:
    """Also one of the same name, by the same caller, in the same store."""
    service = Service("1/month", name="iris")
    budget = QueryBudget("1000000/month", by=service.caller, name="iris", store=service.ledger.store)
    service.ask()
    status = asyncio.run(budget.status_of(Principal("alice", method="api-key")))
    assert status.used == 0


# Operators ------------------------------------------------------------------------------------------------------------

ALICE = Principal("alice", method="api-key")


def test_look_grant_and_reset() -> None:
    """In epsilon, for one caller and period."""
    service = Service("1/month")

    async def operate() -> list[EpsilonStatus]:
        ledger = service.ledger
        return [
            await ledger.status_of(ALICE),
            await ledger.grant(ALICE, 0.5),
            await ledger.reset(ALICE),
            await ledger.status_of(ALICE),
        ]

    service.ask()
    resets_at = DECEMBER
    assert asyncio.run(operate()) == [
        EpsilonStatus(1.0, 0.5, 0.5, resets_at),
        EpsilonStatus(1.0, 0.0, 1.0, resets_at),
        EpsilonStatus(1.0, 0.0, 1.0, resets_at),
        EpsilonStatus(1.0, 0.0, 1.0, resets_at),
    ]
    with pytest.raises(ConfigurationError, match="above 0"):
        asyncio.run(service.ledger.grant(ALICE, -1))


def test_on_the_command_line(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``mlguard budget`` shows it, in millionths."""
    service = Service("1.5/ever", name="iris", store=RedisStore(redis.url, timeout=30), clock=Clock(NOVEMBER))
    service.ask()
    monkeypatch.setenv("MLGUARD_STORE_URL", redis.url)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(mlguard.store, "_default", None)
        assert main(["budget", *arguments]) == 0
        return capsys.readouterr().out

    assert "epsilon iris: 1500000/ever for caller\n" in run("show")
    assert "has 1000000 of 1500000 left, 500000 spent" in run("show", "epsilon iris", "--caller", "alice")
    assert "has 1500000 of 1500000 left" in run("grant", "epsilon iris", "500000", "--caller", "alice")


# Races, restarts and outages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "redis"])
def test_many_at_once_spend_exactly_the_limit(where: str, redis: RedisServer) -> None:
    """Eighty requests for seven answers' worth: seven are answered."""
    store: Store = MemoryStore() if where == "memory" else RedisStore(redis.url, timeout=30)
    service = Service("0.7/ever", store=store, name=f"at once in {where}")

    async def ask() -> list[int]:
        headers = [(b"x-api-key", RECORDS["alice"][1].encode())]
        asked = [acall(service.app, "/?epsilon=0.1", method="GET", headers=headers) for _ in range(80)]
        return [answer.status for answer in await asyncio.gather(*asked)]

    statuses = asyncio.run(ask())
    assert (statuses.count(200), statuses.count(429)) == (7, 73)


def test_threads_spend_exactly_the_limit() -> None:
    """Each with an event loop of its own."""
    ledger = EpsilonLedger("1/ever", store=MemoryStore())
    begin = threading.Barrier(8)
    given: list[int] = []

    async def spend() -> None:
        account = Account(ledger, HTTPConnection(make_scope("GET", "/")), "somebody")
        for _ in range(50):
            with suppress(PrivacyBudgetExceededError):
                await account.spend(0.01)
                given.append(1)

    def work() -> None:
        begin.wait(timeout=30)
        asyncio.run(spend())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(given) == 100


PROCESS = """
import asyncio, contextlib, sys
from starlette.requests import HTTPConnection
from mlguard import EpsilonLedger, PrivacyBudgetExceededError, RedisStore
from mlguard.traffic.epsilon import Account

async def main():
    ledger = EpsilonLedger("1/ever", name="processes", store=RedisStore(sys.argv[1], timeout=30))
    account = Account(ledger, HTTPConnection({"type": "http", "headers": []}), "somebody")
    print("ready", flush=True)
    sys.stdin.readline()
    given = 0
    for _ in range(50):
        with contextlib.suppress(PrivacyBudgetExceededError):
            await account.spend(0.01)
            given += 1
    print(given)

asyncio.run(main())
"""


def test_processes_spend_exactly_the_limit(redis: RedisServer) -> None:
    """Four of them, which begin together, in one Redis."""
    command = [sys.executable, "-c", PROCESS, redis.url]
    with ExitStack() as running:
        workers = []
        for _ in range(4):
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            workers.append(running.enter_context(worker))
            running.callback(worker.kill)
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        given = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    assert sum(given) == 100


def test_it_survives_a_restart(redis: RedisServer) -> None:
    """What was spent in Redis is spent for the next process too, and under a new limit."""
    assert Service("1/ever", store=RedisStore(redis.url, timeout=30), name="restart").statuses("", "") == [200, 200]
    assert Service("1.5/ever", store=RedisStore(redis.url, timeout=30), name="restart").statuses("", "") == [200, 429]


def test_without_its_store_nobody_is_answered() -> None:
    """What is not counted is not limited, so it is a 503, and the endpoint does nothing."""
    with redis_server() as server:
        service = Service("1/ever", store=RedisStore(server.url, timeout=0.25))
        assert service.statuses("") == [200]
        server.kill()
        assert service.statuses("", "") == [503, 503]
    assert service.answered == 1


def test_the_list_of_ledgers_is_written_when_it_can_be() -> None:
    """The charge does not hang on it; a mistake in it is told."""
    store = Moody()
    service = Service("1/ever", store=store)
    store.swap = _away  # type: ignore[method-assign]
    assert service.statuses("") == [200]
    assert not service.ledger._registration.is_done
    store.swap = _broken  # type: ignore[method-assign]
    assert service.statuses("") == [500]
    del store.swap
    assert service.statuses("", "") == [200, 429]
    assert service.ledger._registration.is_done


async def _away(*_: Any, **__: Any) -> bool:
    raise AWAY


async def _broken(*_: Any, **__: Any) -> bool:
    raise ZeroDivisionError


# Mistakes -------------------------------------------------------------------------------------------------------------


WRONG = "0/ever 0.0/month -1/ever 1 1/fortnight 1.0000001/ever 1e3/ever .5/ever 9999999999/ever inf/ever nan/ever"


@pytest.mark.parametrize("limit", [*WRONG.split(), "", "\u0661/ever", "1/ever/ever", 2, None])
def test_limits_that_cannot_be_read(limit: Any) -> None:
    """Nothing is rounded, guessed or taken for no limit."""
    with pytest.raises(ConfigurationError, match="2/ever"):
        EpsilonLedger(limit)


def test_other_settings_that_cannot_work() -> None:
    """They say which they are."""
    with pytest.raises(ConfigurationError, match="by="):
        EpsilonLedger("1/ever", by=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="name="):
        EpsilonLedger("1/ever", name="")
    with pytest.raises(ConfigurationError, match="store="):
        EpsilonLedger("1/ever", store="redis://")  # type: ignore[arg-type]


def test_two_ledgers_share_nothing_unknowingly() -> None:
    """One object for both endpoints, or a name each."""
    app = FastAPI()
    harden(app)
    store = MemoryStore()
    for path in ("/a", "/b"):
        ledger = EpsilonLedger("1/ever", store=store)
        app.get(path, dependencies=[Depends(ledger)])(lambda: None)
    with pytest.raises(ConfigurationError, match="would share one bucket"):
        call(app, "/a", method="GET")
