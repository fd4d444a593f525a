"""How often one caller may ask: what can be written, whose bucket it is, and what is answered."""

import asyncio
import contextlib
import functools
import inspect
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Annotated, Any

import http_sf
import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response, Security, WebSocket
from fastapi.security import SecurityScopes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.requests import HTTPConnection
from starlette.types import Message
from tests.clock import Clock

from mlguard._guard import Control, Guard, Principal
from mlguard._order import once
from mlguard.auth.any_auth import AnyAuth
from mlguard.auth.api_keys import APIKeyAuth, APIKeys
from mlguard.auth.jwt import JWTAuth
from mlguard.auth.signing import SignatureAuth
from mlguard.errors import ConfigurationError, RateLimitedError
from mlguard.hardening import harden
from mlguard.memory_store import MemoryStore
from mlguard.store import Window
from mlguard.traffic.rate import RateLimit

ALICE = "Vq3tYxw0ZkLr8HcNfUe5Rj_bPa2GsT7dMi"
BOB = "9fJw2nXs-uQb4LkTz0YhRvC6eGmAo1DpIx"
KEYS = APIKeys([f"alice={ALICE};predict", f"bob={BOB}"])


class Visitors(Guard):
    """An authentication of another kind, which believes a header."""

    control = Control.AUTHENTICATION

    def __init__(self, method: str) -> None:
        self.method = method

    async def __call__(self, conn: HTTPConnection, security_scopes: SecurityScopes) -> Principal:
        async def decide() -> Principal:
            return Principal(conn.headers["X-Name"], method=self.method)

        return await once(conn, self, decide)


def fresh() -> MemoryStore:
    return MemoryStore(clock=Clock())


def app_with(*limits: RateLimit) -> FastAPI:
    """Each limit on an endpoint of its own: /0, /1 and so on."""
    app = FastAPI()
    for number, limit in enumerate(limits):
        app.get(f"/{number}", dependencies=[Depends(limit)])(lambda: "ok")
    return app


Call = tuple[str, dict[str, str]]


def calls(app: FastAPI, *requests: Call | str, client: tuple[str, int] = ("192.0.2.1", 1)) -> list[httpx.Response]:
    """Answers to requests, one after the other."""

    async def go() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            pairs = [(request, {}) if isinstance(request, str) else request for request in requests]
            return [await http.get(path, headers=headers) for path, headers in pairs]

    return asyncio.run(go())


def statuses(app: FastAPI, *requests: Call | str, client: tuple[str, int] = ("192.0.2.1", 1)) -> list[int]:
    return [answer.status_code for answer in calls(app, *requests, client=client)]


def with_key(secret: str, path: str = "/0") -> Call:
    return path, {"X-API-Key": secret}


async def start(app: FastAPI) -> list[Message]:
    """Drive the ASGI lifespan through start-up, as a server does."""
    sent: list[Message] = []
    incoming: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    with contextlib.suppress(ConfigurationError):  # raised after it was reported
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return sent


# What can be written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "window", "spelt"),
    [
        ("60/minute", Window(60, 60), "60/minute"),
        ("60/minutes", Window(60, 60), "60/minute"),
        ("1/second", Window(1, 1), "1/second"),
        ("1000/day", Window(1000, 86_400), "1000/day"),
        ("7/hour", Window(7, 3_600), "7/hour"),
        ("5/10 seconds", Window(5, 10), "5/10 seconds"),
        ("5/1 minute", Window(5, 60), "5/minute"),
        ("5/120 seconds", Window(5, 120), "5/2 minutes"),
        ("5/36 hours", Window(5, 129_600), "5/36 hours"),
        (" 60 / minute ", Window(60, 60), "60/minute"),
        ("999999999999/99999 days", Window(999_999_999_999, 99_999 * 86_400), "999999999999/99999 days"),
    ],
)
def test_limits_say_what_they_mean(text: str, window: Window, spelt: str) -> None:
    """A limit is read as it is written, and spelt in one way whatever way it was written."""
    limit = RateLimit(text, store=fresh())
    assert limit.windows == (window,)
    assert limit.limits == (spelt,)
    assert repr(limit) == f"RateLimit('{spelt} by address')"


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "60", "minute", "/minute", "60/", "60/min", "60/Minute", "60/m", "60/week", "60/month", "60/60",
        "0/minute", "00/minute", "01/minute", "-1/day", "+1/day", "1.5/second", "1e3/day", "1_000/day", "1,000/day",
        "0x10/day", "inf/day", "nan/day", "1/0 seconds", "1/01 seconds", "1/-1 seconds", "1/1.5 seconds",
        "1/10seconds", "1/second;5/minute", "1/second 5/minute", "1/second,5/minute", "1/second/minute",
        "٣/minute", "\uff13/minute", "1/٣ seconds", "1/\u200bminute", "1\uff0fminute", "60/minutess",
        "1000000000000/day", "1/100000 days", f"{'9' * 5_000}/day", "60 per minute", "60/minute\n5/hour",
    ],
)  # fmt: skip
def test_typos_are_refused(text: str) -> None:
    """Whatever cannot be read for certain is refused when the guard is built, with an example of what to write."""
    with pytest.raises(ConfigurationError, match="60/minute"):
        RateLimit(text, store=fresh())


@pytest.mark.parametrize("limits", [(), (60,), (None,), (b"60/minute",), ("60/minute", None), (["60/minute"],)])
def test_other_types_are_refused(limits: tuple[Any, ...]) -> None:
    """A limit is text, and there is at least one."""
    with pytest.raises(ConfigurationError, match="RateLimit"):
        RateLimit(*limits, store=fresh())


@pytest.mark.parametrize("limits", [("60/minute", "60/minute"), ("60/minute", "5/60 seconds"), ("1/day", "9/24 hours")])
def test_one_window_twice_is_refused(limits: tuple[str, ...]) -> None:
    """Two limits on one window are a mistake, however the window is spelt."""
    with pytest.raises(ConfigurationError, match="same window"):
        RateLimit(*limits, store=fresh())


_UNITS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_near = st.from_regex(r"\s*[-+0-9.٣e]{0,6}\s?/?\s?[0-9]{0,3} ?(second|minute|hour|day|min|week|)s?;?", fullmatch=True)


@settings(deadline=None)
@given(st.text(max_size=20) | _near)
@example("1/second;5/minute")
def test_read_exactly_or_refused(text: str) -> None:
    """Any text either means exactly what it says, or is a ConfigurationError."""
    try:
        (window,) = RateLimit(text, store=fresh()).windows
    except ConfigurationError:
        return
    number, per = text.strip().split("/")
    count, unit = re.fullmatch(r"\s*([0-9]*) ?([a-z]+?)s?\s*", per).groups()  # type: ignore[union-attr]  # else fails
    assert window == Window(int(number), int(count or 1) * _UNITS[unit])
    assert window.limit >= 1
    assert window.seconds >= 1
    assert number.isascii()


@settings(deadline=None)
@given(st.integers(1, 10**12 - 1), st.integers(1, 99_999), st.sampled_from([*_UNITS]))
def test_spelling_reads_back(limit: int, count: int, unit: str) -> None:
    """The spelling that callers and logs see means the same limit."""
    first = RateLimit(f"{limit}/{count} {unit}s", store=fresh())
    if count * _UNITS[unit] % 86_400 or count * _UNITS[unit] // 86_400 < 100_000:
        assert RateLimit(*first.limits, store=fresh()).windows == first.windows


def test_names_and_stores_are_checked() -> None:
    """An empty name and a store of another kind are refused."""
    with pytest.raises(ConfigurationError, match="name"):
        RateLimit("60/minute", name="", store=fresh())
    with pytest.raises(ConfigurationError, match="store"):
        RateLimit("60/minute", store={})  # type: ignore[arg-type]  # the mistake


# Whose bucket it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["X-API-Key", 5, Principal("alice"), ["alice"]])
def test_by_that_cannot_name_a_caller(by: Any) -> None:
    """What is neither a guard nor a function cannot say who is calling."""
    with pytest.raises(ConfigurationError, match="by="):
        RateLimit("60/minute", by=by, store=fresh())


def test_by_another_limit_is_refused() -> None:
    """A guard that does not authenticate cannot say who is calling."""
    with pytest.raises(ConfigurationError, match="RateLimit does not say who"):
        RateLimit("60/minute", by=RateLimit("1/day", store=fresh()), store=fresh())


def test_by_address() -> None:
    """Without by=, callers are told apart by address, and an IPv6 customer by the /64 that is his."""
    app = app_with(RateLimit("1/minute", store=fresh()))
    for client in (("192.0.2.1", 1), ("192.0.2.2", 1), ("2001:db8:0:1::1", 1), ("2001:db8:0:2::1", 1)):
        assert statuses(app, "/0", "/0", client=client) == [200, 429]
        assert statuses(app, "/0", client=(client[0], 2)) == [429]
    assert statuses(app, "/0", client=("2001:db8:0:1:ffff::1", 1)) == [429]


def test_by_a_guard() -> None:
    """With by=caller the guard runs first and once: no key is a 401, and each caller has a bucket."""
    caller = APIKeyAuth(KEYS)
    app = app_with(RateLimit("2/minute", by=caller, store=fresh()))
    assert statuses(app, "/0", "/0", "/0", with_key("x" * 40)) == [401] * 4
    assert statuses(app, *[with_key(ALICE)] * 3, with_key(BOB)) == [200, 200, 429, 200]


async def _header_dependency(conn: HTTPConnection) -> str | None:
    return conn.headers.get("X-Name")


def _header_function(conn: HTTPConnection) -> str | None:
    return conn.headers.get("X-Name")


def _request_function(request: Request) -> str | None:
    return request.headers.get("X-Name")


def _unannotated(conn):  # type: ignore[no-untyped-def]  # what people write
    return conn.headers.get("X-Name")


def _generator(conn: HTTPConnection) -> Iterator[str | None]:
    yield conn.headers.get("X-Name")


async def _async_generator(conn: HTTPConnection) -> AsyncIterator[str | None]:
    yield conn.headers.get("X-Name")


def _two_parameters(conn: HTTPConnection, shard: Annotated[int, Query()] = 0) -> str:
    return f"{conn.headers.get('X-Name')}/{shard}"


class _ByHeader:
    def __init__(self, header: str) -> None:
        self._header = header

    def __call__(self, conn: HTTPConnection) -> str | None:
        return conn.headers.get(self._header)

    def name(self, conn: HTTPConnection) -> str | None:
        return self(conn)


_KINDS: dict[str, Callable[..., Any]] = {
    "async dependency": _header_dependency,
    "function": _header_function,
    "function of a request": _request_function,
    "without annotation": _unannotated,
    "lambda": lambda conn: conn.headers.get("X-Name"),
    "generator": _generator,
    "async generator": _async_generator,
    "with a query parameter": _two_parameters,
    "object": _ByHeader("X-Name"),
    "method": _ByHeader("X-Name").name,
    "partial": functools.partial(_header_function),
    "guard": Visitors("visitor"),
    "class of name": lambda conn: f"{conn.headers.get('X-Name')}",
}


@pytest.mark.parametrize("hardened", [False, True])
@pytest.mark.parametrize("kind", [*_KINDS])
def test_by_any_way_of_naming(kind: str, hardened: bool) -> None:
    """Guards, dependencies and functions of every kind name the caller, and each name has a bucket."""
    app = app_with(RateLimit("2/minute", by=_KINDS[kind], store=fresh()))
    if hardened:
        harden(app)
    ann, ben = ("/0", {"X-Name": "ann"}), ("/0", {"X-Name": "ben"})
    assert statuses(app, ann, ann, ann, ben, ann, ben, ben) == [200, 200, 429, 200, 429, 200, 429]


def test_by_a_dependency_with_parameters() -> None:
    """What else the function asks for comes from FastAPI; a request without it is a 422 and is not counted."""
    app = app_with(RateLimit("1/minute", by=_two_parameters, store=fresh()))
    assert statuses(app, "/0?shard=x", "/0?shard=1", "/0?shard=2", "/0?shard=1") == [422, 200, 200, 429]


def test_by_an_annotation_that_cannot_be_resolved() -> None:
    """A function whose annotations cannot be read goes to FastAPI, which says what is wrong with it, or copes."""

    def by(conn: "NoSuchThing") -> str:  # type: ignore[name-defined]  # noqa: F821  # the mistake
        return "x"

    limit = RateLimit("2/minute", by=by, store=fresh())
    assert "who" in inspect.signature(limit).parameters


def test_unnamed_callers_share() -> None:
    """Callers for whom the function knows no name share one bucket; the number 0 is a name."""
    names: dict[str, Any] = {"none": None, "empty": "", "zero": 0, "zero as text": "0"}
    app = app_with(RateLimit("1/minute", by=lambda conn: names[conn.headers["X-Name"]], store=fresh()))
    requests = [("/0", {"X-Name": name}) for name in names]
    assert statuses(app, *requests) == [200, 429, 200, 429]


@pytest.mark.parametrize("returned", [1.5, b"alice", ["alice"], {"sub": "alice"}, object()])
def test_names_of_another_type_fail_closed(returned: Any) -> None:
    """A function that returns something else is a 500 for everybody, never an unlimited service."""
    app = app_with(RateLimit("1/minute", by=lambda conn: returned, store=fresh()))
    assert statuses(app, "/0", "/0") == [500, 500]


def test_by_that_raises_fails_closed() -> None:
    """A function that crashes admits nobody."""
    app = app_with(RateLimit("1/minute", by=lambda conn: conn.headers["X-Missing"], store=fresh()))
    assert statuses(app, "/0", "/0") == [500, 500]


def test_methods_do_not_share() -> None:
    """The key "alice" and a token whose subject is "alice" are two callers, also in one bucket by name."""
    store = fresh()
    limits = [
        RateLimit("1/minute", by=by, name="shared", store=store)
        for by in (APIKeyAuth(KEYS), Visitors("jwt"), Visitors("signature"), _header_function)
    ]
    app = app_with(*limits)
    alice = {"X-API-Key": ALICE, "X-Name": "alice"}
    assert statuses(app, *[(f"/{n}", alice) for n in range(4)]) == [200] * 4
    assert statuses(app, *[(f"/{n}", alice) for n in range(4)]) == [429] * 4


def test_issuers_do_not_share() -> None:
    """The same subject vouched for by two issuers is two callers."""
    who: list[Any] = [
        Principal("alice", method="jwt", issuer="https://a"),
        Principal("alice", method="jwt", issuer="https://b"),
        Principal("alice", method="jwt"),
        "alice",
        Principal("https://a", method="jwt", issuer="alice"),
    ]
    app = app_with(RateLimit("1/minute", by=lambda conn: who[int(conn.headers["X-Name"])], store=fresh()))
    each = [("/0", {"X-Name": str(n)}) for n in range(len(who))]
    assert statuses(app, *each, *each) == [200] * 5 + [429] * 5


def test_names_with_separators_do_not_share() -> None:
    """Slashes, quotes and control characters in names move nothing from one part of a key to the next."""
    store = fresh()
    pairs = [
        ("a/b", "c"),
        ("a", "b/c"),
        ("a", "b"),
        ("a\0b", "c"),
        ("a", "\0b"),
        ('a"', "c"),
        ("1:a", "c"),
        ("a", "1:c"),
    ]
    limits = [RateLimit("1/minute", by=_always(who), name=name, store=store) for name, who in pairs]
    app = app_with(*limits)
    assert statuses(app, *[f"/{n}" for n in range(len(pairs))]) == [200] * len(pairs)


_characters = st.characters() | st.characters(categories=["Cs"])  # surrogates too, which no encoding takes


@settings(deadline=None)
@given(st.lists(st.text(_characters, max_size=6), min_size=2, max_size=6, unique=True))
@example(["\ud800", "\udfff", "?", "\ud800\udfff", "\U000103ff"])
@example(["", "\0", "0", " "])
def test_any_two_names_are_two_callers(names: list[str]) -> None:
    """Whatever text a function returns."""
    limit = RateLimit("1/minute", by=lambda conn: conn.scope["name"], store=fresh())

    async def admitted() -> int:
        number = 0
        for name in names * 2:
            with contextlib.suppress(RateLimitedError):
                await limit.hit(HTTPConnection({"type": "http", "headers": [], "name": name}))
                number += 1
        return number

    assert asyncio.run(admitted()) == len(names)


def test_long_names_take_no_more_room() -> None:
    """A name of a megabyte, which a caller may have chosen, is kept as any other, and tells itself from another."""
    store = fresh()
    names = ["a" * 1_000_000, "a" * 999_999 + "b", "a"]
    limit = RateLimit("1/minute", by=lambda conn: names[int(conn.headers["X-Name"])], store=store)
    assert statuses(app_with(limit), *[("/0", {"X-Name": n}) for n in "012012"]) == [200] * 3 + [429] * 3
    (callers,) = store._buckets.values()
    assert {len(key) for key in callers} == {16}
    assert all(len(bucket) < 1_000 for bucket in store._buckets)


@pytest.mark.parametrize("strategy", ["sliding", "fixed", "gcra"])
def test_a_clock_that_goes_backwards(strategy: Any) -> None:
    """It gives nothing away, answers no error, and the limit is there again when the time has really passed."""
    clock = Clock(1_000_000.0)
    app = app_with(RateLimit("2/minute", strategy=strategy, store=MemoryStore(clock=clock)))
    assert statuses(app, *["/0"] * 3) == [200, 200, 429]
    for back in (1, 30, 60, 3_600, 999_999):
        clock.now = 1_000_000.0 - back
        (answer,) = calls(app, "/0")
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
    clock.now = 1_000_130.0
    assert statuses(app, *["/0"] * 3) == [200, 200, 429]


def _always(who: str) -> Callable[[], str]:
    return lambda: who


def test_one_object_is_one_bucket() -> None:
    """One object on two endpoints, in a router and on the app, is one bucket a caller."""
    limit = RateLimit("3/minute", store=fresh())
    app = app_with(limit, limit)
    router = APIRouter(prefix="/r", dependencies=[Depends(limit)])
    router.get("/")(lambda: "ok")
    app.include_router(router)
    assert statuses(app, "/0", "/1", "/r/", "/0", "/1", "/r/") == [200, 200, 200, 429, 429, 429]


def test_counts_once_a_request() -> None:
    """Listed on app, router, route and in the signature, one limit counts one request once."""
    limit = RateLimit("3/minute", by=APIKeyAuth(KEYS), store=fresh())
    app = FastAPI(dependencies=[Depends(limit)])
    router = APIRouter(dependencies=[Depends(limit), Security(limit, scopes=["predict"])])

    @router.get("/0", dependencies=[Depends(limit)])
    async def endpoint(_: Annotated[None, Security(limit, scopes=[])]) -> str:
        return "ok"

    app.include_router(router)
    assert statuses(app, *[with_key(ALICE)] * 4) == [200, 200, 200, 429]


def test_shared_by_name() -> None:
    """Two objects with one name, the same windows and one store are one bucket; another store is another bucket."""
    store = fresh()
    shared = [RateLimit("2/minute", name="predictions", store=store) for _ in range(2)]
    app = app_with(*shared, RateLimit("2/minute", name="predictions", store=fresh()))
    assert statuses(app, "/0", "/1", "/0", "/1", "/2") == [200, 200, 429, 429, 200]


def test_other_windows_under_one_name() -> None:
    """Without harden nobody checks names: limits of one name that differ in their windows are then simply apart."""
    store = fresh()
    app = app_with(
        RateLimit("1/minute", name="x", store=store),
        RateLimit("1/hour", name="x", store=store),
        RateLimit("1/minute", "1/day", name="x", store=store),
    )
    assert statuses(app, "/0", "/1", "/2", "/0", "/1", "/2") == [200, 200, 200, 429, 429, 429]


# Two limits by mistake -----------------------------------------------------------------------------------------------


def _starts(*limits: RateLimit) -> str:
    """The error that stops the start-up of a hardened app with these limits, or "" if it starts."""
    app = app_with(*limits)
    harden(app)
    first = asyncio.run(start(app))[0]
    return str(first.get("message", "unknown")) if first["type"] == "lifespan.startup.failed" else ""


def test_sharing_unknowingly_stops_the_start() -> None:
    """Two limits that would be one bucket without anybody having said so are a ConfigurationError at start-up."""
    store, caller = fresh(), APIKeyAuth(KEYS)
    assert "one bucket" in _starts(*[RateLimit("60/minute", by=caller, store=store) for _ in range(2)])
    assert "one bucket" in _starts(*[RateLimit("60/minute", store=store) for _ in range(2)])
    assert "one bucket" in _starts(RateLimit("60/minute", store=store), RateLimit("60/60 seconds", store=store))
    assert "one bucket" in _starts(RateLimit("60/minute"), RateLimit("60/minute"))  # the store that all share


def test_one_name_for_two_limits_stops_the_start() -> None:
    """One name stands for one limit: other windows under it are a mistake, and so is taking a derived name."""
    store = fresh()
    named = RateLimit("60/minute", name="predictions", store=store)
    assert "'predictions'" in _starts(named, RateLimit("5/minute", name="predictions", store=store))
    assert "'predictions'" in _starts(named, RateLimit("60/minute", "1/day", name="predictions", store=store))
    derived = RateLimit("60/minute", store=store)
    assert "one bucket" in _starts(derived, RateLimit("60/minute", name=derived.name, store=store))


def test_what_may_share_starts() -> None:
    """The same object twice, one name with the same windows, and limits that differ in anything start."""
    store, caller = fresh(), APIKeyAuth(KEYS)
    limit = RateLimit("60/minute", store=store)
    assert not _starts(limit, limit)
    assert not _starts(*[RateLimit("60/minute", name="predictions", store=store) for _ in range(2)])
    assert not _starts(limit, RateLimit("60/minute", store=fresh()))
    assert not _starts(
        limit,
        RateLimit("61/minute", store=store),
        RateLimit("60/minute", by=caller, store=store),
        RateLimit("60/minute", by=_header_function, store=store),
        RateLimit("60/minute", by=_header_dependency, store=store),
        RateLimit("60/minute", name="mine", store=store),
    )


# What is answered ----------------------------------------------------------------------------------------------------


def _fields(answer: httpx.Response) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """RateLimit-Policy and RateLimit, as the structured fields (RFC 9651) of the IETF draft."""
    return dict(_items(answer, "RateLimit-Policy")), dict(_items(answer, "RateLimit"))


def _items(answer: httpx.Response, name: str) -> list[tuple[str, dict[str, int]]]:
    items: Any = http_sf.parse(answer.headers[name].encode(), tltype="list")
    assert all(type(item) is str for item, _ in items)  # a string, not a token
    return [(item, dict(parameters)) for item, parameters in items]


def test_refusal_is_a_problem_with_true_times() -> None:
    """A 429 is a problem with Retry-After, and a retry at that second is admitted where one a second before is not."""
    clock = Clock(7.0)
    app = app_with(RateLimit("2/minute", "3/hour", store=MemoryStore(clock=clock)))
    harden(app)
    assert statuses(app, "/0", "/0") == [200, 200]
    refusal = calls(app, "/0")[0]
    assert refusal.status_code == 429
    assert refusal.headers["Content-Type"] == "application/problem+json"
    body = refusal.json()
    assert (body["type"], body["status"]) == ("urn:mlguard:problem:rate-limited", 429)
    assert body["request_id"] == refusal.headers["X-Request-Id"]
    assert "192.0.2.1" not in refusal.text
    retry_after = int(refusal.headers["Retry-After"])
    assert 53 < retry_after <= 64  # not the window's 60: the part it began in leaves after 63.75 - 7 % 3.75
    policy, state = _fields(refusal)
    assert policy == {"2/minute": {"q": 2, "w": 60}, "3/hour": {"q": 3, "w": 3_600}}
    assert state["2/minute"] == {"r": 0, "t": retry_after}
    assert state["3/hour"]["r"] == 1
    clock.now = 7.0 + retry_after - 1
    assert statuses(app, "/0") == [429]
    clock.now = 7.0 + retry_after
    assert statuses(app, "/0", "/0") == [200, 429]  # the hour is used up now
    later = calls(app, "/0")[0]
    assert int(later.headers["Retry-After"]) > 3_000
    clock.now += int(later.headers["Retry-After"])
    assert statuses(app, "/0") == [200]


def test_refusal_without_harden() -> None:
    """Without harden, a 429 still carries Retry-After and the fields."""
    app = app_with(RateLimit("1/second", store=fresh()))
    accepted, refusal = calls(app, "/0", "/0")
    assert "RateLimit" not in accepted.headers
    assert "RateLimit-Policy" not in accepted.headers
    assert refusal.status_code == 429
    assert refusal.headers["Retry-After"] == "2"  # 17/16 s
    assert _fields(refusal) == ({"1/second": {"q": 1, "w": 1}}, {"1/second": {"r": 0, "t": 2}})


@pytest.mark.parametrize("kind", ["value", "response", "error", "missing"])
def test_accepted_answers_carry_the_fields(kind: str) -> None:
    """Under harden every counted answer says what is left, also an endpoint's own Response and its errors."""
    limit = RateLimit("10/minute", "100/day", store=fresh())
    app = FastAPI()

    @app.get("/0", dependencies=[Depends(limit)])
    async def endpoint() -> Any:
        if kind == "error":
            raise RuntimeError
        return Response("own") if kind == "response" else {}

    harden(app)
    for number in range(3):
        answer = calls(app, "/0" if kind != "missing" else "/nowhere")[0]
        if kind == "missing":
            assert "RateLimit" not in answer.headers
            continue
        policy, state = _fields(answer)
        assert policy == {"10/minute": {"q": 10, "w": 60}, "100/day": {"q": 100, "w": 86_400}}
        assert state["10/minute"] == {"r": 9 - number, "t": 64}
        assert state["100/day"] == {"r": 99 - number, "t": 91_800}


def test_two_limits_on_one_endpoint() -> None:
    """Two limits on one endpoint are both reported, as one list each."""
    store = fresh()
    app = FastAPI()
    limits = [RateLimit("2/minute", store=store), RateLimit("5/day", by=APIKeyAuth(KEYS), store=store)]
    app.get("/0", dependencies=[Depends(limit) for limit in limits])(lambda: "ok")
    harden(app)
    answers = calls(app, *[with_key(ALICE)] * 3)
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert _fields(answers[1])[1] == {"2/minute": {"r": 0, "t": 64}, "5/day": {"r": 3, "t": 91_800}}
    assert [item for item, _ in _items(answers[2], "RateLimit-Policy")] == ["2/minute"]


def test_concurrent_requests_admit_exactly_the_limit() -> None:
    """Of 200 requests at once at 60 a minute, exactly 60 are admitted."""
    app = app_with(RateLimit("60/minute", "1000/day", by=APIKeyAuth(KEYS), store=fresh()))
    harden(app)

    async def go() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            answers = await asyncio.gather(*(http.get("/0", headers={"X-API-Key": ALICE}) for _ in range(200)))
        return [answer.status_code for answer in answers]

    outcome = asyncio.run(go())
    assert sorted(set(outcome)) == [200, 429]
    assert outcome.count(200) == 60


@pytest.mark.parametrize("hardened", [False, True])
@pytest.mark.parametrize("first", ["limit", "scope"])
@pytest.mark.parametrize("by", ["caller", "address", "function", "dependency"])
def test_refusals_of_others_burn_nothing(hardened: bool, first: str, by: str) -> None:
    """A 401 or a 403 uses up no quota, whichever of guard and limit is listed first."""
    caller = APIKeyAuth(KEYS)
    ways: dict[str, Any] = {"caller": caller, "address": None, "function": _header_function}
    limit = RateLimit("2/minute", by=ways.get(by, _header_dependency), store=fresh())
    listed = [Depends(limit), Security(caller, scopes=["predict"])]
    app = FastAPI()
    app.get("/0", dependencies=listed if first == "limit" else listed[::-1])(lambda: "ok")
    app.get("/1", dependencies=[Depends(limit)])(lambda: "ok")
    if hardened:
        harden(app)
    assert statuses(app, *[with_key(BOB)] * 5) == [403] * 5
    assert statuses(app, "/0", with_key("x" * 40)) == [401, 401]
    assert statuses(app, *[with_key(BOB, "/1")] * 3) == [200, 200, 429]  # all of it was left
    if by == "caller":
        assert statuses(app, *[with_key(ALICE)] * 3) == [200, 200, 429]


# WebSockets ----------------------------------------------------------------------------------------------------------


async def _dial(app: FastAPI, headers: Sequence[tuple[bytes, bytes]] = ()) -> list[Message]:
    """Open a WebSocket, as a server does for a client, and close it."""
    sent: list[Message] = []
    incoming: list[Message] = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "ws",
        "path": "/live", "raw_path": b"/live", "root_path": "", "query_string": b"", "headers": [*headers],
        "client": ("192.0.2.1", 1), "server": ("service", 80), "subprotocols": [], "state": {},
        "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    with contextlib.suppress(Exception):  # without harden, the refusal may also come as an exception
        await app(scope, receive, send)
    return sent


@pytest.mark.parametrize("hardened", [False, True])
def test_websockets_are_counted(hardened: bool) -> None:
    """A WebSocket is one request of its caller's, and one too many is not accepted."""
    caller = APIKeyAuth(KEYS)
    limit = RateLimit("3/minute", by=caller, store=fresh())
    app = app_with(limit)

    @app.websocket("/live", dependencies=[Security(caller, scopes=["predict"]), Depends(limit)])
    async def live(socket: WebSocket) -> None:
        await socket.accept()

    if hardened:
        harden(app)
    key = [(b"x-api-key", ALICE.encode())]

    async def accepted(headers: Sequence[tuple[bytes, bytes]]) -> bool:
        return any(message["type"] == "websocket.accept" for message in await _dial(app, headers))

    async def session() -> list[bool]:
        anonymous = [await accepted([]), await accepted([(b"x-api-key", b"\xe9")])]
        return [*anonymous, *[await accepted(key) for _ in range(2)]]

    assert asyncio.run(session()) == [False, False, True, True]
    assert statuses(app, with_key(ALICE), with_key(ALICE)) == [200, 429]  # one bucket with the endpoint
    refused = asyncio.run(_dial(app, key))
    assert "websocket.accept" not in [message["type"] for message in refused]
    if hardened:
        assert refused[0]["type"] == "websocket.http.response.start"
        assert refused[0]["status"] == 429
        assert any(name == b"retry-after" for name, _ in refused[0]["headers"])


def test_replaced_keys_begin_no_new_count() -> None:
    """A bucket is called the same whatever keys there are, so that they can be replaced one process at a time."""
    one, two = "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQsT5uV", "Q9wE2rT6yU1iO5pA8sD3fG7hJ4kL0zXcV6bN"
    guards: list[tuple[Any, Any]] = [
        (JWTAuth({"1": one}, algorithms=["HS256"]), JWTAuth({"1": one, "2": two}, algorithms=["HS256"])),
        (SignatureAuth({"1": one}), SignatureAuth({"2": two})),
    ]
    guards.append((AnyAuth(*(before for before, _ in guards)), AnyAuth(*(after for _, after in guards))))
    for before, after in guards:
        assert RateLimit("5/minute", by=before).name == RateLimit("5/minute", by=after).name


def test_the_class_of_a_guard_says_nobody() -> None:
    """Who forgets to make a guard of it is told at once, and not at the first request."""
    with pytest.raises(ConfigurationError, match="is the class"):
        RateLimit("5/minute", by=APIKeyAuth)
