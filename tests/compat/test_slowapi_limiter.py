"""The decorators of slowapi without slowapi, beside the real ones."""

import asyncio
import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request, Response
from hypothesis import given
from hypothesis import strategies as st
from limits import parse_many

from mlguard import APIKey, APIKeyAuth, APIKeys, ConfigurationError, MemoryStore, RedisStore, harden
from mlguard.compat import slowapi as ours
from mlguard.compat._slowapi_limits import parse_limits
from tests.asgi import Answer, acall, call
from tests.clock import Clock
from tests.redis_server import redis_server

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # slowapi uses what newer Pythons deprecate
    import slowapi as theirs
    from slowapi.errors import RateLimitExceeded
    from slowapi.util import get_remote_address

RECORDS = {name: APIKey.generate(name) for name in ("alice", "bob")}


def key(name: str) -> tuple[bytes, bytes]:
    return (b"x-api-key", RECORDS[name][1].encode())


def caller() -> APIKeyAuth:
    return APIKeyAuth(APIKeys([record for record, _ in RECORDS.values()]))


def limiter(**options: Any) -> ours.Limiter:
    return ours.Limiter(**{"key_func": ours.get_remote_address, "store": MemoryStore(clock=Clock()), **options})


# The same app with both -----------------------------------------------------------------------------------------------


def org(request: Request) -> str:
    return request.headers.get("x-org", "none")


def build(kind: Any, limiter: ours.Limiter) -> FastAPI:  # noqa: C901  # one endpoint after another
    """An app that uses what slowapi offers."""
    app = FastAPI()
    app.state.limiter = limiter
    if kind is theirs:
        app.add_exception_handler(RateLimitExceeded, theirs._rate_limit_exceeded_handler)  # type: ignore[arg-type]
    else:
        app.add_exception_handler(ours.RateLimitExceeded, ours._rate_limit_exceeded_handler)  # type: ignore[arg-type]

    @app.get("/one")
    @limiter.limit("2/minute")
    async def one(request: Request) -> str:
        return "one"

    @app.get("/sync")
    @limiter.limit("2 per minute")
    def sync(request: Request) -> str:
        return "sync"

    @app.get("/several")
    @limiter.limit("3/minute;2 per second")
    async def several(request: Request) -> str:
        return "several"

    shared = limiter.shared_limit("3/minute", scope="models")

    @app.get("/first")
    @shared
    async def first(request: Request) -> str:
        return "first"

    @app.get("/second")
    @shared
    async def second(request: Request) -> str:
        return "second"

    @app.get("/dear")
    @limiter.limit("5/minute", cost=2)
    async def dear(request: Request) -> str:
        return "dear"

    @app.get("/own")
    @limiter.limit("1/minute", key_func=org)
    async def own(request: Request) -> str:
        return "own"

    @app.api_route("/methods", methods=["GET", "POST"])
    @limiter.limit("1/minute", methods=["POST"])
    async def methods(request: Request) -> str:
        return "methods"

    @app.api_route("/each", methods=["GET", "POST"])
    @limiter.limit("1/minute", per_method=True)
    async def each(request: Request) -> str:
        return "each"

    @app.get("/sometimes")
    @limiter.limit("1/minute", exempt_when=lambda: False)
    async def sometimes(request: Request) -> str:
        return "sometimes"

    @app.get("/never")
    @limiter.limit("1/minute", exempt_when=lambda request: request.headers.get("x-org") == "acme")
    async def never(request: Request) -> str:
        return "never"

    @app.get("/made")
    @limiter.limit(lambda: "1/minute")
    async def made(request: Request) -> str:
        return "made"

    @app.get("/exempt")
    @limiter.exempt
    async def exempt(request: Request) -> str:
        return "exempt"

    return app


ACME = ((b"x-org", b"acme"),)
ASKED: list[tuple[str, str, Any]] = [
    *[("GET", "/one", ())] * 3,
    *[("GET", "/sync", ())] * 3,
    *[("GET", "/several", ())] * 3,
    ("GET", "/first", ()), ("GET", "/second", ()), ("GET", "/first", ()), ("GET", "/second", ()),
    *[("GET", "/dear", ())] * 3,
    ("GET", "/own", ACME), ("GET", "/own", ()), ("GET", "/own", ACME),
    ("POST", "/methods", ()), ("POST", "/methods", ()), ("GET", "/methods", ()),
    ("POST", "/each", ()), ("GET", "/each", ()), ("POST", "/each", ()),
    *[("GET", "/sometimes", ())] * 2,
    ("GET", "/never", ACME), ("GET", "/never", ACME), ("GET", "/never", ()), ("GET", "/never", ()),
    *[("GET", "/made", ())] * 2,
    *[("GET", "/exempt", ())] * 3,
]  # fmt: skip


def test_an_app_answers_as_before() -> None:
    """Every decorator admits and refuses the same requests."""
    real: Any = theirs.Limiter(key_func=get_remote_address)
    before = build(theirs, real)
    after = build(ours, limiter())
    for method, path, headers in ASKED:
        answers = [call(app, path, method=method, headers=headers) for app in (before, after)]
        assert answers[0].status == answers[1].status, (method, path)


# What is better -------------------------------------------------------------------------------------------------------


def app_with(limit: Callable[[Any], Any], *, hardened: bool = True, guard: APIKeyAuth | None = None) -> FastAPI:
    app = FastAPI()
    if hardened:
        harden(app)

    @app.get("/predict", dependencies=[] if guard is None else [Depends(guard)])
    @limit
    async def predict(request: Request) -> str:
        return "answer"

    return app


def ask(app: FastAPI, *headers: tuple[bytes, bytes], number: int = 1) -> list[int]:
    return [call(app, "/predict", method="GET", headers=headers).status for _ in range(number)]


def test_a_typo_is_an_error_and_not_an_open_door() -> None:
    """The package logs it, and lets everybody through."""
    assert (
        ask(app_with(theirs.Limiter(key_func=get_remote_address).limit("1/minuet"), hardened=False), number=3)
        == [200] * 3
    )
    with pytest.raises(ConfigurationError, match="'1/minuet' is no limit"):
        limiter().limit("1/minuet")
    with pytest.raises(ConfigurationError, match="is no limit"):
        call(app_with(limiter().limit(lambda: "often"), hardened=False), "/predict", method="GET")


def test_by_principal() -> None:
    """One caller has one count from everywhere, and another one their own."""
    who = caller()
    app = app_with(limiter(key_func=None, by=who).limit("2/minute"), guard=who)
    assert ask(app, key("alice"), number=3) == [200, 200, 429]
    assert ask(app, key("bob")) == [200]
    assert ask(app) == [401]


def test_a_limit_by_key() -> None:
    """A function of the key says how much each caller may."""
    who = caller()
    keys = {ours.principal_key(who)}

    def how_much(key: str) -> str:
        keys.add(key)  # type: ignore[arg-type]
        return "1/minute"

    app = app_with(limiter(key_func=None, by=who).limit(how_much), guard=who)
    assert ask(app, key("alice"), number=2) == [200, 429]
    assert len(keys) == 2


def test_a_refusal_is_a_problem() -> None:
    """With the time to wait, and the app's own words."""
    own = "A limit on requests is used up. Retry after the time in Retry-After."
    for said, message in (("busy", "busy"), (lambda: "made", "made"), (None, own)):
        app = app_with(limiter().limit("1/minute", error_message=said))
        call(app, "/predict", method="GET")
        refusal = call(app, "/predict", method="GET")
        assert (refusal.status, refusal.json["detail"]) == (429, message)
        assert int(refusal.headers["retry-after"]) > 50


def test_windows_are_one_decision() -> None:
    """What the second refuses does not count in the first."""
    clock = Clock()
    app = app_with(limiter(store=MemoryStore(clock=clock)).limit("3/minute;1/second"))
    statuses = []
    for _ in range(3):
        statuses += ask(app, number=2)
        clock.now += 1.5
    assert statuses == [200, 429] * 3


@pytest.mark.parametrize("returns", ["response", "parameter"])
def test_headers(returns: str) -> None:
    """As slowapi's, of the window with the least left."""
    app = FastAPI()
    limit = limiter(headers_enabled=True).limit("5/minute;3/hour")

    async def one(request: Request) -> Any:
        return Response("answer")

    async def two(request: Request, response: Response) -> Any:
        return "answer"

    app.get("/predict")(limit(one if returns == "response" else two))
    answer = call(app, "/predict", method="GET")
    names = ("limit", "remaining", "reset")
    assert [answer.headers[f"x-ratelimit-{name}"] for name in names] == ["3", "2", "3826"]


def test_headers_need_a_place() -> None:
    """As with slowapi, that is an error of the developer's."""
    with pytest.raises(ConfigurationError, match="parameter response"):
        call(app_with(limiter(headers_enabled=True).limit("5/minute"), hardened=False), "/predict", method="GET")


def test_it_can_be_switched_off() -> None:
    """For tests."""
    one = limiter(headers_enabled=True)
    app = app_with(one.limit("1/minute"))
    one.enabled = False
    assert ask(app, number=3) == [200] * 3


def test_processes_count_together() -> None:
    """In a store that they share; two apps with prefixes of their own do not."""
    with redis_server() as redis:
        url = redis.url.replace("redis://", "valkey://")
        apps = [app_with(limiter(store=None, storage_uri=url).limit("3/minute")) for _ in range(2)]
        assert [ask(app, number=2) for app in apps] == [[200, 200], [200, 429]]
        other = limiter(store=RedisStore(redis.url), key_prefix="other")
        assert ask(app_with(other.limit("3/minute")), number=4) == [200, 200, 200, 429]
        redis.kill()
        assert ask(app_with(limiter(store=RedisStore(redis.url)).limit("3/minute"))) == [503]
        assert ask(app_with(limiter(store=RedisStore(redis.url), on_store_error="allow").limit("3/minute"))) == [200]


def test_many_at_once_are_exactly_the_limit() -> None:
    """Also where the endpoint is a plain function, which runs in a thread."""
    app = FastAPI()

    @app.get("/predict")
    @limiter().limit("7/minute")
    def predict(request: Request) -> str:
        return "answer"

    async def crowd() -> list[Answer]:
        return await asyncio.gather(*[acall(app, "/predict", method="GET") for _ in range(30)])

    app.add_exception_handler(ours.RateLimitExceeded, ours._rate_limit_exceeded_handler)  # type: ignore[arg-type]
    assert [answer.status for answer in asyncio.run(crowd())].count(200) == 7


def test_it_does_without_slowapi(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that has moved can take it out."""
    for name in [name for name in sys.modules if name.partition(".")[0] in {"slowapi", "limits"}]:
        monkeypatch.setitem(sys.modules, name, None)
    importlib.reload(ours)


def test_callables_see_a_scope_and_a_cost() -> None:
    """As with slowapi, with what they are given."""
    one = limiter()
    app = app_with(one.shared_limit("5/minute", scope=lambda place: place[-3:], cost=lambda request: 3))
    assert ask(app, number=2) == [200, 429]
    with pytest.raises(ConfigurationError, match=r"cost=\.\.\."):
        one.limit("5/minute", cost=-1)


# What can be written --------------------------------------------------------------------------------------------------

units = st.sampled_from(["second", "minute", "hour", "day", "month", "year"])
one_limit = st.builds(
    "{}{}{}{}".format,
    st.integers(1, 10**6),
    st.sampled_from(["/", " per ", " / ", "  per  "]),
    st.one_of(st.just(""), st.integers(1, 99).map(lambda n: f"{n} ")),
    st.builds("{}{}".format, units, st.sampled_from(["", "s"])),
)


@given(st.lists(one_limit, min_size=1, max_size=4), st.sampled_from([";", ",", "|", " ; "]))
def test_limits_mean_what_they_meant(limits: list[str], separator: str) -> None:
    """The same numbers in the same time, the lower one of two for the same time."""
    text = separator.join(limits)
    expected: dict[int, int] = {}
    for item in parse_many(text):
        seconds = item.get_expiry()
        expected[seconds] = min(item.amount, expected.get(seconds, item.amount))
    assert {window.seconds: window.limit for window in parse_limits(text).windows} == expected


@given(st.text(max_size=20))
def test_anything_else_is_an_error(text: str) -> None:
    """What the limits package cannot read, nor is nothing."""
    try:
        windows = parse_limits(text).windows
    except ConfigurationError:
        return
    assert len(windows) <= len(parse_many(text))


WRONG = ["0/minute", "", ";", "5/minute;", "-5/minute", "1.5/minute", "5/fortnight", "\u0665/minute"]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_limits(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ConfigurationError, match="is no limit"):
        parse_limits(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_func": None}, "takes by="),
        ({"by": APIKeyAuth(APIKeys([RECORDS["alice"][0]]))}, "takes by="),
        ({"default_limits": ["1/minute"]}, "dependencies="),
        ({"application_limits": ["1/minute"]}, "dependencies="),
        ({"strategy": "sliding-window-counter"}, "windows slide"),
        ({"storage_options": {"a": "b"}}, "into the URL"),
        ({"auto_check": False}, "always counts"),
        ({"swallow_errors": True}, "on_store_error"),
        ({"in_memory_fallback": ["1/minute"]}, "on_store_error"),
        ({"in_memory_fallback_enabled": True}, "on_store_error"),
        ({"retry_after": "http-date"}, "always sent"),
        ({"config_filename": ".env"}, "MLGUARD_STORE_URL"),
        ({"key_style": "path"}, "one count"),
        ({"defaults": []}, "no argument defaults"),
        ({"store": None, "storage_uri": "memcached://host"}, "names no store"),
        ({"on_store_error": "open"}, "on_store_error"),
    ],
)
def test_what_there_is_not_is_an_error(options: Any, message: str) -> None:
    """And says what there is instead; nothing is passed over in silence."""
    with pytest.raises(ConfigurationError, match=message):
        limiter(**options)


def test_values_that_change_nothing_are_taken() -> None:
    """An app that wrote out slowapi's defaults need not take them away."""
    limiter(
        **{name: [] for name in ("default_limits", "application_limits", "in_memory_fallback")},
        **dict.fromkeys(("swallow_errors", "in_memory_fallback_enabled"), False),
        **dict.fromkeys(("retry_after", "config_filename")),
        auto_check=True,
        key_style="url",
        storage_options={},
        strategy="fixed-window",
    )


def test_an_endpoint_without_a_request() -> None:
    """Is told at once, as are defaults that there are none of."""

    async def predict() -> None: ...

    with pytest.raises(ConfigurationError, match="needs a parameter request"):
        limiter().limit("1/minute")(predict)
    with pytest.raises(ConfigurationError, match="no default limits"):
        limiter().limit("1/minute", override_defaults=False)
