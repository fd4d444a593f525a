"""Callers with limits of their own."""

from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection
from tests.asgi import Answer, call

from mlguard import APIKey, APIKeyAuth, APIKeys, MemoryStore, Principal, RateLimit, harden

USUAL, USUAL_SECRET = APIKey.generate("usual")
OWN, OWN_SECRET = APIKey.generate("own", limits=["4/minute", "5/hour"])


def app_with(*keys: APIKey, hardened: bool = True, limit: RateLimit | None = None, **options: Any) -> FastAPI:
    app = FastAPI()
    caller = APIKeyAuth(APIKeys(keys))
    steady = limit or RateLimit("2/minute", by=caller, store=MemoryStore(clock=lambda: 1_000.0), **options)

    @app.get("/", dependencies=[Depends(steady)])
    async def ready() -> None: ...

    if hardened:
        harden(app)
    return app


def ask(app: FastAPI, secret: str) -> Answer:
    return call(app, "/", method="GET", headers=[(b"x-api-key", secret.encode())])


def test_own_limits_are_counted_instead() -> None:
    """With the caller's own numbers in Retry-After, RateLimit and RateLimit-Policy."""
    app = app_with(USUAL, OWN)
    answers = [ask(app, OWN_SECRET) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 429]
    policy = '"4/minute";q=4;w=60, "5/hour";q=5;w=3600'
    assert answers[0].headers["ratelimit-policy"] == policy
    assert answers[0].headers["ratelimit"].startswith('"4/minute";r=3;t=')
    assert answers[-1].headers["ratelimit-policy"] == policy
    assert answers[-1].headers["ratelimit"].startswith('"4/minute";r=0;t=')
    assert 0 < int(answers[-1].headers["retry-after"]) <= 64
    usual = [ask(app, USUAL_SECRET) for _ in range(3)]
    assert [answer.status for answer in usual] == [200, 200, 429]
    assert usual[0].headers["ratelimit-policy"] == '"2/minute";q=2;w=60'


def test_limits_that_change_begin_a_new_count() -> None:
    """A reload may change a key's limits to more windows, fewer, or none: the count is another one each time."""
    records = [
        APIKey("own", OWN.digest, limits=limits, key_id=OWN.key_id)
        for limits in (("1/minute",), ("1/minute", "9/day"), (), ("1/hour",))
    ]
    keys = {number: APIKeys([record]) for number, record in enumerate(records)}
    now = 0
    caller = APIKeyAuth(keys[now])
    limit = RateLimit("1/minute", by=caller, store=MemoryStore(clock=lambda: 1_000.0))
    app = FastAPI()

    @app.get("/", dependencies=[Depends(limit)])
    async def ready() -> None: ...

    for table in keys.values():
        caller._keys = table
        assert [ask(app, OWN_SECRET).status for _ in range(2)] == [200, 429]
    caller._keys = keys[0]
    assert ask(app, OWN_SECRET).status == 429  # what was counted is not forgotten


def test_own_limits_share_no_bucket() -> None:
    """Not with another limit of the same name whose windows are just those of the key."""
    store = MemoryStore(clock=lambda: 1_000.0)
    caller = APIKeyAuth(APIKeys([OWN]))
    other = APIKeyAuth(APIKeys([APIKey("own", OWN.digest)]))
    app = FastAPI()

    @app.get("/own", dependencies=[Depends(RateLimit("2/minute", by=caller, name="n", store=store))])
    async def own() -> None: ...

    @app.get("/same", dependencies=[Depends(RateLimit(*OWN.limits, by=other, name="n", store=store))])
    async def same() -> None: ...

    header = [(b"x-api-key", OWN_SECRET.encode())]
    for path in ("/own", "/same"):
        statuses = [call(app, path, method="GET", headers=header).status for _ in range(5)]
        assert statuses == [200, 200, 200, 200, 429]


def test_several_keys_of_one_caller_share_a_count() -> None:
    """A rotated key with the same limits gives no fresh quota."""
    other, other_secret = APIKey.generate("own", limits=OWN.limits)
    app = app_with(OWN, other)
    assert [ask(app, secret).status for secret in (OWN_SECRET, other_secret) * 3] == [200, 200, 200, 200, 429, 429]


def test_the_log_names_the_limits(caplog: pytest.LogCaptureFixture) -> None:
    """Else the operator would look for a limit that does not stand in the code."""
    app = app_with(APIKey("own", OWN.digest, limits=("1/day",)))
    ask(app, OWN_SECRET)
    ask(app, OWN_SECRET)
    assert "'own', own limits 1/day" in caplog.text


def test_limits_of_a_guard_of_the_apps_own() -> None:
    """A function may return a principal with limits. Ones that cannot be read refuse the request."""

    def who(conn: HTTPConnection) -> Principal:
        return Principal("x", limits=(conn.headers["x-limit"],))

    limit = RateLimit("9/minute", by=who, store=MemoryStore(clock=lambda: 1_000.0))
    app = app_with(USUAL, limit=limit)
    headers = [(b"x-limit", b"1/minute")]
    assert [call(app, "/", method="GET", headers=headers).status for _ in range(2)] == [200, 429]
    assert call(app, "/", method="GET", headers=[(b"x-limit", b"lots")]).status == 500


def test_failures_are_counted_by_own_limits_too() -> None:
    """A limit on failures by such a function looks and charges in the same bucket."""

    def who(conn: HTTPConnection) -> Principal:
        return Principal("x", limits=("2/minute",))

    failures = RateLimit("9/minute", by=who, name="failures", store=MemoryStore(clock=lambda: 1_000.0))
    app = FastAPI()

    @app.get("/", dependencies=[Depends(APIKeyAuth(APIKeys([USUAL]), failures=failures))])
    async def ready() -> None: ...

    assert [ask(app, "wrong").status for _ in range(3)] == [401, 401, 429]


def test_principals_are_compared_without_limits() -> None:
    """What somebody may ask for says nothing about who it is."""
    assert Principal("a", limits=("1/day",)) == Principal("a")
