"""The decorators of slowapi without slowapi, beside the real ones."""

import asyncio
import importlib
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response, WebSocket
from fastapi.responses import PlainTextResponse
from hypothesis import given
from hypothesis import strategies as st
from limits import parse_many
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from mlguard import APIKey, APIKeyAuth, APIKeys, ClientAddress, ConfigurationError, MemoryStore, RedisStore, harden
from mlguard.compat import slowapi as ours
from mlguard.compat._slowapi_limits import parse_limits
from tests.asgi import Answer, acall, call
from tests.clock import Clock
from tests.redis_server import redis_server
from tests.servers import serving

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # slowapi uses what newer Pythons deprecate
    import slowapi as theirs
    from slowapi import middleware
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

    @app.get("/stacked")
    @limiter.limit("9/hour")
    @limiter.limit("4/minute")
    @limiter.limit("5/minute", key_func=org)
    async def stacked(request: Request) -> str:
        return "stacked"

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
    *[("GET", "/stacked", ())] * 5,
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


def with_defaults(kind: Any, limiter: ours.Limiter, middleware: Any) -> FastAPI:
    """The app on the first page of slowapi's documentation, and what changes its default limits."""
    app = FastAPI()
    app.state.limiter = limiter
    app.add_middleware(middleware)
    handler = (kind if kind is theirs else ours)._rate_limit_exceeded_handler
    app.add_exception_handler(RateLimitExceeded if kind is theirs else ours.RateLimitExceeded, handler)

    @app.get("/free")
    async def free() -> str:
        return "free"

    @app.get("/other")
    def other() -> str:
        return "other"

    @app.get("/more")
    @limiter.limit("4/minute")
    async def more(request: Request) -> str:
        return "more"

    @app.get("/both")
    @limiter.limit("4/minute", override_defaults=False)
    async def both(request: Request) -> str:
        return "both"

    @app.get("/twice")
    @limiter.limit("9/hour", override_defaults=False)
    @limiter.limit("4/minute", override_defaults=False)
    async def twice(request: Request) -> str:
        return "twice"

    @app.get("/mixed")
    @limiter.limit("9/hour", override_defaults=False)
    @limiter.limit("4/minute")
    async def mixed(request: Request) -> str:
        return "mixed"

    @app.get("/exempt")
    @limiter.exempt
    async def exempt(request: Request) -> str:
        return "exempt"

    return app


@pytest.mark.parametrize("name", ["SlowAPIMiddleware", "SlowAPIASGIMiddleware"])
@pytest.mark.parametrize("value", ["3/minute", lambda: "3/minute"])
def test_default_limits_hold_where_they_did(name: str, value: Any) -> None:
    """Where there is no decorator, and where the decorators leave them in force."""
    real: Any = theirs.Limiter(key_func=get_remote_address, default_limits=[value])
    before = with_defaults(theirs, real, getattr(middleware, name))
    after = with_defaults(ours, limiter(default_limits=[value]), getattr(ours, name))
    for path in ("/free", "/other", "/more", "/both", "/twice", "/mixed", "/exempt", "/nothing"):
        for _ in range(5):
            answers = [call(app, path, method="GET").status for app in (before, after)]
            assert answers[0] == answers[1], path


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


async def is_waited_for(request: Request) -> str:
    return "alice"


class Waits:
    async def __call__(self, request: Request) -> str:
        return "alice"


@pytest.mark.parametrize("function", [is_waited_for, Waits()])
def test_functions_that_are_to_be_awaited(function: Any) -> None:
    """What they return is true, and another thing each time: the package exempts everybody."""

    async def never(request: Request) -> bool:
        return False

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it was never awaited
        real: Any = theirs.Limiter(key_func=get_remote_address)
        limit = real.limit("1/minute", exempt_when=never)
        assert ask(app_with(limit, hardened=False), number=3) == [200] * 3
    for name in ("key_func", "exempt_when", "cost", "error_message"):
        with pytest.raises(ConfigurationError, match=rf"{name}=\.\.\.\) takes a plain function"):
            limiter().limit("1/minute", **{name: function})
    with pytest.raises(ConfigurationError, match="takes a plain function"):
        limiter().limit(function)
    with pytest.raises(ConfigurationError, match="takes a plain function"):
        limiter().shared_limit("1/minute", function)
    with pytest.raises(ConfigurationError, match="takes a plain function"):
        limiter(key_func=function)


def test_functions_that_return_what_is_to_be_awaited() -> None:
    """Which only a call shows."""
    functions: list[Any] = [
        lambda request: asyncio.sleep(0, request),
        lambda request: asyncio.get_running_loop().create_future(),
    ]
    for made in functions:
        for settings in ({"key_func": made}, {"exempt_when": made}):
            with pytest.raises(ConfigurationError, match="is to be awaited"):
                call(app_with(limiter().limit("1/minute", **settings), hardened=False), "/predict", method="GET")


@pytest.mark.parametrize("key", ["alice", 7, None, ""])
def test_whoever_is_named_has_one_count(key: Any) -> None:
    """Also who is named by nothing: the package lets them all through."""
    assert ask(app_with(limiter(key_func=lambda: key).limit("1/minute")), number=2) == [200, 429]


def test_one_function_at_two_paths() -> None:
    """By path it has two counts, and otherwise one; what callers write into a path makes no more of them."""
    for options, expected in (({}, [200, 429, 200]), ({"key_style": "endpoint"}, [200, 429, 429])):
        app = FastAPI()
        harden(app)

        async def predict(request: Request) -> str:
            return "answer"

        limited = limiter(**options).limit("1/minute")(predict)
        app.add_api_route("/one/{name}", limited)
        app.add_api_route("/two", limited)
        assert [call(app, path, method="GET").status for path in ("/one/a", "/one/b", "/two")] == expected


def test_functions_of_one_name_have_counts_of_their_own() -> None:
    """As those have that are made in a loop, for one model each."""
    app, one = FastAPI(), limiter()
    harden(app)
    for model in ("iris", "wine"):

        @app.get(f"/{model}")
        @one.limit("1/minute")
        async def predict(request: Request) -> str:
            return "answer"

    assert [call(app, path, method="GET").status for path in ("/iris", "/wine", "/iris", "/wine")] == [
        *[200] * 2,
        *[429] * 2,
    ]


def test_a_key_that_is_another_each_time() -> None:
    """A connection has its port in it, which would be a count for each connection."""
    for wrong in (lambda request: request.client, lambda request: request, object):
        with pytest.raises(ConfigurationError, match="key_func has returned a"):
            call(app_with(limiter(key_func=wrong).limit("1/minute"), hardened=False), "/predict", method="GET")


def test_a_function_with_a_default_is_one_of_nothing() -> None:
    """It is not given the request in the place of its own value."""
    app = app_with(limiter(key_func=lambda prefix="all": prefix).limit("1/minute"))
    assert ask(app, number=2) == [200, 429]


def test_behind_a_proxy() -> None:
    """``ClientAddress`` is a ``key_func``."""
    address = ClientAddress(trusted_proxies=["127.0.0.1"])
    app = app_with(limiter(key_func=address).limit("1/minute"))
    forwarded = [(b"x-forwarded-for", f"203.0.113.{number}".encode()) for number in (5, 6, 5)]
    assert [ask(app, header)[0] for header in forwarded] == [200, 200, 429]


def test_default_limits_hold_in_included_routers_and_mounted_apps() -> None:
    """Which the package does not see; files that are mounted are none of its business."""
    app, router, mounted = FastAPI(), APIRouter(), FastAPI()
    app.state.limiter = limiter(default_limits=["1/minute"], headers_enabled=True)
    app.add_middleware(ours.SlowAPIMiddleware)
    harden(app)
    harden(mounted)
    router.add_api_route("/in/{name}", lambda name: name)
    mounted.add_api_route("/in", lambda: "mounted")
    app.include_router(router, prefix="/router")
    app.mount("/app", mounted)
    app.mount("/files", PlainTextResponse("file"))
    for path in ("/router/in/a", "/app/in"):
        first, second = [call(app, path, method="GET") for _ in range(2)]
        assert (first.status, first.headers["x-ratelimit-remaining"]) == (200, "0")
        assert (second.status, second.json["type"]) == (429, "urn:mlguard:problem:rate-limited")
        assert (second.headers["x-ratelimit-limit"], second.reads) == ("1", 0)
        assert second.json["request_id"]
    assert call(app, "/router/in/b", method="GET").status == 429
    assert [call(app, "/files/", method="GET").status for _ in range(2)] == [200, 200]


def test_a_refusal_of_the_middleware_is_answered_as_the_app_wants() -> None:
    """Its own handler is asked, plain or async; a store that is away is no refusal of a limit."""

    async def later(request: Request, exc: Exception) -> Response:
        return PlainTextResponse("later", 429)

    def now(request: Request, exc: Exception) -> Response:
        return PlainTextResponse("now", 429)

    for handler in (later, now):
        app = FastAPI()
        app.state.limiter = limiter(default_limits=["1/minute"])
        app.add_middleware(ours.SlowAPIMiddleware)
        app.add_exception_handler(ours.RateLimitExceeded, handler)
        app.add_api_route("/predict", lambda: "answer")
        answers = [call(app, "/predict", method="GET") for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 429]
        assert answers[1].body.decode() == handler.__name__
    with redis_server() as redis:
        app.state.limiter = limiter(default_limits=["1/minute"], store=RedisStore(redis.url))
        redis.kill()
        assert call(app, "/predict", method="GET").status == 503


def test_the_middleware_needs_this_limiter() -> None:
    """And not the package's, nor none."""
    app = FastAPI()
    app.add_middleware(ours.SlowAPIMiddleware)
    app.add_api_route("/predict", lambda: "answer")
    for wrong in (None, theirs.Limiter(key_func=get_remote_address)):
        app.state.limiter = wrong
        with pytest.raises(ConfigurationError, match=r"app\.state\.limiter is no Limiter"):
            call(app, "/predict", method="GET")


def test_the_middleware_leaves_sockets_alone() -> None:
    """As the package's does; their decorators count them."""
    app = FastAPI()
    app.state.limiter = one = limiter(default_limits=["1/minute"])
    app.add_middleware(ours.SlowAPIMiddleware)
    harden(app)

    @app.websocket("/free")
    async def free(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    @app.websocket("/limited")
    @one.limit("1/minute")
    async def limited(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    with serving(app) as url:
        for path, admitted in (("/free", 3), ("/limited", 1)):
            for _ in range(admitted):
                with connect(url.replace("http", "ws") + path):
                    pass
        with pytest.raises(InvalidStatus) as refusal, connect(url.replace("http", "ws") + "/limited"):
            pass
    assert refusal.value.response.status_code == 429


def test_exempt_goes_before_a_limit() -> None:
    """However they are stacked. The package crashes where headers are to be written."""
    one = limiter()
    for stacked in (lambda it: one.exempt(one.limit("1/minute")(it)), lambda it: one.limit("1/minute")(one.exempt(it))):
        assert ask(app_with(stacked), number=2) == [200, 200]


def test_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Which the package reads: passed over, a store or a limit would be gone in silence."""
    monkeypatch.setenv("RATELIMIT_STORAGE_URL", "redis://:secret@host")
    with pytest.raises(ConfigurationError, match="RATELIMIT_STORAGE_URL is set") as error:
        limiter()
    assert "secret" not in str(error.value)
    monkeypatch.delenv("RATELIMIT_STORAGE_URL")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("RATELIMIT_DEFAULT='5/minute'\n")
    with pytest.raises(ConfigurationError, match="RATELIMIT_DEFAULT is set"):
        limiter()
    (tmp_path / ".env").write_text("OTHER='5/minute'\n")
    limiter()


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
    answers = [call(app, "/predict", method="GET") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-limit"] for answer in answers] == ["3"] * 4
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
    for answer in answers:  # seconds since 1970
        assert 3_600 <= int(answer.headers["x-ratelimit-reset"]) - time.time() < 3_900


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
        ({"default_limits": ["1/minuet"]}, "is no limit"),
        ({"default_limits": "1/minute"}, "is a list"),
        ({"default_limits": [1]}, "is a text"),
        ({"key_func": None, "by": caller(), "default_limits": ["1/minute"]}, "before any guard"),
        ({"application_limits": ["1/minute"]}, "dependencies="),
        ({"strategy": "sliding-window-counter"}, "windows slide"),
        ({"storage_options": {"a": "b"}}, "into the URL"),
        ({"auto_check": False}, "always counts"),
        ({"swallow_errors": True}, "on_store_error"),
        ({"in_memory_fallback": ["1/minute"]}, "on_store_error"),
        ({"in_memory_fallback_enabled": True}, "on_store_error"),
        ({"retry_after": "http-date"}, "always sent"),
        ({"config_filename": ".env"}, "MLGUARD_STORE_URL"),
        ({"key_style": "path"}, "key_style"),
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

    async def body(request: dict[str, int]) -> None: ...

    async def model(request: int) -> None: ...

    with pytest.raises(ConfigurationError, match="needs a parameter request"):
        limiter().limit("1/minute")(predict)
    with pytest.raises(ConfigurationError, match="its parameter request is a int"):
        limiter().limit("1/minute")(model)
    with pytest.raises(ConfigurationError, match="its parameter request is no request"):
        asyncio.run(limiter().limit("1/minute")(body)({}))
    with pytest.raises(ConfigurationError, match="no default_limits"):
        limiter().limit("1/minute", override_defaults=False)
