"""Secrets from Google Secret Manager, asked by Google's client; a gRPC server on loopback speaks the protocol."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.cloud.secretmanager_v1")

import grpc  # type: ignore[import-untyped]  # it has no types
from google.auth.credentials import AnonymousCredentials
from google.cloud import secretmanager_v1 as manager
from tests.secrets.servers import SECRET, Certificate

from mlguard import ConfigurationError, GoogleSecrets, SecretNotFoundError, SecretUnavailableError
from mlguard.secrets._reading import MAX_ANSWER

METHOD = "/google.cloud.secretmanager.v1.SecretManagerService/AccessSecretVersion"
KEPT = {
    "plain": SECRET.encode() + b"\n",
    "iris": json.dumps({"token": SECRET, "number": 7}).encode(),
    "empty": b"",
    "binary": bytes(range(256)),
    "page": b"<html>" + SECRET.encode(),
    "large": b"x" * 65_537,
}
#: What a server does: it answers with bytes, or ends the call.
Answer = Callable[[str, Any], bytes]


def answer(name: str, context: Any) -> bytes:
    """As Secret Manager answers."""
    _, _, _, secret, _, version = name.split("/")
    if secret not in KEPT or version != "latest":
        context.abort(grpc.StatusCode.NOT_FOUND, f"Secret [{name}] not found: {SECRET}")
    return payload(name.replace("projects/iris/", "projects/1234/").replace("latest", "3"), KEPT[secret])


def payload(name: str, data: bytes) -> bytes:
    """An answer with this content."""
    found = manager.AccessSecretVersionResponse(name=name, payload=manager.SecretPayload(data=data))
    return bytes(manager.AccessSecretVersionResponse.serialize(found))


@contextmanager
def server_of(respond: Answer, certificate: Certificate | None = None) -> Iterator[int]:
    """The port of a server that answers so, by TLS if it has a certificate."""

    def serve(request: bytes, context: Any) -> bytes:
        return respond(manager.AccessSecretVersionRequest.deserialize(request).name, context)

    class Only(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(serve) if details.method == METHOD else None

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=[Only()])
        if certificate is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            chain = Path(certificate.chain).read_bytes()
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(chain, chain)]))
        server.start()
        try:
            yield port
        finally:
            server.stop(0).wait()


@contextmanager
def client_of(respond: Answer) -> Iterator[Any]:
    """A client of a server that answers so."""
    with server_of(respond) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        transport = manager.SecretManagerServiceClient.get_transport_class("grpc")(channel=channel)
        yield manager.SecretManagerServiceClient(transport=transport)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with client_of(answer) as client:
        yield client


def test_payloads_and_keys_of_objects(client: Any) -> None:
    """A secret is its payload, and a key of an object is named behind #."""
    source = GoogleSecrets("iris", client=client)
    assert source.read("plain").get_secret_value() == SECRET
    assert source.read("iris#token").get_secret_value() == SECRET
    assert json.loads(source.read("iris#").get_secret_value())["token"] == SECRET
    assert GoogleSecrets("iris", client=client, prefix="iris#").read("token").get_secret_value() == SECRET
    assert repr(source) == "GoogleSecrets('gcp://iris/')"


@pytest.mark.parametrize(("name", "version"), [("nothing", "latest"), ("iris#nothing", "latest"), ("plain", "9")])
def test_what_is_not_there(name: str, version: str, client: Any) -> None:
    """A secret, a version or a key that Google does not have is told apart from a Google that cannot be asked."""
    with pytest.raises(SecretNotFoundError) as error:
        GoogleSecrets("iris", client=client, version=version).read(name)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("iris", "name one"),
        ("iris#number", "no text"),
        ("empty", "empty"),
        ("binary", "binary"),
        ("page", "HTML"),
        ("large", "larger"),
    ],
)
def test_what_is_no_secret(name: str, why: str, client: Any) -> None:
    """An object without a key, bytes, a page and nothing are not taken for secrets."""
    with pytest.raises(SecretUnavailableError, match=why) as error:
        GoogleSecrets("iris", client=client).read(name)
    assert not isinstance(error.value, SecretNotFoundError)


@pytest.mark.parametrize(
    ("status", "why"), [("PERMISSION_DENIED", "PermissionDenied"), ("UNAVAILABLE", "ServiceUnavailable")]
)
def test_a_refusal_is_told_by_its_kind(status: str, why: str) -> None:
    """The operator reads what kind of refusal it is, and nothing else of what was said."""

    def refuse(_: str, context: Any) -> bytes:
        context.abort(getattr(grpc.StatusCode, status), SECRET)
        raise AssertionError

    with client_of(refuse) as client, pytest.raises(SecretUnavailableError, match=why) as error:
        GoogleSecrets("iris", client=client).read("plain")
    assert SECRET not in str(error.value)


def test_a_server_that_hangs_is_left() -> None:
    """No answer within the time is no secret."""
    released = threading.Event()

    def hang(name: str, _: Any) -> bytes:
        released.wait(30)
        return payload(name, b"too-late")

    with client_of(hang) as client:
        with pytest.raises(SecretUnavailableError, match=r"DeadlineExceeded|within 0.2 seconds"):
            GoogleSecrets("iris", client=client, timeout=0.2).read("plain")
        released.set()


@pytest.mark.parametrize(
    "said",
    [
        b"<html></html>",
        b"",
        b"\xff" * 100,
        payload("projects/1/secrets/other/versions/3", SECRET.encode()),
        payload("projects/1/secrets/plain2/versions/3", SECRET.encode()),
    ],
)
def test_lies(said: bytes) -> None:
    """What is no answer, or one about another secret, is no secret."""
    with client_of(lambda *_: said) as client, pytest.raises(SecretUnavailableError):
        GoogleSecrets("iris", client=client).read("plain")


def test_its_own_client_takes_no_large_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client that is made at the first read of a process, once, bounds what one answer may hold."""
    made: list[dict[str, Any]] = []
    transport: Any = manager.SecretManagerServiceClient.get_transport_class("grpc")

    def create_channel(*_: Any, **options: Any) -> Any:
        made.append(options)
        return grpc.insecure_channel("127.0.0.1:9")

    monkeypatch.setattr(transport, "create_channel", create_channel)
    monkeypatch.setattr("google.auth.default", lambda **_: (AnonymousCredentials(), "iris"))  # type: ignore[no-untyped-call]  # Google's
    source = GoogleSecrets("iris", timeout=0.5)
    for _ in range(2):
        with pytest.raises(SecretUnavailableError):
            source.read("plain")
    (options,) = made
    assert dict(options["options"])["grpc.max_receive_message_length"] == MAX_ANSWER
    monkeypatch.setattr("os.getpid", lambda: 1)  # as in a process that was forked
    with pytest.raises(SecretUnavailableError):
        source.read("plain")
    assert len(made) == 2


def test_its_log_holds_no_payload(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Google's client writes payloads to its own log at DEBUG, and not while it is asked by this source."""
    with caplog.at_level(logging.DEBUG):
        name = "google.cloud.secretmanager_v1.services.secret_manager_service.transports.grpc"
        logging.getLogger("google").propagate = True
        with caplog.at_level(logging.DEBUG, logger=name):
            assert GoogleSecrets("iris", client=client).read("plain").get_secret_value() == SECRET
    assert SECRET not in caplog.text
    assert SECRET not in repr([vars(record) for record in caplog.records])


@pytest.mark.parametrize(
    "options", [{"project": ""}, {"project": "a/b"}, {"project": None}, {"version": "1/2"}, {"timeout": -1}]
)
def test_arguments_that_cannot_work(options: dict[str, Any]) -> None:
    """A project, a version and a time-out that cannot be end the construction."""
    with pytest.raises(ConfigurationError, match="GoogleSecrets"):
        GoogleSecrets(**{"project": "iris", **options})
