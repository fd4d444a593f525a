"""Several processes that count each by itself are told so at start-up."""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI

from mlguard import (
    AnyAuth,
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConcurrencyLimit,
    JWTAuth,
    MemoryStore,
    QueryBudget,
    RateLimit,
    Revocations,
    SignatureAuth,
    Store,
    TokenIssuer,
    Users,
    harden,
    token_router,
)
from mlguard._workers import _give_all_back, _taken, second_of_several
from tests.redis_server import redis_server
from tests.servers import program, wait_until
from tests.traffic.test_rate import start

SAID = "several processes serve this app"
KEY = "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQs"
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the environment tells")


def run(workers: int, **environment: str) -> str:
    """What uvicorn has written when all of its workers have started."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    arguments = ("-m", "uvicorn", "--workers", str(workers), "--port", port, "tests.service_of_counts:app")
    with program(*arguments, environment=environment) as running:
        wait_until(lambda: running.output.count("Application startup complete") == workers)
        return running.output


def test_workers_in_memory_are_told() -> None:
    """By one line, with the setting that ends it."""
    said = run(3)
    assert said.count(f"{SAID}, and each counts and remembers by itself (memory://)") == 1
    assert said.count("Set MLGUARD_STORE_URL") == 1


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


def test_an_app_that_is_started_twice_in_one_process_is_not_several(caplog: pytest.LogCaptureFixture) -> None:
    """Two test clients at a time, say: they count together."""

    async def both() -> None:
        await asyncio.gather(start(counting_app()), start(counting_app()))

    asyncio.run(both())
    with second_of_several("a") as first, second_of_several("a") as again:
        assert (first, again) == (False, False)
    assert SAID not in caplog.text


# One file alone: to import all of mlguard takes a second.
SERVE = """
import signal, sys
exec(open("src/mlguard/_workers.py").read())
with second_of_several(sys.argv[1]) as is_second:
    print("second" if is_second else "not second")
    {then}
"""


@contextmanager
def serving_process(app: str, *, then: str = "signal.pause()") -> Iterator[str]:
    """A process that says whether it is the second one, and serves until the block ends."""
    with program("-c", SERVE.format(then=then), app) as running:
        yield running.wait_for("(not )?second")[0]


@linux
def test_one_of_them_speaks_for_all() -> None:
    """Of three processes the second; and one that comes for one that has gone is none too many."""
    with serving_process("a") as first:
        with serving_process("a") as second, serving_process("a") as third:
            assert (first, second, third) == ("not second", "second", "not second")
        with serving_process("a") as second_again:
            assert second_again == "second"
    with serving_process("a") as only:
        assert only == "not second"


@linux
def test_the_second_process_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a process that starts the app twice is no more than one, also where it is the third."""
    monkeypatch.setattr("os.getppid", os.getpid)  # as if this process had started itself, like the others
    with serving_process("a"), second_of_several("a") as is_second:
        assert is_second
    with serving_process("a"), serving_process("a"), second_of_several("a") as is_second, second_of_several("a") as too:
        assert (is_second, too) == (False, False)


@linux
def test_only_the_same_app_counts() -> None:
    """Two services that the same parent has started are two services."""
    with serving_process("a") as one, serving_process("b") as other:
        assert (one, other) == ("not second", "not second")


@linux
def test_what_a_worker_forks_is_no_worker() -> None:
    """Though it may live longer than the worker, whose place then another one takes."""
    forks = (
        "import os; told, tells = os.pipe()\n"
        "    if os.fork() == 0: print('forked', flush=True); os.write(tells, b'.'); signal.pause()\n"
        "    os.read(told, 1)"  # it ends once the child has said so
    )
    with program("-c", SERVE.format(then=forks), "a") as worker:
        worker.wait_for("forked")
        assert worker.process.wait(30) == 0
        with serving_process("a") as next_one:
            assert next_one == "not second"
        assert worker.has_children
        os.killpg(worker.process.pid, signal.SIGKILL)
    with second_of_several("a"):
        _give_all_back()  # as in what was forked
        assert not _taken


@linux
def test_where_sockets_are_forbidden_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox without them is no reason not to start."""

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr("socket.socket", forbidden)
    with second_of_several("a") as told:
        assert not told


def failures(store: Store) -> RateLimit:
    return RateLimit("5/minute", name="failures", store=store)


#: Every guard that counts or remembers, itself or in a part of it.
REMEMBERING: dict[str, Callable[[Store], Any]] = {
    "RateLimit": lambda store: RateLimit("5/minute", store=store),
    "QueryBudget": lambda store: QueryBudget("5/day", store=store),
    "ConcurrencyLimit": lambda store: ConcurrencyLimit(5, store=store),
    "SignatureAuth": lambda store: SignatureAuth({"alice": KEY}, store=store),
    "failures of keys": lambda store: APIKeyAuth(APIKeys([APIKey.generate("a")[0]]), failures=failures(store)),
    "failures of tokens": lambda store: JWTAuth(KEY, algorithms=["HS256"], failures=failures(store)),
    "revocations": lambda store: JWTAuth(KEY, algorithms=["HS256"], revocations=Revocations(store=store)),
    "issuer": lambda store: issuer(store).auth(token_url="token"),
    "one of two": lambda store: AnyAuth(
        JWTAuth(KEY, algorithms=["HS256"], revocations=Revocations(store=store)),
        APIKeyAuth(APIKeys([APIKey.generate("a")[0]])),
    ),
}


def issuer(store: Store) -> TokenIssuer:
    return TokenIssuer(KEY, algorithm="HS256", issuer="https://id.example", audience="https://api.example", store=store)


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the second one, whatever it serves."""
    monkeypatch.setattr("sys.platform", "elsewhere")
    monkeypatch.setenv("WEB_CONCURRENCY", "2")


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize("make", REMEMBERING.values(), ids=REMEMBERING)
def test_whatever_remembers_is_looked_at(make: Callable[[Store], Any], caplog: pytest.LogCaptureFixture) -> None:
    """Also what a guard counts by the way, such as failures; not what a test has replaced."""
    app = FastAPI()
    harden(app)
    guard = make(MemoryStore())
    app.get("/", dependencies=[Depends(guard)])(lambda: None)
    app.dependency_overrides[guard] = lambda: None
    asyncio.run(start(app))
    assert SAID not in caplog.text
    app.dependency_overrides.clear()
    asyncio.run(start(app))
    assert SAID in caplog.text
    assert {record.levelname for record in caplog.records if SAID in record.message} == {"ERROR"}


@pytest.mark.usefixtures("second")
def test_logins_are_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    """Their failures, and the sessions of the issuer."""
    app = FastAPI()
    harden(app)
    app.include_router(token_router(Users({}), issuer(MemoryStore())))
    asyncio.run(start(app))
    assert SAID in caplog.text


@pytest.mark.usefixtures("second")
def test_an_app_that_counts_nothing_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """It may run in as many processes as one likes."""
    app = FastAPI()
    harden(app)
    app.get("/", dependencies=[Depends(APIKeyAuth(APIKeys([APIKey.generate("a")[0]])))])(lambda: None)
    asyncio.run(start(app))
    assert SAID not in caplog.text


@pytest.mark.parametrize(("number", "several"), [("4", True), ("1", False), ("0", False), ("", False), (None, False)])
def test_elsewhere_the_environment_tells(number: str | None, several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no names that only one can have."""
    monkeypatch.setattr("sys.platform", "darwin")
    if number is None:
        monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    else:
        monkeypatch.setenv("WEB_CONCURRENCY", number)
    with second_of_several("a") as told:
        assert told is several
