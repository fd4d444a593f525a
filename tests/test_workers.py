"""Several processes that count each by itself are told so at start-up."""

import asyncio
import socket

import pytest
from fastapi import Depends, FastAPI

from mlguard import MemoryStore, RateLimit, harden
from mlguard._workers import one_of_several
from tests.redis_server import redis_server
from tests.servers import program, wait_until
from tests.traffic.test_rate import start

SAID = "several processes serve this app"


def run(workers: int, **environment: str) -> str:
    """What uvicorn has written when all of its workers have started."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    arguments = ("-m", "uvicorn", "--workers", str(workers), "--port", port, "tests.service_of_counts:app")
    with program(*arguments, environment=environment) as running:
        wait_until(lambda: running.output.count("Application startup complete") == workers)
        return running.output


def test_workers_in_memory_are_told() -> None:
    """Once is said by all but one of them, with the setting that ends it."""
    assert run(3).count(f"{SAID}, and each counts and remembers by itself (memory://)") == 2


def test_one_worker_is_not_told() -> None:
    """It counts right as it is."""
    assert SAID not in run(1)


def test_workers_with_a_store_are_not_told() -> None:
    """They count together."""
    with redis_server() as redis:
        assert SAID not in run(2, MLGUARD_STORE_URL=redis.url)


def counting_app(title: str = "counting") -> FastAPI:
    app = FastAPI(title=title)
    harden(app)
    app.get("/", dependencies=[Depends(RateLimit("5/minute", store=MemoryStore()))])(lambda: None)
    return app


def test_an_app_that_is_started_again_is_not_several(caplog: pytest.LogCaptureFixture) -> None:
    """As test clients do, and a server that reloads: one after another."""
    for _ in range(3):
        asyncio.run(start(counting_app()))
    assert SAID not in caplog.text


def test_only_the_same_app_counts(caplog: pytest.LogCaptureFixture) -> None:
    """Two services that the same parent has started are two services."""
    with one_of_several("a") as first, one_of_several("b") as other, one_of_several("a") as second:
        assert (first, other, second) == (False, False, True)
    with one_of_several("a") as again:
        assert not again


@pytest.mark.parametrize(("number", "several"), [("4", True), ("1", False), ("0", False), ("", False), (None, False)])
def test_elsewhere_the_environment_tells(number: str | None, several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no names that only one can have."""
    monkeypatch.setattr("sys.platform", "darwin")
    if number is None:
        monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    else:
        monkeypatch.setenv("WEB_CONCURRENCY", number)
    with one_of_several("a") as told:
        assert told is several
