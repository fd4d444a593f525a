"""The real slowapi, keyed on the principal that a guard has proved."""

import asyncio
import re
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection

from mlguard import (
    AnyAuth,
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    JWTAuth,
    NotAuthenticatedError,
    RateLimit,
    harden,
    principal_of,
    truncate_output,
)
from mlguard._guard import RequestMemory
from mlguard.compat.slowapi import principal_key
from tests.asgi import Answer, acall, call, make_scope
from tests.compat.test_jose import LONG_SECRET, encode, soon

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # slowapi uses what newer Pythons deprecate
    from slowapi import Limiter, _rate_limit_exceeded_handler
    from slowapi.errors import RateLimitExceeded
    from slowapi.middleware import SlowAPIASGIMiddleware, SlowAPIMiddleware
    from slowapi.util import get_remote_address

ALICE, ALICE_SECRET = APIKey.generate("alice")
BOB, BOB_SECRET = APIKey.generate("bob")
HOME, WORK = "192.0.2.1", "198.51.100.7"

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Make = Callable[[FastAPI, APIKeyAuth, Limiter], None]


def as_alice() -> tuple[bytes, bytes]:
    return (b"x-api-key", ALICE_SECRET.encode())


def bearer(claims: dict[str, Any]) -> tuple[bytes, bytes]:
    return (b"authorization", b"Bearer " + encode(claims))


def as_bob() -> tuple[bytes, bytes]:
    return (b"x-api-key", BOB_SECRET.encode())


@pytest.fixture
def caller() -> APIKeyAuth:
    return APIKeyAuth(APIKeys([ALICE, BOB]))


def limited(caller: APIKeyAuth, **options: Any) -> tuple[FastAPI, Limiter]:
    """An app with a limiter, the way slowapi's docs set it up."""
    app = FastAPI()
    app.state.limiter = limiter = Limiter(key_func=principal_key(caller), **options)
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]  # slowapi's own
    return app, limiter


def add_async(app: FastAPI, caller: APIKeyAuth, limiter: Limiter) -> None:
    @app.post("/predict", dependencies=[Depends(caller)])
    @limit(limiter)
    async def predict(request: Request) -> str:
        return "ok"


def add_sync(app: FastAPI, caller: APIKeyAuth, limiter: Limiter) -> None:
    @app.post("/predict", dependencies=[Depends(caller)])
    @limit(limiter)
    def predict(request: Request) -> str:
        return "ok"


def add_included(app: FastAPI, caller: APIKeyAuth, limiter: Limiter) -> None:
    router = APIRouter()

    @router.post("/predict", dependencies=[Depends(caller)])
    @limit(limiter)
    def predict(request: Request) -> str:
        return "ok"

    app.include_router(router)


def add_mounted(app: FastAPI, caller: APIKeyAuth, limiter: Limiter) -> None:
    inner = FastAPI()
    inner.state.limiter = limiter
    inner.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]  # slowapi's own
    add_sync(inner, caller, limiter)
    app.mount("/", inner)


def add_direct(app: FastAPI, caller: APIKeyAuth, limiter: Limiter) -> None:
    @app.post("/predict", dependencies=[Depends(caller)])
    @truncate_output(decimals=1)
    @limit(limiter)
    def predict(request: Request) -> dict[str, Any]:
        return {"probabilities": [[0.25, 0.75]]}


def limit(limiter: Limiter, value: str = "2/minute") -> Callable[[Endpoint], Endpoint]:
    """The decorator. It looks for coroutine functions in a way that newer Pythons deprecate."""

    def decorate(function: Endpoint) -> Endpoint:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            limited: Endpoint = limiter.limit(value)(function)
        return limited

    return decorate


def ask(app: FastAPI, *headers: tuple[bytes, bytes], client: str = HOME, path: str = "/predict") -> Answer:
    return call(app, path, headers=headers, client=(client, 1))


@pytest.mark.parametrize("hardened", [False, True])
@pytest.mark.parametrize("add", [add_async, add_sync, add_included, add_mounted, add_direct])
def test_counts_go_by_principal(add: Make, hardened: bool, caller: APIKeyAuth) -> None:
    """Two callers behind one address have a count each; one caller has one from everywhere."""
    app, limiter = limited(caller)
    add(app, caller, limiter)
    if hardened:
        harden(app)
    assert [ask(app, as_alice()).status for _ in range(3)] == [200, 200, 429]
    assert ask(app, as_alice(), client=WORK).status == 429
    assert [ask(app, as_bob()).status for _ in range(3)] == [200, 200, 429]


def test_refused_credentials_count_for_nobody(caller: APIKeyAuth) -> None:
    """Who is refused does not get as far as the limiter, and uses up nobody's limit."""
    app, limiter = limited(caller)
    add_sync(app, caller, limiter)
    assert [ask(app, (b"x-api-key", b"wrong")).status for _ in range(5)] == [401] * 5
    assert ask(app, as_alice()).status == 200


def test_same_name_under_another_method_is_another_caller(caller: APIKeyAuth) -> None:
    """The key "alice", and the tokens of "alice" from two issuers, share nothing."""
    tokens = JWTAuth(LONG_SECRET, algorithms=["HS256"])
    seen = set()
    proofs: list[tuple[Any, tuple[bytes, bytes]]] = [
        (caller, as_alice()),
        (tokens, bearer(soon())),
        (tokens, bearer(soon(iss="a"))),
        (tokens, bearer(soon(iss="b"))),
    ]
    for guard, header in proofs:
        scope = make_scope("GET", "/", [header])
        asyncio.run(guard(HTTPConnection(scope), SecurityScopes()))
        seen.add(principal_key(guard)(Request(scope)))
    assert len(seen) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", key) for key in seen), "a digest, without the separators of limits"


def test_log_of_slowapi_names_nobody(caller: APIKeyAuth, caplog: pytest.LogCaptureFixture) -> None:
    """It logs the key of each refusal: a digest."""
    app, limiter = limited(caller)
    add_sync(app, caller, limiter)
    assert [ask(app, as_alice()).status for _ in range(3)][-1] == 429
    assert "ratelimit" in caplog.text
    assert "alice" not in caplog.text
    assert ALICE_SECRET not in caplog.text


def test_race_admits_no_more_than_the_limit(caller: APIKeyAuth) -> None:
    """Many requests of one caller at once are one count."""
    app, limiter = limited(caller)
    harden(app)
    add_sync(app, caller, limiter)

    async def flood() -> list[Answer]:
        return await asyncio.gather(
            *(acall(app, headers=[as_alice()], client=(f"192.0.2.{number}", 1)) for number in range(40))
        )

    assert sorted(answer.status for answer in asyncio.run(flood())) == [200] * 2 + [429] * 38


# Where the guard has not judged ---------------------------------------------------------------------------------------


def test_route_without_the_guard_is_an_error(caller: APIKeyAuth) -> None:
    """Nobody gets in uncounted, or counted as somebody else, because a guard was forgotten."""
    app, limiter = limited(caller)

    @app.post("/predict")
    @limit(limiter)
    def predict(request: Request) -> None:
        raise AssertionError("reached")

    with pytest.raises(ConfigurationError, match="APIKeyAuth has not said who sent this request; use it on the route"):
        ask(app, as_alice())


def test_route_with_another_guard_is_an_error(caller: APIKeyAuth) -> None:
    """The guard that is named is the one whose word counts."""
    app, limiter = limited(caller)

    @app.post("/predict", dependencies=[Depends(APIKeyAuth(APIKeys([ALICE])))])
    @limit(limiter)
    def predict(request: Request) -> None:
        raise AssertionError("reached")

    with pytest.raises(ConfigurationError):
        ask(app, as_alice())


def test_otherwise_names_callers_of_open_routes(caller: APIKeyAuth) -> None:
    """By address there, by principal where the guard is; and no address is anybody's principal."""
    app = FastAPI()
    app.state.limiter = limiter = Limiter(key_func=principal_key(caller, otherwise=get_remote_address))
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]  # slowapi's own
    add_sync(app, caller, limiter)

    @app.post("/open")
    @limit(limiter)
    async def welcome(request: Request) -> str:
        return "ok"

    assert [ask(app, path="/open").status for _ in range(3)] == [200, 200, 429]
    assert ask(app, path="/open", client=WORK).status == 200
    assert [ask(app, as_alice()).status for _ in range(3)] == [200, 200, 429]


def test_otherwise_without_a_name_still_counts(caller: APIKeyAuth) -> None:
    """Slowapi skips a limit whose key is empty; ours never is."""
    app = FastAPI()
    app.state.limiter = limiter = Limiter(key_func=principal_key(caller, otherwise=lambda request: ""))
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]  # slowapi's own

    @app.post("/predict")
    @limit(limiter)
    async def welcome(request: Request) -> str:
        return "ok"

    assert [ask(app).status for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("middleware", [SlowAPIMiddleware, SlowAPIASGIMiddleware])
@pytest.mark.parametrize("hardened", [False, True])
def test_middleware_counts_by_what_otherwise_says(middleware: Any, hardened: bool, caller: APIKeyAuth) -> None:
    """It runs before any guard: its default limits go by address, those of decorators by principal."""
    app = FastAPI()
    key_func = principal_key(caller, otherwise=get_remote_address)
    app.state.limiter = limiter = Limiter(key_func=key_func, default_limits=["3/minute"])
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]  # slowapi's own
    app.add_middleware(middleware)
    add_sync(app, caller, limiter)

    @app.post("/default", dependencies=[Depends(caller)])
    async def default(request: Request) -> str:
        return "ok"

    if hardened:
        harden(app)
    assert [ask(app, as_alice()).status for _ in range(3)] == [200, 200, 429]
    assert [ask(app, who, path="/default").status for who in (as_alice(), as_bob(), as_bob(), as_bob())] == [
        *[200] * 3,
        429,
    ]
    assert ask(app, as_bob(), path="/default", client=WORK).status == 200


def test_middleware_without_otherwise_is_an_error(caller: APIKeyAuth) -> None:
    """A default limit cannot go by principal, and does not go by nobody."""
    app, _ = limited(caller, default_limits=["3/minute"])
    app.add_middleware(SlowAPIASGIMiddleware)

    @app.post("/predict", dependencies=[Depends(caller)])
    async def predict(request: Request) -> None:
        raise AssertionError("reached")

    with pytest.raises(AttributeError, match="'ConfigurationError' object has no attribute 'detail'"):
        ask(app, as_alice())  # slowapi takes every error for one of its own


def test_refusal_under_harden_is_a_problem_without_slowapis_handler(caller: APIKeyAuth) -> None:
    """``harden`` answers slowapi's error as it answers any other."""
    app = FastAPI()
    limiter = Limiter(key_func=principal_key(caller))
    harden(app)
    add_sync(app, caller, limiter)
    refused = [ask(app, as_alice()) for _ in range(3)][-1]
    assert (refused.status, refused.headers["content-type"]) == (429, "application/problem+json")


def test_counts_go_by_principal_with_either_credential(caller: APIKeyAuth) -> None:
    """AnyAuth names the caller too: nobody is counted by address although somebody has proved who it is."""
    either = AnyAuth(caller, JWTAuth(LONG_SECRET, algorithms=["HS256"]))
    limiter = Limiter(key_func=principal_key(either, otherwise=get_remote_address))
    app = FastAPI()
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]

    @app.get("/", dependencies=[Depends(either)])
    @limiter.limit("1/minute")
    def root(request: Request) -> None: ...

    def status(credential: tuple[bytes, bytes], address: str) -> int:
        return call(app, "/", method="GET", headers=[credential], client=(address, 1)).status

    token = bearer(soon())
    assert [status(as_alice(), HOME), status(as_bob(), HOME), status(token, HOME)] == [200] * 3
    assert [status(as_alice(), WORK), status(as_bob(), WORK), status(token, WORK)] == [429] * 3


# principal_of ---------------------------------------------------------------------------------------------------------


def test_principal_of_is_who_the_guard_has_proved(caller: APIKeyAuth) -> None:
    """An endpoint, or what is called from one, asks for it by the request."""
    app = FastAPI()

    @app.post("/predict", dependencies=[Depends(caller), Depends(RateLimit("9/minute", by=caller))])
    def predict(request: Request) -> str:
        return principal_of(request, caller).id

    assert ask(app, as_bob()).json == "bob"


def test_principal_of_tells_no_earlier_request(caller: APIKeyAuth) -> None:
    """A request that is handed on with other headers is another request, of which nothing is known."""
    app = FastAPI()
    told: list[str] = []

    @app.post("/predict", dependencies=[Depends(caller)])
    async def predict(request: Request) -> None:
        told.append(principal_of(request, caller).id)
        forged = Request({**request.scope, "headers": [(b"x-api-key", b"wrong")]})
        with pytest.raises(ConfigurationError):
            principal_of(forged, caller)

    ask(app, as_alice())
    assert told == ["alice"]


def test_principal_of_raises_the_refusal_of_the_guard(caller: APIKeyAuth) -> None:
    """Who asks after a guard has refused, in an error handler say, is told so again."""
    conn = HTTPConnection(make_scope("GET", "/"))
    with pytest.raises(NotAuthenticatedError):
        asyncio.run(caller(conn, SecurityScopes()))
    with pytest.raises(NotAuthenticatedError):
        principal_of(conn, caller)


def test_principal_of_a_guard_that_names_nobody_is_an_error(caller: APIKeyAuth) -> None:
    """A rate limit has decided, and says nothing of who is calling."""
    limit = RateLimit("9/minute")
    conn = HTTPConnection(make_scope("GET", "/"))
    asyncio.run(limit(conn))
    assert limit in RequestMemory.of(conn.scope).decisions
    with pytest.raises(ConfigurationError, match="RateLimit has not said who"):
        principal_of(conn, limit)


@pytest.mark.parametrize("wrong", [None, "alice", len, RateLimit("9/minute"), APIKeyAuth])
def test_what_names_nobody_is_no_caller(wrong: Any) -> None:
    """At construction, not at the first request."""
    with pytest.raises(ConfigurationError, match="principal_key takes a guard that says who is calling"):
        principal_key(wrong)
