"""Keys from a real server that goes down, rotates, hangs, lies and floods."""

import asyncio
import builtins
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI

from mlguard import AnyAuth, APIKey, APIKeyAuth, APIKeys, ConfigurationError, JWTAuth, harden
from mlguard.auth._jwt_keys import KeyHealth
from mlguard.auth._key_sources import KeyURL, OpenIDProvider
from mlguard.auth.jwks import PublishedKeys
from tests.asgi import acall, call
from tests.auth.jwt_attacks import NOW
from tests.auth.provider import WELL_KNOWN, Answer, Provider, answer, jwks, provider, token
from tests.clock import Clock
from tests.servers import serving, wait_until

ISSUER = "https://login.example"


@pytest.fixture
def idp() -> Iterator[Provider]:
    with provider() as running:
        yield running


def auth_of(idp: Provider, clock: Clock | None = None, **settings: Any) -> JWTAuth:
    """A guard with the keys at the provider's URL, refreshed by a clock that the test turns."""
    options = {"refresh_every": 300, "max_stale": 3_600, "timeout": 5, **settings}
    keys = PublishedKeys(KeyURL(idp.url + "/keys"), ["RS256"], clock=clock or Clock(1_000.0), **options)
    return JWTAuth(keys, algorithms=["RS256"], issuer=ISSUER, audience="api", clock=lambda: NOW)


def service(auth: JWTAuth | AnyAuth, *, hardened: bool = False) -> FastAPI:
    app = FastAPI()

    @app.get("/me", dependencies=[Depends(auth)])
    async def me() -> None: ...

    if hardened:
        harden(app)
    return app


def ask(app: FastAPI, bearer: bytes) -> int:
    return call(app, "/me", method="GET", headers=[(b"authorization", b"Bearer " + bearer)]).status


# The usual course of things -----------------------------------------------------------------------------------------


def test_keys_of_a_url_verify(idp: Provider) -> None:
    """The set is fetched once, and no more for the tokens that come after."""
    app = service(auth_of(idp))
    assert [ask(app, token("one")), ask(app, token("one", sub="bob"))] == [200, 200]
    assert ask(app, token("one", signed_by="two")) == 401
    assert idp.asked == ["/keys"]


def test_keys_of_an_openid_provider_verify(idp: Provider) -> None:
    """The discovery document says where the set is; issuer, audience and algorithms are as configured."""
    auth = JWTAuth.from_oidc(idp.url, audience="api", clock=lambda: NOW)
    app = service(auth)
    assert ask(app, token("one", iss=idp.url)) == 200
    assert ask(app, token("one")) == 401, "another issuer"
    assert ask(app, token("one", iss=idp.url, aud="other")) == 401
    assert idp.asked == [WELL_KNOWN, "/keys"]
    assert repr(auth) == f"JWTAuth(keys of {idp.url} for RS256, issuer={idp.url!r})"


def test_the_first_token_of_a_new_key_is_let_in(idp: Provider) -> None:
    """An unknown kid has the set fetched again, and the request waits for it."""
    app = service(auth_of(idp))
    assert ask(app, token("one")) == 200
    idp.publishes("one", "two")
    assert ask(app, token("two")) == 200
    assert ask(app, token("one")) == 200
    assert idp.asked == ["/keys"] * 2


def test_a_flood_of_unknown_kids_fetches_once(idp: Provider) -> None:
    """However many come, at once or one by one, the provider is asked once an interval."""
    clock = Clock(1_000.0)
    app = service(auth_of(idp, clock))

    async def flood() -> list[int]:
        headers = [[(b"authorization", b"Bearer " + token(f"k{n}", signed_by="one"))] for n in range(50)]
        answers = await asyncio.gather(*(acall(app, "/me", method="GET", headers=one) for one in headers))
        return [one.status for one in answers]

    assert ask(app, token("one")) == 200
    assert set(asyncio.run(flood())) == set(asyncio.run(flood())) == {401}
    assert idp.asked == ["/keys"] * 2
    idp.publishes("two")
    assert ask(app, token("two")) == 401, "too soon after the flood"
    clock.now += 30
    assert ask(app, token("two")) == 200
    assert idp.asked == ["/keys"] * 3


def test_a_removed_key_takes_its_remembered_tokens_along(idp: Provider) -> None:
    """What a compromised key has signed is refused once the key has left the set."""
    clock = Clock(1_000.0)
    auth = auth_of(idp, clock)
    app = service(auth)
    idp.publishes("one", "two")
    assert [ask(app, token("one")), ask(app, token("one")), ask(app, token("two"))] == [200] * 3
    idp.publishes("two")
    clock.now += 300
    assert ask(app, token("one")) == 200, "goes on at once, and the refresh begins"
    wait_until(lambda: auth.health.age == 0)
    assert [ask(app, token("one")), ask(app, token("two"))] == [401, 200]


def test_keys_that_nobody_asked_for_are_looked_after_first(idp: Provider) -> None:
    """After a night without requests, the first one does not get yesterday's keys."""
    clock = Clock(1_000.0)
    app = service(auth_of(idp, clock))
    assert ask(app, token("one")) == 200
    idp.publishes("two")
    clock.now += 600
    assert ask(app, token("one")) == 401


def test_threads_and_event_loops_share_one_guard(idp: Provider) -> None:
    """Each asyncio.run is a loop of its own, and a served app has one in another thread."""
    app = service(auth_of(idp), hardened=True)
    headers = {"authorization": f"Bearer {token('one').decode()}"}
    for _ in range(2):
        with serving(app) as url:
            assert httpx.get(url + "/me", headers=headers).status_code == 200
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda number: ask(app, token("one", sub=str(number))), range(20))) == {200}
    assert idp.asked == ["/keys"]


def test_keys_are_there_when_the_server_has_started(idp: Provider) -> None:
    """Under harden the start waits for them, and the first caller does not."""
    auth = auth_of(idp)
    with serving(service(auth, hardened=True)):
        assert auth.health.keys == 1
    auth.check()
    assert idp.asked == ["/keys"], "they are there"


def test_who_waited_for_others_uses_what_they_got(idp: Provider) -> None:
    """Keys that came while a request was on its way are looked into before any are fetched."""
    keys = auth_of(idp)._keys
    assert isinstance(keys, PublishedKeys)
    seen = asyncio.run(keys.newer_than(None))
    idp.publishes("one", "two")
    newer = asyncio.run(keys.newer_than(seen))
    assert (len(seen), len(newer)) == (1, 2)
    assert asyncio.run(keys.newer_than(seen)) is newer
    assert idp.asked == ["/keys"] * 2


# A provider in trouble ----------------------------------------------------------------------------------------------


def drip(request: BaseHTTPRequestHandler) -> None:
    """A byte of the header now and then, without an end."""
    while True:
        request.wfile.write(b"X")
        time.sleep(0.02)


def drip_body(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b" ")
        time.sleep(0.02)


def not_http(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"SSH-2.0\r\n")


def gigabytes(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b" " * 65_536)


TROUBLE: dict[str, Answer] = {
    "down": answer(b"", 503),
    "not there": answer(b"", 404),
    "redirect": answer(b"", 302, Location="/elsewhere"),
    "HTML": answer(b"<html>Be back soon</html>", Content_Type="text/html"),
    "empty": answer(b""),
    "a list": answer(b"[]"),
    "no keys": answer(b'{"keys":[]}'),
    "keys that are none": answer(b'{"keys":{"one":1}}'),
    "deep": answer(b'{"keys":' + b"[" * 100_000),
    "two readings": answer(b'{"keys":[],' + jwks("one")[1:]),
    "too large": answer(b'{"x":"' + b"x" * 300_000 + b'",' + jwks("one")[1:]),
    "compressed": answer(jwks("one"), Content_Encoding="gzip"),
    "closes": lambda request: None,
    "not HTTP": not_http,
    "drips": drip,
    "drips the body": drip_body,
    "gigabytes": gigabytes,
}


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE.keys())
def test_keys_of_before_are_kept_while_the_provider_is_in_trouble(
    idp: Provider, trouble: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """Tokens go on being let in, the log says it once, health says it too; then the provider recovers."""
    clock = Clock(1_000.0)
    auth = auth_of(idp, clock)
    app = service(auth)
    assert ask(app, token("one")) == 200
    if trouble in {drip, drip_body}:
        auth._keys._timeout = 0.4  # type: ignore[union-attr]  # what these two wait for
    idp.answers["/keys"] = trouble
    idp.answers["/elsewhere"] = answer(jwks("two"))
    caplog.set_level(logging.INFO, "mlguard")
    for number in range(2):
        clock.now += 300 if number == 0 else 10
        assert ask(app, token("one")) == 200
        wait_until(lambda number=number: auth._keys._loads.failures > number)  # type: ignore[union-attr, misc]  # a default
    assert auth.health.failure
    assert (auth.health.keys, auth.health.age) == (1, 310)
    assert ask(app, token("two")) == 401
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    wait_until(lambda: auth._keys._loads.running is None)  # type: ignore[union-attr]
    auth._keys._timeout = 5  # type: ignore[union-attr]
    idp.publishes("two")
    clock.now += 60
    assert ask(app, token("two")) == 200
    assert auth.health == KeyHealth(1, 0.0, None)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_no_keys_means_503_until_there_are_some(idp: Provider, caplog: pytest.LogCaptureFixture) -> None:
    """A replica comes up while the provider is down, lets nobody in, and serves once the provider is back."""
    idp.answers["/keys"] = answer(b"", 503)
    clock = Clock(1_000.0)
    auth = auth_of(idp, clock)
    app = service(auth, hardened=True)
    refused = call(app, "/me", method="GET", headers=[(b"authorization", b"Bearer " + token("one"))])
    assert (refused.status, refused.json["type"]) == (503, "urn:mlguard:problem:verification-unavailable")
    assert 1 <= int(refused.headers["retry-after"]) <= 5
    assert ask(app, b"a.b.c") == 401, "what is malformed is told so all the same"
    assert auth.health.keys == 0
    assert idp.asked == ["/keys"], "not once a request"
    idp.publishes("one")
    clock.now += 5
    assert ask(app, token("one")) == 200
    assert next(record.getMessage() for record in caplog.records if "keys of" in record.getMessage()).endswith(
        "not loaded: the answer is a 503, not a 200; no token is let in"
    )


def test_stale_keys_end(idp: Provider, caplog: pytest.LogCaptureFixture) -> None:
    """After max_stale seconds without the provider, nobody is let in; the log says so."""
    clock = Clock(1_000.0)
    auth = auth_of(idp, clock)
    app = service(auth)
    assert ask(app, token("one")) == 200
    idp.answers["/keys"] = answer(b"", 503)
    clock.now += 3_599
    assert ask(app, token("one")) == 200
    clock.now += 1
    assert [ask(app, token("one")), auth.health.keys] == [503, 0]
    clock.now += 60
    assert ask(app, token("one")) == 503
    ends = [record.getMessage().rpartition("; ")[2] for record in caplog.records]
    assert ends == ["those of before are used, for some time", "no token is let in"]


def test_a_request_waits_no_longer_than_the_timeout(idp: Provider) -> None:
    """A provider that hangs holds up who needs its keys for the timeout, and nobody after that."""
    idp.answers["/keys"] = idp.hang
    app = service(auth_of(idp, timeout=0.1))
    assert [ask(app, token("one")), ask(app, token("one"))] == [503, 503]


def test_others_go_on_while_the_provider_hangs(idp: Provider) -> None:
    """A refresh in the background holds up nobody."""
    clock = Clock(1_000.0)
    auth = auth_of(idp, clock, timeout=30)
    app = service(auth)
    assert ask(app, token("one")) == 200
    idp.answers["/keys"] = idp.hang
    clock.now += 300
    assert [ask(app, token("one", sub=f"user {n}")) for n in range(20)] == [200] * 20
    wait_until(lambda: idp.asked == ["/keys"] * 2)
    idp.released.set()


# A provider that lies -----------------------------------------------------------------------------------------------


def test_another_issuer_stops_the_start(idp: Provider) -> None:
    """A slash too many is told at start-up, with the right spelling. A provider that is down is not told so."""
    idp.discovers(issuer=idp.url + "/", jwks_uri=idp.url + "/keys")
    auth = JWTAuth.from_oidc(idp.url, audience="api", clock=lambda: NOW)
    with pytest.raises(ConfigurationError, match=f"calls itself '{idp.url}/'"):
        auth.check()
    assert ask(service(auth), token("one", iss=idp.url)) == 503
    with pytest.raises(ConfigurationError, match="calls itself"):  # without lifespan: at the first request
        ask(service(auth_like(idp), hardened=True), token("one"))
    assert idp.asked == [WELL_KNOWN] * 2


def auth_like(idp: Provider) -> AnyAuth:
    """The same guard as one of several, which is checked at start-up too."""
    key = APIKeyAuth(APIKeys([APIKey.generate("alice")[0]]))
    return AnyAuth(key, JWTAuth.from_oidc(idp.url, audience="api"))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"issuer": "ISSUER"},
        {"issuer": ["ISSUER"], "jwks_uri": "ISSUER/keys"},
        {"issuer": "ISSUER", "jwks_uri": 1},
        {"issuer": "ISSUER", "jwks_uri": "/keys"},
        {"issuer": "ISSUER", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "ISSUER", "jwks_uri": "http://192.0.2.1/keys"},
        {"issuer": "ISSUER", "jwks_uri": "http://169.254.169.254/latest/meta-data"},
        {"issuer": "ISSUER", "jwks_uri": "https://user:password@127.0.0.1/keys"},
        {"issuer": "ISSUER", "jwks_uri": "https://[::1/keys"},
    ],
)
def test_a_discovery_document_that_cannot_be_believed_gives_no_keys(idp: Provider, document: dict[str, Any]) -> None:
    """It starts, and lets nobody in."""
    spelt = str(document).replace("ISSUER", idp.url)
    idp.discovers(**eval(spelt))
    auth = JWTAuth.from_oidc(idp.url, audience="api", clock=lambda: NOW)
    auth.check()
    assert ask(service(auth), token("one", iss=idp.url)) == 503
    assert idp.asked == [WELL_KNOWN]


def test_a_remote_provider_may_not_point_to_this_machine() -> None:
    """Or it could have the service ask whatever listens on its loopback interface."""
    source = OpenIDProvider("https://login.example")
    document = b'{"issuer":"https://login.example","jwks_uri":"http://127.0.0.1/keys"}'
    with pytest.raises(Exception, match="not an https URL"):
        source._jwks_uri(document)


# Settings -----------------------------------------------------------------------------------------------------------

SET = "https://login.example/keys"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: JWTAuth.from_oidc("http://login.example", audience="a"), "https"),
        (lambda: JWTAuth.from_oidc("login.example", audience="a"), "must be a URL"),
        (lambda: JWTAuth.from_oidc("https://login.example?x=1", audience="a"), "no query"),
        (lambda: JWTAuth.from_oidc("https://login.example#x", audience="a"), "must be a URL"),
        (lambda: JWTAuth.from_oidc("https://login.example:x", audience="a"), "is no URL"),
        (lambda: JWTAuth.from_oidc("https://login.exämple", audience="a"), "must be a URL"),
        (lambda: JWTAuth.from_oidc("https://login.example/ x", audience="a"), "must be a URL"),
        (lambda: JWTAuth.from_oidc(None, audience="a"), "must be a URL"),  # type: ignore[arg-type]
        (lambda: JWTAuth.from_oidc("https://a:hunter2@login.example", audience="a"), "a password"),
        (lambda: JWTAuth.from_oidc("https://login.example", audience=""), "^audience"),
        (lambda: JWTAuth.from_oidc("https://login.example", audience="a", algorithms=["HS256"]), "need a secret"),
        (lambda: JWTAuth.from_oidc("https://login.example", audience="a", algorithms=["none"]), "^algorithms"),
        (lambda: JWTAuth.from_oidc("https://login.example", audience="a", refresh_every=0), "^refresh_every"),
        (lambda: JWTAuth.from_oidc("https://login.example", audience="a", max_stale=299), "^max_stale"),
        (lambda: JWTAuth.from_oidc("https://login.example", audience="a", timeout=float("nan")), "^timeout"),
        (lambda: JWTAuth.from_oidc("https://login.example", audience="a", timeout=True), "^timeout"),
        (lambda: JWTAuth.from_jwks("ftp://a/b", algorithms=["RS256"], issuer="i", audience="a"), "https"),
        (lambda: JWTAuth.from_jwks("http://10.0.0.1/", algorithms=["RS256"], issuer="i", audience="a"), "https"),
        (lambda: JWTAuth.from_jwks("", algorithms=["RS256"], issuer="i", audience="a"), "path of a file"),
        (lambda: JWTAuth.from_jwks(3, algorithms=["RS256"], issuer="i", audience="a"), "path of a file"),  # type: ignore[arg-type]
        (lambda: JWTAuth.from_jwks(SET, algorithms=["RS256"], issuer="", audience="a"), "issuer"),
        (lambda: JWTAuth.from_jwks(SET, algorithms=["RS256"], issuer=None, audience="a"), "issuer"),  # type: ignore[arg-type]
    ],
)
def test_a_setting_that_cannot_work_is_refused(make: Callable[[], object], text: str) -> None:
    """At construction, in words that name it, without what may be a password."""
    with pytest.raises(ConfigurationError, match=text) as refused:
        make()
    assert "hunter2" not in str(refused.value)


def test_http_is_for_this_machine_only() -> None:
    """Local development needs no certificate."""
    for url in ("http://localhost:8000/keys", "http://127.0.0.2/keys", "http://[::1]:80/keys"):
        JWTAuth.from_jwks(url, algorithms=["RS256"], issuer="i", audience="a")


def test_what_is_missing_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without httpx, a URL is a ConfigurationError that says what to install."""
    real = builtins.__import__

    def without_httpx(name: str, *rest: Any) -> Any:
        if name == "httpx":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_httpx)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlguard\[oidc\]'"):
        JWTAuth.from_oidc("https://login.example", audience="a")


def test_the_query_of_a_url_is_not_logged(idp: Provider, caplog: pytest.LogCaptureFixture) -> None:
    """Some services carry a key there."""
    auth = JWTAuth.from_jwks(idp.url + "/no?key=hunter2", algorithms=["RS256"], issuer=ISSUER, audience="api")
    auth.check()
    shown = caplog.text + repr(auth) + str(auth.health)
    assert "hunter2" not in "".join(line for line in shown.splitlines() if "HTTP Request" not in line)
    assert idp.url in repr(auth)
