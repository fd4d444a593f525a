"""A store of secrets that hangs, lies, floods or is not there, met by each source that speaks HTTP."""

import json
import logging
import socket
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("boto3")
pytest.importorskip("azure.keyvault.secrets")
pytest.importorskip("hvac")

import boto3  # type: ignore[import-untyped]  # it has no types
from tests.secrets.servers import (
    SECRET,
    Answer,
    Certificate,
    Credential,
    KeyVault,
    Request,
    Stub,
    Vault,
    always,
    drip,
    flood,
    garble,
    hang,
    hang_up,
    serving,
)

from mlguard import AWSSecrets, AzureSecrets, SecretSource, SecretUnavailableError, VaultSecrets
from mlguard.secrets._reading import MAX_ANSWER

KINDS = ["aws", "azure", "vault", "vault with a login"]


def open_source(kind: str, url: str, certificate: Certificate, timeout: float = 20) -> SecretSource:
    """A source of each kind, that asks this server."""
    if kind == "aws":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_CA_BUNDLE", certificate.authority)
            return AWSSecrets(
                session=boto3.Session("testing", SECRET, region_name="eu-central-1"), endpoint=url, timeout=timeout
            )
    ca = certificate.authority
    if kind == "azure":
        url = url.replace("//localhost", "//127.0.0.1")
        return AzureSecrets(url, credential=Credential(), ca=ca, timeout=timeout)
    login: dict[str, Any] = {"token": SECRET} if kind == "vault" else {"app_role": ("iris", SECRET)}
    return VaultSecrets(url, ca=ca, timeout=timeout, **login)


@pytest.fixture(scope="module", params=KINDS)
def asked(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[tuple[SecretSource, Stub]]:
    """Each kind of source, and the server that it asks."""
    with serving(hang, certificate=certificate) as stub:
        yield open_source(request.param, stub.url, certificate), stub


DEEP = b'{"Name": "iris", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BAD: dict[str, Answer] = {
    "a page": always(200, b"<!DOCTYPE html><title>Sign in</title>" + SECRET.encode()),
    "an empty body": always(200, b""),
    "nothing to say": always(204, b""),
    "null": always(200, None),
    "a list": always(200, [SECRET]),
    "a text": always(200, SECRET),
    "a secret that is a number": always(200, {"Name": "iris", "SecretString": 7, "data": {"data": {"value": 7}}}),
    "half of an object": always(200, b'{"Name": "iris", "SecretString": "' + SECRET.encode()),
    "deep JSON": always(200, DEEP),
    "bytes": always(200, bytes(range(256))),
    "half of a character": always(200, b'{"Name": "iris", "SecretString": "\\ud800", "value": "\\ud800"}'),
    "compressed": always(200, b"\x1f\x8b\x08\x00" + bytes(100), Content_Encoding="gzip"),
    "an error": always(500, {"errors": [SECRET], "message": SECRET, "error": {"message": SECRET}}),
    "an error in a page": always(502, b"<html>" + SECRET.encode()),
    "a refusal": always(403, {"errors": [SECRET], "__type": "AccessDeniedException", "message": SECRET}),
    "a challenge": always(401, b"", WWW_Authenticate=f'Bearer resource="{SECRET}"'),
    "no HTTP": garble,
    "no word": hang_up,
    "a flood": flood,
    "a large answer": always(200, b'{"Name": "iris", "SecretString": "' + b"x" * MAX_ANSWER + b'"}'),
    "a large error": always(400, b'{"__type": "' + b"x" * MAX_ANSWER + b'"}'),
}


@pytest.mark.parametrize("bad", BAD)
def test_no_bad_answer_is_a_secret(
    bad: str, asked: tuple[SecretSource, Stub], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a server says, there is one error; it names the source and the secret, and nothing that was said."""
    source, stub = asked
    stub.answer = BAD[bad]
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(SecretUnavailableError, match="the secret iris cannot be read from") as error,
    ):
        source.read("iris")
    told = "".join(traceback.format_exception(error.value)) + repr(error.value) + caplog.text
    assert SECRET not in told
    assert error.value.__context__ is None
    assert error.value.__cause__ is None
    assert "within 20 seconds" not in str(error.value)


def test_after_all_of_that_a_good_answer_is_taken(
    asked: tuple[SecretSource, Stub], caplog: pytest.LogCaptureFixture
) -> None:
    """The next good answer is one; with every logger at DEBUG, where clients write down answers, it is in no record."""
    source, stub = asked
    stub.answer = well
    with caplog.at_level(logging.DEBUG):
        assert source.read("iris").get_secret_value() == SECRET
    assert any(record.name == "urllib3.connectionpool" or "boto" in record.name for record in caplog.records)
    for record in caplog.records:
        assert SECRET not in record.getMessage() + repr(vars(record))


def well(stub: Stub, request: Request, http: Any) -> None:
    """Answer as the store does whose client asks."""
    if "x-amz-target" in request.headers:
        always(200, {"Name": "iris", "ARN": "arn:x", "SecretString": SECRET})(stub, request, http)
    elif request.path.startswith("/secrets/"):
        KeyVault(iris=SECRET)(stub, request, http)
    else:
        VAULT(stub, request, http)


VAULT = Vault(iris={"value": SECRET})
VAULT.tokens.add(SECRET)


def test_processes_share_no_connection(asked: tuple[SecretSource, Stub], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a server forks asks on connections of its own, or it could read what another has asked for."""
    source, stub = asked
    stub.answer = well
    source.read("iris")
    for process in range(1, 4):
        monkeypatch.setattr("os.getpid", lambda process=process: process)
        before = stub.connections
        source.read("iris")
        assert stub.connections > before


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_server_is_left(kind: str, certificate: Certificate) -> None:
    """No answer within the time is no secret."""
    with serving(hang, certificate=certificate) as stub:
        with pytest.raises(SecretUnavailableError, match=r"within 0.2 seconds|Timeout|ServiceResponseError|ReadTime"):
            open_source(kind, stub.url, certificate, 0.2).read("iris")
        stub.released.set()
        end_of_threads()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_drips_holds_few_threads(kind: str, certificate: Certificate) -> None:
    """One that says a byte now and then is left too; while nobody has an answer, later reads take no thread each."""
    with serving(drip, certificate=certificate) as stub:
        source = open_source(kind, stub.url, certificate, 0.05)
        for _ in range(7):
            with pytest.raises(SecretUnavailableError, match=r"within 0.05 seconds|earlier calls|Timeout|cannot be"):
                source.read("iris")
        assert sum(thread.name == "mlguard-secret" for thread in threading.enumerate()) <= 4
        stub.released.set()
        end_of_threads()


@pytest.mark.parametrize("kind", KINDS)
def test_a_handshake_that_never_comes(kind: str, certificate: Certificate) -> None:
    """A server that accepts the connection and says nothing at all holds nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = open_source(kind, f"https://localhost:{listener.getsockname()[1]}", certificate, 0.2)
        with pytest.raises(SecretUnavailableError):
            source.read("iris")
        end_of_threads()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_not_there(kind: str, certificate: Certificate) -> None:
    """A refused connection is an error of the same kind."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SecretUnavailableError, match="cannot be asked"):
        open_source(kind, f"https://localhost:{port}", certificate).read("iris")


def end_of_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == "mlguard-secret":
            thread.join(30)
            assert not thread.is_alive()


def test_deep_json_is_what_it_says() -> None:
    """The answer that is used above is deep enough to exhaust a parser that recurses."""
    with pytest.raises(RecursionError):
        json.loads(DEEP)
