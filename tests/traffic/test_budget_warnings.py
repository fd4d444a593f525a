"""What goes out when most of a budget is spent."""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import Depends, Request
from tests.asgi import acall
from tests.redis_server import redis_server
from tests.traffic.test_budget import JSON, REST, Service, crowd, key, rows
from tests.traffic.test_outages import AWAY, Moody

from mlguard import BudgetStatus, BudgetWarning, MemoryStore, QueryBudget, RedisStore, Store

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


class Told:
    """Keeps what it is told, and lets tests wait for it."""

    def __init__(self) -> None:
        self.warnings: list[BudgetWarning] = []
        self._told = threading.Semaphore(0)

    def tell(self, warning: BudgetWarning) -> None:
        self.warnings.append(warning)
        self._told.release()

    async def wait(self) -> BudgetWarning:
        """The next warning."""
        assert await asyncio.to_thread(self._told.acquire, timeout=60)
        return self.warnings[-1]


def function(told: Told) -> Callable[[BudgetWarning], Any]:
    return told.tell


def coroutine(told: Told) -> Callable[[BudgetWarning], Any]:
    async def tell(told: Told, warning: BudgetWarning) -> None:
        await asyncio.sleep(0)
        told.tell(warning)

    return functools.partial(tell, told)


def callable_object(told: Told) -> Callable[[BudgetWarning], Any]:
    class Teller:
        async def __call__(self, warning: BudgetWarning) -> None:
            told.tell(warning)

    return Teller()


async def ask(service: Service, number: int, name: str = "alice") -> Any:
    return await acall(service.app, headers=[JSON, key(name)], chunks=[rows(number)])


@pytest.mark.parametrize("form", [function, coroutine, callable_object])
def test_a_warning_comes_once_and_a_header_from_then_on(form: Any, caplog: pytest.LogCaptureFixture) -> None:
    """When 80 % are spent: a line in the log, and a call."""
    caplog.set_level(logging.WARNING, "mlguard")
    told = Told()
    service = Service("10/month", on_warning=form(told))

    async def main() -> list[Any]:
        answers = [await ask(service, number) for number in (7, 1, 1)]
        await told.wait()
        return answers

    answers = asyncio.run(main())
    assert ["budget-warning" in answer.headers for answer in answers] == [False, True, True]
    assert answers[1].headers["budget-warning"] == f'"10/month";r=2;t={REST}'
    (warning,) = told.warnings
    assert (warning.caller.id, warning.is_total) == ("alice", False)
    assert warning.status == BudgetStatus(10, 8, 2, DECEMBER)
    assert caplog.text.count("8 of 10 units are spent by api-key principal 'alice'") == 1


def test_a_warning_that_fails_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The request is answered, and the log says what happened."""
    failed = threading.Event()

    def fail(warning: BudgetWarning) -> None:
        failed.set()
        raise ZeroDivisionError

    service = Service("10/month", on_warning=fail)

    async def main() -> int:
        others = asyncio.all_tasks()
        answer = await ask(service, 9)
        await asyncio.gather(*asyncio.all_tasks() - others)  # what goes on after the answer
        status: int = answer.status
        return status

    assert asyncio.run(main()) == 200
    assert failed.is_set()
    assert "on_warning has failed" in caplog.text


def test_a_warning_that_waits_delays_nobody() -> None:
    """A mail server that does not answer: this request is answered meanwhile, and others too."""
    let_go = threading.Event()
    service = Service("10/month", on_warning=lambda warning: let_go.wait(10))

    async def main() -> list[int]:
        statuses = [(await ask(service, 8)).status, (await ask(service, 1)).status]
        assert not let_go.is_set()
        let_go.set()
        return statuses

    assert asyncio.run(main()) == [200, 200]


def test_the_total_has_a_warning_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """For the operator: no answer says anything of it."""
    told = Told()
    service = Service("10/month", total="12/month", on_warning=told.tell)

    async def main() -> Any:
        await ask(service, 7)
        answer = await ask(service, 3, "bob")
        await told.wait()
        return answer

    assert "budget-warning" not in asyncio.run(main()).headers
    (warning,) = told.warnings
    assert (warning.is_total, warning.caller, warning.status.used) == (True, None, 10)
    assert "10 of 12 units are spent by all callers together" in caplog.text


def test_what_a_reservation_uses_beyond_it_warns_too() -> None:
    """When it is settled."""
    told = Told()
    service = Service("100/month", on_warning=told.tell)

    @service.app.get("/stream", dependencies=[Depends(service.caller)])
    async def stream(request: Request) -> None:
        async with service.budget.reserve(request, 10) as reservation:
            reservation.used = 90

    async def main() -> int:
        await acall(service.app, "/stream", method="GET", headers=[key("alice")])
        return (await told.wait()).status.used

    assert asyncio.run(main()) == 90


def test_units_that_come_back_are_not_warned_of_again() -> None:
    """Once a caller and period, however often the threshold is passed."""
    told = Told()
    service = Service("100/month", on_warning=told.tell)

    async def main() -> None:
        await ask(service, 79)

        @service.app.get("/stream", dependencies=[Depends(service.caller)])
        async def stream(request: Request) -> None:
            async with service.budget.reserve(request, 20):
                pass

        for _ in range(3):
            await acall(service.app, "/stream", method="GET", headers=[key("alice")])
        await told.wait()
        service.clock.now += REST
        await ask(service, 80)
        await told.wait()

    asyncio.run(main())
    assert [warning.status.resets_at for warning in told.warnings] == [DECEMBER, datetime(2027, 1, 1, tzinfo=UTC)]


@pytest.mark.parametrize("where", ["memory", "redis"])
def test_many_at_once_are_warned_of_once(where: str) -> None:
    """By one of several services that share a store."""
    told = Told()
    with redis_server() as redis:
        store: Store = MemoryStore() if where == "memory" else RedisStore(redis.url, timeout=30)
        services = [Service("50/month", name="rows", store=store, on_warning=told.tell) for _ in range(3)]

        async def main() -> None:
            await asyncio.gather(*[crowd(service, 20, 1) for service in services])
            await told.wait()

        asyncio.run(main())
    assert [warning.status.used for warning in told.warnings] == [40]


def test_better_warned_twice_than_never(caplog: pytest.LogCaptureFixture) -> None:
    """Where the store cannot say whether it was done."""

    class Silent(Moody):
        async def swap(self, key: bytes, old: bytes | None, new: bytes, ttl: float) -> bool:
            raise AWAY

    assert Service("10/month", store=Silent()).statuses(8) == [200]
    assert "8 of 10 units are spent" in caplog.text


@pytest.mark.parametrize(
    ("part", "threshold"), [(0.07, 7), (0.55, 55), (0.805, 81), (1, 100), (1e-9, 1), (0.29, 29), (0.8, 80)]
)
def test_the_threshold_is_what_is_written(part: float, threshold: int) -> None:
    """Not what binary fractions make of it."""
    store = MemoryStore()
    budget = QueryBudget("100/month", warn_at=part, store=store)
    assert budget._alarm.threshold == threshold
