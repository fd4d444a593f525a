"""Who sees more: scopes that were proved, and nothing that a request says of itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request, Response, Security
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection
from tests.asgi import Answer, acall, call
from tests.auth.jwt_attacks import NOW, SECRET, resigned

from mlguard import (
    AnyAuth,
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    Features,
    JWTAuth,
    NotAuthenticatedError,
    OutputPolicy,
    Principal,
    RateLimit,
    harden,
    truncate_output,
)
from mlguard.memory_store import MemoryStore
from mlguard.outputs._endpoint import policies_of

EXACT = 0.123456789
ROW = [EXACT, 1 - EXACT]
PRIVATE, MIDDLE, OPEN = 1, [0.12, 0.88], ROW

KEYS = {
    name: APIKey.generate(name, scopes=scopes)
    for name, scopes in {
        "nobody": set[str](),
        "partner": {"partner"},
        "alice": {"trusted"},
        "both": {"trusted", "partner"},
        "predict": {"predict", "trustedness", "TRUSTED", "trust", ""} - {""},
    }.items()
}
POLICIES: dict[str, OutputPolicy | str] = {"partner": OutputPolicy(), "trusted": "open"}


def key(name: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-api-key", KEYS[name][1].encode())]


def token(subject: str, *scopes: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + resigned(sub=subject, scope=" ".join(scopes)))]


def answering(who: Any) -> Callable[[], Any]:
    """A dependency that says so."""
    return lambda: who


class Service:
    """Endpoints of each kind that show more to some."""

    def __init__(self, *, hardened: bool = True) -> None:
        self.app = FastAPI()
        self.keys = APIKeyAuth(APIKeys([one for one, _ in KEYS.values()]))
        self.tokens = JWTAuth(SECRET, algorithms=["HS256"], clock=lambda: NOW)
        self.either = AnyAuth(self.keys, self.tokens)
        self.limit = RateLimit("100/minute", by=self.keys, store=MemoryStore(clock=lambda: 0.0))
        truncate = truncate_output("private", per_scope=POLICIES, by=self.keys)

        @self.app.get("/async")
        @truncate
        async def soon() -> Any:
            return {"probabilities": ROW}

        @self.app.get("/sync")
        @truncate
        def sync() -> Any:
            return {"probabilities": ROW}

        @self.app.get("/guarded", dependencies=[Depends(self.limit)])
        @truncate
        def guarded(who: Annotated[Principal, Depends(self.keys)], request: Request, response: Response) -> Any:
            response.headers["x-who"] = who.id
            return {"probabilities": ROW}

        @self.app.get("/either")
        @truncate_output("private", per_scope=POLICIES, by=self.either)
        def either() -> Any:
            return {"probabilities": ROW}

        @self.app.get("/stream")
        @truncate
        async def stream() -> AsyncIterator[Any]:
            yield {"probabilities": ROW}

        if hardened:
            harden(self.app)

    def ask(self, path: str, headers: list[tuple[bytes, bytes]], **more: Any) -> Answer:
        return call(self.app, path, method="GET", headers=headers, **more)


@pytest.fixture(params=["direct", "by FastAPI", "bare"])
def service(request: pytest.FixtureRequest) -> Service:
    """The service on the short cut, with FastAPI doing everything, and without harden."""
    service = Service(hardened=request.param != "bare")
    if request.param == "by FastAPI":
        service.app.dependency_overrides[Service] = Service
    return service


@pytest.mark.parametrize("path", ["/async", "/sync", "/guarded", "/either", "/stream"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [("nobody", PRIVATE), ("partner", MIDDLE), ("alice", OPEN), ("both", MIDDLE), ("predict", PRIVATE)],
)
def test_a_scope_decides_what_is_seen(service: Service, path: str, name: str, expected: Any) -> None:
    """The first policy whose scope the caller holds, whole and in its case; none, and it is the strictest."""
    answer = service.ask(path, key(name))
    assert (answer.status, answer.json["probabilities"]) == (200, expected)
    assert "no-store" in answer.headers["cache-control"]


@pytest.mark.parametrize("path", ["/async", "/sync", "/guarded", "/either", "/stream"])
def test_who_proves_nothing_sees_nothing(service: Service, path: str) -> None:
    """The caller is a dependency of the endpoint: without a credential, or with a wrong one, there is no answer."""
    claims = [(b"x-scope", b"trusted"), (b"scope", b"trusted"), (b"x-mlguard-caller", b"trusted")]
    query = "?_mlguard_caller=trusted&scope=trusted&scopes=trusted"
    for headers in (claims, [*claims, (b"x-api-key", b"no key")]):
        answer = service.ask(path + query, headers)
        assert answer.status == 401
        assert b"12" not in answer.body.replace(answer.headers.get("x-request-id", "-").encode(), b"")


@pytest.mark.parametrize("path", ["/async", "/sync", "/either", "/stream"])
def test_a_request_says_nothing_of_its_own_scopes(service: Service, path: str) -> None:
    """Neither query nor headers nor cookies of a caller who is known change what it holds."""
    headers = [*key("nobody"), (b"x-scope", b"trusted"), (b"cookie", b"scope=trusted; _mlguard_caller=trusted")]
    answer = service.ask(f"{path}?_mlguard_caller=trusted&scopes=trusted&security_scopes=trusted", headers)
    assert answer.json["probabilities"] == PRIVATE


def test_a_scope_of_a_namesake_is_not_ones_own(service: Service) -> None:
    """The token of an "alice" with a scope, and the key of another "alice" without: whoever is named first counts."""
    assert service.ask("/either", token("nobody", "trusted")).json["probabilities"] == OPEN
    assert service.ask("/either", token("alice")).json["probabilities"] == PRIVATE
    assert service.ask("/either", [*key("nobody"), *token("nobody", "trusted")]).json["probabilities"] == PRIVATE
    assert service.ask("/either", [*token("nobody", "trusted"), *key("nobody")]).json["probabilities"] == PRIVATE
    assert service.ask("/either", [*key("alice"), (b"authorization", b"Bearer forged")]).status == 401


@pytest.mark.parametrize("scopes", ["nopredict", b"predict", None, {"predict": False}, ["predict", 7], "predict read"])
def test_what_is_no_set_of_names_proves_nobody(scopes: Any) -> None:
    """In one text, every part of it would be held as a scope."""
    with pytest.raises(ConfigurationError, match=r"Principal\(scopes=\.\.\.\) is a set of names"):
        Principal("alice", scopes=scopes)


@pytest.mark.parametrize("scopes", [{"trusted"}, ["trusted"], ("trusted",), {"trusted": 1}.keys()])
def test_names_are_held_as_a_frozenset(scopes: Any) -> None:
    """However a guard of the app's own has collected them."""
    assert Principal("alice", scopes=scopes) == Principal("alice", frozenset({"trusted"}))
    assert hash(Principal("alice", scopes=scopes)) == hash(Principal("alice", frozenset({"trusted"})))


def test_a_scope_that_a_route_demands_is_not_one_that_is_held() -> None:
    """``Security(caller, scopes=[...])`` elsewhere on the route gives nobody a scope."""
    keys = APIKeyAuth(APIKeys([one for one, _ in KEYS.values()]))
    app = FastAPI()

    @app.get("/predict", dependencies=[Security(keys, scopes=["predict"])])
    @truncate_output("private", per_scope={"trusted": "open"}, by=keys)
    def predict() -> Any:
        return {"probabilities": ROW}

    harden(app)
    assert call(app, method="GET", headers=key("predict")).json["probabilities"] == PRIVATE
    assert call(app, method="GET", headers=key("alice")).status == 403


@pytest.mark.parametrize("path", ["/async", "/sync", "/either"])
def test_overrides_say_who_is_calling(service: Service, path: str) -> None:
    """In a test, the principal of an override holds its scopes; what is no principal holds none."""
    caller = service.either if path == "/either" else service.keys
    for who, expected in (
        (Principal("tester", frozenset({"trusted"})), OPEN),
        (Principal("tester"), PRIVATE),
        ("trusted", PRIVATE),
        ({"scopes": ["trusted"]}, PRIVATE),
        (None, PRIVATE),
    ):
        service.app.dependency_overrides[caller] = answering(who)
        assert service.ask(path, []).json["probabilities"] == expected
    service.app.dependency_overrides.clear()
    assert service.ask(path, []).status == 401


def test_a_dependency_of_the_apps_own_may_let_strangers_in() -> None:
    """One that returns None for a caller it does not know: those get the strictest."""
    keys = APIKeyAuth(APIKeys([one for one, _ in KEYS.values()]))

    async def maybe(conn: HTTPConnection) -> Principal | None:
        try:
            return await keys(conn, SecurityScopes())
        except NotAuthenticatedError:
            return None

    app = FastAPI()

    @app.get("/predict")
    @truncate_output("private", per_scope={"trusted": "open"}, by=maybe)
    def predict() -> Any:
        return {"probabilities": ROW}

    harden(app)
    for headers, expected in (([], PRIVATE), ([(b"x-api-key", b"x")], PRIVATE), (key("alice"), OPEN)):
        assert call(app, method="GET", headers=headers).json["probabilities"] == expected


def test_callers_at_once_do_not_mix(service: Service) -> None:
    """Each of many requests at the same time gets what its own caller may see, and no answer may be kept for others."""

    async def together() -> list[tuple[str, Answer]]:
        names = ["nobody", "alice", "partner"] * 10
        calls = [acall(service.app, "/async", method="GET", headers=key(name)) for name in names]
        return list(zip(names, await asyncio.gather(*calls), strict=True))

    expected = {"nobody": PRIVATE, "alice": OPEN, "partner": MIDDLE}
    for name, answer in asyncio.run(together()):
        assert answer.json["probabilities"] == expected[name]


def test_called_directly_there_is_nobody() -> None:
    """In a developer's own code it gives the strictest, and what a developer passes in by name is no caller's."""
    keys = APIKeyAuth(APIKeys([KEYS["alice"][0]]))
    predict = truncate_output("private", per_scope={"trusted": "open"}, by=keys)(lambda: {"probabilities": ROW})
    assert predict() == {"probabilities": PRIVATE}


def test_a_cache_control_of_the_endpoints_own_stays() -> None:
    """Where the endpoint has said how long its answer may be kept, that is its business."""
    app = FastAPI()

    @app.get("/predict")
    @truncate_output("private", per_scope={"trusted": "open"}, by=lambda: None)
    def predict(response: Response) -> Any:
        response.headers["Cache-Control"] = "private"
        return {"probabilities": ROW}

    assert call(app, method="GET").headers.getlist("cache-control") == ["private"]


def test_the_fingerprint_has_all_that_decides() -> None:
    """Another policy, scope, order, label or path has another fingerprint."""
    keys = APIKeyAuth(APIKeys([KEYS["alice"][0]]))
    features = Features(columns=2, low=0, high=1, max_rows=1)
    prints = set()
    several: list[dict[str, Any]] = [
        {},
        {"decimals": 3},
        {"labels": ["a", "b"]},
        {"labels": ["b", "a"]},
        {"scores": "p"},
        {"per_scope": {"a": "open"}, "by": keys},
        {"per_scope": {"b": "open"}, "by": keys},
        {"per_scope": {"a": "open", "b": "balanced"}, "by": keys},
        {"per_scope": {"b": "balanced", "a": "open"}, "by": keys},
    ]
    for options in several:
        policies = policies_of(truncate_output(**options)(features.check))
        assert policies is not None
        prints.add(policies.fingerprint())
    assert len(prints) == 9


KEYS_ONLY = APIKeyAuth(APIKeys([KEYS["alice"][0]]))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"per_scope": {"trusted": "open"}}, "go together"),
        ({"by": KEYS_ONLY}, "go together"),
        ({"per_scope": {}, "by": KEYS_ONLY}, "per_scope"),
        ({"per_scope": [("trusted", "open")], "by": KEYS_ONLY}, "per_scope"),
        ({"per_scope": {"": "open"}, "by": KEYS_ONLY}, "scope is text"),
        ({"per_scope": {"a b": "open"}, "by": KEYS_ONLY}, "scope is text"),
        ({"per_scope": {1: "open"}, "by": KEYS_ONLY}, "scope is text"),
        ({"per_scope": {"trusted": "opn"}, "by": KEYS_ONLY}, r"per_scope\['trusted'\] must be"),
        ({"per_scope": {"trusted": "open"}, "by": APIKeyAuth}, "is the class"),
        ({"per_scope": {"trusted": "open"}, "by": Features(columns=2, low=0, high=1, max_rows=1)}, "who is calling"),
        ({"per_scope": {"trusted": "open"}, "by": "caller"}, "by must be"),
        ({"policy": "open", "per_scope": {"trusted": "private"}, "by": KEYS_ONLY}, "strictest policy first"),
        ({"policy": "open", "per_scope": {"trusted": "balanced"}, "by": KEYS_ONLY}, "strictest policy first"),
        ({"policy": "balanced", "per_scope": {"trusted": "private"}, "by": KEYS_ONLY}, "strictest policy first"),
        ({"decimals": 3, "per_scope": {"t": OutputPolicy(decimals=1)}, "by": KEYS_ONLY}, "strictest policy first"),
        ({"decimals": 1, "per_scope": {"t": OutputPolicy(decimals=1, top_k=2)}, "by": KEYS_ONLY}, "strictest policy"),
        ({"significant": 3, "per_scope": {"t": OutputPolicy(significant=2)}, "by": KEYS_ONLY}, "strictest policy"),
    ],
    ids=repr,
)
def test_a_setting_that_cannot_work_is_refused_at_once(options: dict[str, Any], names: str) -> None:
    """Scopes that nobody can hold, callers without scopes, and policies the wrong way round."""
    with pytest.raises(ConfigurationError, match=names):
        truncate_output(**options)


@pytest.mark.parametrize(
    ("everybody", "trusted"),
    [
        (OutputPolicy(decimals=1, top_k=2), OutputPolicy(decimals=1)),
        (OutputPolicy(decimals=1), OutputPolicy(decimals=3, top_k=2)),
        (OutputPolicy(decimals=3), OutputPolicy(significant=2)),
        (OutputPolicy(decimals=3, min_confidence=0.5), OutputPolicy(decimals=1)),
        (OutputPolicy(bins=[0, 1, 2]), OutputPolicy(decimals=1)),
        (OutputPolicy(decimals=1), OutputPolicy(decimals=1)),
        (OutputPolicy(label_only=True), OutputPolicy(label_only=True, min_confidence=0.9, decimals=0)),
    ],
)
def test_policies_that_show_more_or_something_else_are_taken(everybody: OutputPolicy, trusted: OutputPolicy) -> None:
    """Only one that plainly shows less is a mistake."""

    def predict() -> Any: ...

    policies = policies_of(truncate_output(predict, policy=everybody, per_scope={"trusted": trusted}, by=KEYS_ONLY))
    assert policies is not None
    assert [truncation.scores.policy for truncation in policies.all] == [everybody, trusted]


def test_scores_alone_have_no_caller() -> None:
    """Given scores instead of an endpoint, nobody is asking."""
    with pytest.raises(ConfigurationError, match="nobody is calling"):
        truncate_output([0.5, 0.5], per_scope={"a": "open"}, by=KEYS_ONLY)  # type: ignore[call-overload]  # the point
