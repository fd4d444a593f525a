"""A brake on guessing: failed credentials count, and nothing else does."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Security
from starlette.requests import HTTPConnection

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    JWTAuth,
    MemoryStore,
    RateLimit,
    SignatureAuth,
    harden,
)
from mlguard._guard import Guard
from tests.asgi import Answer, call
from tests.clock import Clock

RECORD, SECRET = APIKey.generate("alice")
GOOD = (b"x-api-key", SECRET.encode())
WRONG = (b"x-api-key", b"wrong")
ONCE = "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQsT5uV"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(clock: Clock) -> RateLimit:
    return RateLimit("3/minute", name="failures", store=MemoryStore(clock=clock))


@pytest.fixture
def app(failures: RateLimit) -> FastAPI:
    """One endpoint behind a key, without and with a scope that nobody has."""
    app = FastAPI()
    caller = APIKeyAuth(APIKeys([RECORD]), failures=failures)

    @app.get("/predict", dependencies=[Depends(caller)])
    async def predict() -> None: ...

    @app.get("/scoped", dependencies=[Security(caller, scopes=["admin"])])
    async def scoped() -> None: ...

    return app


def ask(app: FastAPI, *headers: tuple[bytes, bytes], path: str = "/predict", client: str = "192.0.2.1") -> Answer:
    return call(app, path, method="GET", headers=headers, client=(client, 1))


def test_too_many_failures_shut_an_address_out(app: FastAPI, clock: Clock) -> None:
    """With the right key too, or a guess could be told to be right; other addresses go on."""
    assert [ask(app, WRONG).status for _ in range(4)] == [401, 401, 401, 429]
    refused = ask(app, GOOD)
    assert refused.status == 429
    assert 0 < int(refused.headers["retry-after"]) <= 64
    assert ask(app, GOOD, client="192.0.2.2").status == 200
    clock.now += int(refused.headers["retry-after"])
    assert ask(app, GOOD).status == 200


def test_success_neither_counts_nor_erases(app: FastAPI) -> None:
    """A guesser with a key of their own gains nothing by using it in between."""
    statuses = [ask(app, header).status for header in (WRONG, GOOD, WRONG, GOOD, GOOD, GOOD, WRONG, GOOD)]
    assert statuses == [401, 200, 401, 200, 200, 200, 401, 429]


def test_missing_scope_is_no_failure(app: FastAPI) -> None:
    """Who has a valid key guesses nothing."""
    assert [ask(app, GOOD, path="/scoped").status for _ in range(5)] == [403] * 5
    assert ask(app, GOOD).status == 200


def test_header_of_the_caller_changes_no_address(app: FastAPI) -> None:
    """A forged X-Forwarded-For gives nobody a fresh count."""
    for number in range(3):
        ask(app, WRONG, (b"x-forwarded-for", b"198.51.100.%d" % number))
    assert ask(app, WRONG, (b"x-forwarded-for", b"198.51.100.9")).status == 429


@pytest.mark.parametrize(
    "make",
    [
        lambda failures: JWTAuth(ONCE, algorithms=["HS256"], failures=failures),
        lambda failures: SignatureAuth({"robot": ONCE}, failures=failures, store=MemoryStore()),
    ],
)
def test_every_authenticator_counts(make: Callable[[RateLimit], Guard], failures: RateLimit) -> None:
    """Tokens and signatures are guessed as keys are; guards that share a limit share the count."""
    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(make(failures))])  # type: ignore[arg-type]  # a guard is callable
    async def predict() -> None: ...

    @app.get("/key", dependencies=[Depends(APIKeyAuth(APIKeys([RECORD]), failures=failures))])
    async def key() -> None: ...

    assert ask(app, WRONG, path="/key").status == 401
    assert [ask(app, (b"authorization", b"Bearer x")).status for _ in range(3)] == [401, 401, 429]


def test_credentials_are_not_looked_at_once_the_limit_is_used_up(failures: RateLimit) -> None:
    """The costly part is what a flood of guesses would like to have."""
    looked_up: list[float] = []

    def keys() -> APIKeys:
        looked_up.append(time.monotonic())
        return APIKeys([RECORD])

    app = FastAPI()
    limit = RateLimit("1/minute", name="once", store=MemoryStore())

    @app.get("/predict", dependencies=[Depends(APIKeyAuth(keys, failures=limit))])
    async def predict() -> None: ...

    assert ask(app).status == 401  # no key at all: nothing is looked up
    assert ask(app, GOOD).status == 429
    assert looked_up == []


@pytest.mark.parametrize("wrong", ["10/minute", 10, RateLimit("10/minute", by=APIKeyAuth(APIKeys([RECORD])))])
def test_limit_that_cannot_count_failures_is_refused(wrong: object) -> None:
    """A limit by principal has nobody to count for."""
    for make in (
        lambda: APIKeyAuth(APIKeys([RECORD]), failures=wrong),  # type: ignore[arg-type]
        lambda: JWTAuth(ONCE, algorithms=["HS256"], failures=wrong),  # type: ignore[arg-type]
        lambda: SignatureAuth({"robot": ONCE}, failures=wrong),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError, match="failures"):
            make()


def test_limit_by_a_function_of_the_connection_counts() -> None:
    """Whose bucket it is may be decided by the app, from what cannot be forged."""

    def port(conn: HTTPConnection) -> int:
        return conn.client.port if conn.client else 0

    limit = RateLimit("1/minute", by=port, store=MemoryStore())
    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(APIKeyAuth(APIKeys([RECORD]), failures=limit))])
    async def predict() -> None: ...

    assert [call(app, method="GET", client=("192.0.2.1", port)).status for port in (1, 1, 2)] == [401, 429, 401]


def test_documentation_tells_of_the_refusal() -> None:
    """Who may be shut out after failures finds the 429 in OpenAPI, of every authenticator."""
    limit = RateLimit("3/minute", name="failures", store=MemoryStore())
    app = FastAPI()
    harden(app, docs=True)
    guards: list[Any] = [
        APIKeyAuth(APIKeys([RECORD]), failures=limit),
        JWTAuth(ONCE, algorithms=["HS256"], failures=limit),
        SignatureAuth({"robot": ONCE}, failures=limit, store=MemoryStore()),
    ]
    for number, guard in enumerate(guards):
        app.get(f"/{number}", dependencies=[Depends(guard)])(lambda: None)
    paths = app.openapi()["paths"]
    assert all("429" in paths[f"/{number}"]["get"]["responses"] for number in range(3))
