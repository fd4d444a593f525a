"""Webhooks: verified by the package that others use, and sent to servers that mean no good."""

import base64
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mlguard.errors import ConfigurationError
from mlguard.monitoring._alert_windows import Alert
from mlguard.monitoring.alerts import Alerts, Undelivered
from mlguard.monitoring.events import logger as audit
from mlguard.monitoring.events import record_event
from mlguard.monitoring.webhook import Webhook, signed_headers
from mlguard.secrets.directory import DirectorySecrets
from mlguard.secrets.rotating import Rotating
from tests.clock import Clock
from tests.secrets.servers import Request, Stub, always, drip, flood, garble, hang, hang_up, make_certificate, serving

AT = datetime(2026, 11, 26, 21, 0, 0, 123456, UTC)
ALERT = Alert("query.suspected", "warning", {"principal": "alice", "score": 0.5}, 3, AT, AT)


def new_secret(size: int = 32) -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(size)).decode()


SECRET = new_secret()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Stub]:
    with serving(always(204, b"")) as stub:
        yield stub


@pytest.fixture
def answers(receiver: Stub) -> Iterator[Callable[[Any], Stub]]:
    """Have the server do this with the requests of one test."""
    before = receiver.answer

    def do(answer: Any) -> Stub:
        receiver.answer = answer
        receiver.asked.clear()
        receiver.released.clear()
        return receiver

    yield do
    receiver.released.set()
    receiver.answer = before


def verified(request: Request, secret: str) -> Any:
    """What the package of the specification's authors says."""
    standardwebhooks = pytest.importorskip("standardwebhooks")
    return standardwebhooks.Webhook(secret).verify(request.body, request.headers)


def test_the_package_of_standard_webhooks_accepts_it(answers: Any) -> None:
    """Headers, signature and body are as the specification says."""
    stub = answers(always(200, {}))
    Webhook(f"{stub.url}/hook?team=ml", secret=SECRET, service="iris")(ALERT)
    (request,) = stub.asked
    assert (request.method, request.path) == ("POST", "/hook?team=ml")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == ALERT.id
    assert verified(request, SECRET) == {
        "type": "query.suspected",
        "timestamp": "2026-11-26T21:00:00.123456Z",
        "data": {
            "level": "warning",
            "count": 3,
            "first": "2026-11-26T21:00:00.123456Z",
            "facts": {"principal": "alice", "score": 0.5},
            "service": "iris",
        },
    }


def test_what_was_changed_on_the_way_is_noticed(answers: Any) -> None:
    """Another body, id or time does not verify."""
    standardwebhooks = pytest.importorskip("standardwebhooks")
    stub = answers(always(200, {}))
    Webhook(stub.url, secret=SECRET)(ALERT)
    (request,) = stub.asked
    for name, value in (("webhook-id", "alert_other"), ("webhook-timestamp", "1")):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(SECRET).verify(request.body, {**request.headers, name: value})
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(request.body + b" ", request.headers)


def test_the_time_of_the_signature_is_that_of_the_attempt(answers: Any) -> None:
    """An alert of an hour ago that is tried now is not refused as a replay."""
    stub = answers(always(200, {}))
    clock = Clock(1_800_000_000.7)
    Webhook(stub.url, secret=SECRET, wall_clock=clock)(ALERT)
    clock.now += 60
    Webhook(stub.url, secret=SECRET, wall_clock=clock)(ALERT)
    assert [one.headers["webhook-timestamp"] for one in stub.asked] == ["1800000000", "1800000060"]
    assert len({one.headers["webhook-id"] for one in stub.asked}) == 1


def test_while_a_secret_is_replaced_both_verify(answers: Any) -> None:
    """There are two signatures, and a receiver that knows either secret accepts."""
    stub = answers(always(200, {}))
    old = new_secret()
    Webhook(stub.url, secret=[SecretStr(SECRET), old])(ALERT)
    (request,) = stub.asked
    assert len(request.headers["webhook-signature"].split(" ")) == 2
    assert verified(request, SECRET) == verified(request, old)


def test_a_rotating_secret_signs_with_both_until_the_overlap_is_over(answers: Any, tmp_path: Path) -> None:
    """A secret that changes while the service runs is taken up, without a restart."""
    stub = answers(always(200, {}))
    file = tmp_path / "hook"
    file.write_text(SECRET)
    clock = Clock()
    rotating = Rotating(DirectorySecrets(tmp_path), "hook", ttl=1, overlap=60, clock=clock)
    webhook = Webhook(stub.url, secret=rotating)
    new = new_secret()
    file.write_text(new)
    rotating.refresh()
    webhook(ALERT)
    clock.now = 61.0
    rotating.refresh()
    webhook(ALERT)
    both, one = stub.asked
    assert verified(both, SECRET) == verified(both, new) == verified(one, new)
    assert len(one.headers["webhook-signature"].split(" ")) == 1


def test_without_a_usable_secret_nothing_is_sent(answers: Any, tmp_path: Path) -> None:
    """A secret that is too old is no reason to send an alert that nobody can verify."""
    stub = answers(always(200, {}))
    (tmp_path / "hook").write_text(SECRET)
    clock = Clock()
    webhook = Webhook(
        stub.url, secret=Rotating(DirectorySecrets(tmp_path), "hook", ttl=1, max_stale=1, overlap=0, clock=clock)
    )
    (tmp_path / "hook").unlink()
    clock.now = 1_000.0
    with pytest.raises(Undelivered, match="secret cannot be used"):
        webhook(ALERT)
    assert stub.asked == []


def test_the_secret_is_read_from_the_environment(answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``secret``, MLGUARD_WEBHOOK_SECRET is used; without that, the error names it."""
    stub = answers(always(200, {}))
    with pytest.raises(ConfigurationError, match="MLGUARD_WEBHOOK_SECRET"):
        Webhook(stub.url)
    monkeypatch.setenv("MLGUARD_WEBHOOK_SECRET", SECRET)
    Webhook(stub.url)(ALERT)
    verified(stub.asked[0], SECRET)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 410])
def test_no_redirect_is_followed_and_what_is_gone_is_gone(answers: Any, status: int) -> None:
    """A redirect reaches no other place, and neither it nor a 410 is tried again."""
    stub = answers(lambda stub, _, http: _redirect(http, status, f"{stub.url}/inside"))
    with pytest.raises(Undelivered, match=str(status)) as failure:
        Webhook(f"{stub.url}/hook", secret=SECRET)(ALERT)
    assert failure.value.for_good
    assert [one.path for one in stub.asked] == ["/hook"]


def _redirect(http: BaseHTTPRequestHandler, status: int, place: str) -> None:
    http.send_response(status)
    http.send_header("Location", place)
    http.send_header("Content-Length", "0")
    http.end_headers()


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), ("", 0), ("soon", 0), ("-5", 0), ("9" * 400, 999_999), ("²", 0), ("1e3", 0)]
)
def test_a_receiver_may_ask_to_wait(answers: Any, header: str, seconds: float) -> None:
    """Retry-After in seconds is heeded; whatever else stands there is not."""
    stub = answers(lambda _stub, _request, http: _later(http, header))
    with pytest.raises(Undelivered, match="503") as failure:
        Webhook(stub.url, secret=SECRET)(ALERT)
    assert failure.value.wait == seconds
    assert not failure.value.for_good


def _later(http: BaseHTTPRequestHandler, header: str) -> None:
    http.send_response(503)
    http.send_header("Retry-After", header)
    http.send_header("Content-Length", "0")
    http.end_headers()


def _drip_headers(stub: Stub, _request: Request, http: BaseHTTPRequestHandler) -> None:
    """Say one byte of a header now and then."""
    http.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not stub.released.wait(0.02):
        http.wfile.write(b"x")


def _continue_for_ever(stub: Stub, _request: Request, http: BaseHTTPRequestHandler) -> None:
    """Ask to go on, again and again."""
    while not stub.released.wait(0.001):
        http.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def _many_headers(_stub: Stub, _request: Request, http: BaseHTTPRequestHandler) -> None:
    """Say more headers than anybody needs."""
    http.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-More: x\r\n" * 1_000 + b"\r\n")


def _long_header(_stub: Stub, _request: Request, http: BaseHTTPRequestHandler) -> None:
    """Say one header of a megabyte."""
    http.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000_000 + b"\r\n\r\n")


@pytest.mark.parametrize(
    "answer", [hang, hang_up, garble, _drip_headers, _continue_for_ever, _many_headers, _long_header]
)
def test_whatever_the_other_side_does_an_attempt_ends(answers: Any, answer: Any) -> None:
    """A receiver that hangs, drips, garbles or floods headers is given up, and nothing that it said is repeated."""
    stub = answers(answer)
    with pytest.raises(Undelivered, match=r"^no answer \([A-Za-z]+\)$"):
        Webhook(stub.url, secret=SECRET, timeout=0.3)(ALERT)


@pytest.mark.parametrize("answer", [drip, flood])
def test_a_body_is_not_read(answers: Any, answer: Any) -> None:
    """The status says all; however long the body is, or takes, nobody waits for it."""
    Webhook(answers(answer).url, secret=SECRET, timeout=30)(ALERT)


def test_nobody_listens() -> None:
    """A closed port is a failed attempt."""
    with pytest.raises(Undelivered, match="ConnectionRefusedError"):
        Webhook("http://127.0.0.1:1", secret=SECRET)(ALERT)


def test_who_accepts_too_late_is_not_spoken_to(answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt whose time is over when the connection is there has failed: nothing could end it any more."""
    import http.client
    import threading

    fired = threading.Event()
    connect = http.client.HTTPConnection.connect

    def slowly(connection: http.client.HTTPConnection) -> None:
        fired.wait(30)
        connect(connection)

    timer = threading.Timer

    def noted(seconds: float, function: Any) -> threading.Timer:
        def fire() -> None:
            function()
            fired.set()

        return timer(seconds, fire)

    monkeypatch.setattr(threading, "Timer", noted)
    monkeypatch.setattr(http.client.HTTPConnection, "connect", slowly)
    stub = answers(always(200, {}))
    with pytest.raises(Undelivered, match="TimeoutError"):
        Webhook(stub.url, secret=SECRET, timeout=0.01)(ALERT)
    assert stub.asked == []


def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate by an unknown authority, or for another name, is refused; by the right one it is accepted."""
    certificate = make_certificate(tmp_path)
    with serving(always(200, {}), certificate=certificate) as stub:
        with pytest.raises(Undelivered, match="SSLCertVerificationError"):
            Webhook(stub.url, secret=SECRET)(ALERT)
        assert stub.asked == []
        Webhook(stub.url, secret=SECRET, ca=certificate.authority)(ALERT)
        verified(stub.asked[0], SECRET)
        look_up = socket.getaddrinfo
        with monkeypatch.context() as misled:
            misled.setattr(socket, "getaddrinfo", lambda _host, *arguments: look_up("127.0.0.1", *arguments))
            with pytest.raises(Undelivered, match="SSLCertVerificationError"):
                Webhook(stub.url.replace("localhost", "pager.example"), secret=SECRET, ca=certificate.authority)(ALERT)
        stub.answer = _drip_headers
        with pytest.raises(Undelivered, match="no answer"):
            Webhook(stub.url, secret=SECRET, ca=certificate.authority, timeout=0.5)(ALERT)


def test_proxies_of_the_environment_are_not_used(answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can set a variable does not get the alerts."""
    stub = answers(always(200, {}))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    Webhook(stub.url, secret=SECRET)(ALERT)
    assert len(stub.asked) == 1


def test_from_an_event_to_a_verified_webhook(answers: Any) -> None:
    """End to end: an event with hostile facts is one signed alert at the place that was set, and nowhere else."""
    stub = answers(always(200, {}))
    level = audit.level
    alerts = Alerts(Webhook(f"{stub.url}/hook", secret=SECRET))
    alerts.attach()
    try:
        record_event(
            "query.suspected",
            principal="alice\r\nwebhook-id: forged",
            url="http://169.254.169.254/latest",
            reason="\ud800 " + "x" * 1_000_000,
            score=float("nan"),
        )
        alerts.flush()
    finally:
        alerts.detach()
        audit.setLevel(level)
    (request,) = stub.asked
    facts = verified(request, SECRET)["data"]["facts"]
    assert facts["principal"] == "alice\ufffd\ufffdwebhook-id: forged"
    assert facts["score"] == "nan"
    assert request.headers["webhook-id"].startswith("alert_")
    assert len(request.body) < 5_000


@given(st.binary(max_size=300), st.integers(0, 2**40), st.binary(min_size=24, max_size=64))
def test_every_signature_verifies(body: bytes, timestamp: int, key: bytes) -> None:
    """Whatever is sent, the signature is the one that the package makes."""
    standardwebhooks = pytest.importorskip("standardwebhooks")
    body = json.dumps(body.hex()).encode()
    headers = signed_headers("alert_1", timestamp, body, (key,))
    if timestamp < 2**37:  # the package makes a date of it
        theirs = standardwebhooks.Webhook(key).sign("alert_1", datetime.fromtimestamp(timestamp, UTC), body.decode())
        assert headers["webhook-signature"] == theirs


@pytest.mark.parametrize(
    "url",
    [
        "", None, 3, "pager.example", "ftp://pager.example", "http://pager.example/hook", "https://",
        "https://user:pw@pager.example", "https://pager.example/#x", "https://pager.example/a b", "https://päger.example",
        "https://pager.example:99999", "https://pager.example/\r\nx", "file:///etc/passwd", "https://[::1",
    ],
)  # fmt: skip
def test_urls_that_cannot_work_are_refused(url: Any) -> None:
    """Only https, or this machine; the URL, which may hold a token, is not in the error."""
    with pytest.raises(ConfigurationError, match=r"Webhook\(url\)") as refused:
        Webhook(url, secret=SECRET)
    assert "pager.example" not in str(refused.value).replace("https://pager.example/hooks/mlguard", "")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://[::1]:9", "http://localhost", "https://pager.example"])
def test_urls_that_can_work(url: str) -> None:
    """This machine needs no TLS; the repr has the host and nothing more."""
    assert "x" not in repr(Webhook(url, secret=SECRET)).replace("pager.example", "")


@pytest.mark.parametrize(
    "secret",
    [
        "",
        3,
        b"whsec_" + base64.b64encode(b"x" * 32),
        "whsec_",
        "whsec_!!!!",
        "whsec_äöü",
        new_secret(23),
        new_secret(65),
        "whsec_" + base64.b64encode(b"a" * 32).decode(),
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",  # printed in the specification
        secrets.token_urlsafe(32),
        [],
        [SECRET, SECRET, SECRET],
    ],
)
def test_secrets_that_cannot_work_are_refused(secret: Any) -> None:
    """No prefix, no base64, too short, too long, known or patterned: refused, and not quoted."""
    with pytest.raises(ConfigurationError, match="secret") as refused:
        Webhook("https://pager.example", secret=secret)
    if isinstance(secret, str) and len(secret) > 8:
        assert secret not in str(refused.value)


@pytest.mark.parametrize(
    "settings", [{"timeout": 0}, {"timeout": 61}, {"ca": "/no/such/file"}, {"service": "a\nb"}, {"service": "x" * 101}]
)
def test_other_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    """Each is named when the webhook is built."""
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        Webhook("https://pager.example", secret=SECRET, **settings)
