"""Stores of secrets on the loopback interface: Vault's and Key Vault's protocols, and servers that mean no good."""

import datetime
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: What no error, log or repr may hold.
SECRET = "Vq3tYxw0ZkLr8HcNpB5uJd2eSgF7aKmQ"


@dataclass
class Request:
    """One request: what was asked for, with which headers and body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


#: What a server does with a request: it answers, or is up to something.
Answer = Callable[["Stub", Request, BaseHTTPRequestHandler], None]


@dataclass
class Stub:
    """A server that is running.

    Attributes:
        url: Where it is.
        answer: What it does with each request; can be replaced.
        asked: The requests so far.
        connections: How many there were.
        released: Set when whoever hangs may go on.
    """

    url: str
    answer: Answer
    asked: list[Request] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    connections: int = 0


def say(request: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    """Answer with bytes, or with JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "text/html" if content.startswith(b"<") else "application/json", **headers}
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


def always(status: int, body: Any, **headers: str) -> Answer:
    """A server that says this, whatever it is asked."""
    return lambda _stub, _request, http: say(http, status, body, **headers)


def hang(stub: Stub, _request: Request, _http: BaseHTTPRequestHandler) -> None:
    """Say nothing until the test is over."""
    stub.released.wait(30)


def drip(stub: Stub, _request: Request, http: BaseHTTPRequestHandler) -> None:
    """Say a byte now and then, so that no wait for one of them is long."""
    http.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n\r\n{")
    while not stub.released.wait(0.05):
        http.wfile.write(b" ")


def flood(stub: Stub, _request: Request, http: BaseHTTPRequestHandler) -> None:
    """Never stop."""
    http.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
    while not stub.released.is_set():
        http.wfile.write(b'{"":' * 100_000)


def hang_up(_stub: Stub, _request: Request, http: BaseHTTPRequestHandler) -> None:
    """Close the connection without a word."""
    http.close_connection = True


def garble(_stub: Stub, _request: Request, http: BaseHTTPRequestHandler) -> None:
    """Speak no HTTP."""
    http.wfile.write(b"\x16\x03\x01" + bytes(range(256)) + SECRET.encode() + b"\r\n\r\n")
    http.close_connection = True


@contextmanager
def serving(answer: Answer, *, certificate: "Certificate | None" = None) -> Iterator[Stub]:
    """Run a server until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            stub.connections += 1
            super().setup()

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            request = Request(
                self.command,
                self.path,
                {name.lower(): value for name, value in self.headers.items()},
                self.rfile.read(length),
            )
            stub.asked.append(request)
            try:
                stub.answer(stub, request, self)
            except OSError:  # the client has given up
                self.close_connection = True

        do_GET = do_POST = do_CONNECT = handle_any  # noqa: N815  # http.server's names

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Say nothing: some clients hang up in the middle of a handshake."""

    server = Quiet(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.chain)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    scheme = "http" if certificate is None else "https"
    stub = Stub(f"{scheme}://localhost:{server.server_port}", answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        stub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class Certificate:
    """A certificate for ``localhost`` and its key in one file, and the file of the authority that signed it."""

    chain: str
    authority: str


def make_certificate(folder: Path) -> Certificate:
    """Make an authority of our own, and a certificate."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of the tests")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    end = start + datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(issuer, issuer, authority_key.public_key(), 1, start, end)
    authority = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    names = [
        x509.DNSName("localhost"),
        x509.DNSName("iris.vault.localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    builder = x509.CertificateBuilder(issuer, x509.Name([]), key.public_key(), 2, start, end)
    certificate = (
        builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "chain.pem").write_bytes(certificate.public_bytes(encoding) + private)
    (folder / "authority.pem").write_bytes(authority.public_bytes(encoding))
    return Certificate(str(folder / "chain.pem"), str(folder / "authority.pem"))


class Vault:
    """HashiCorp Vault's HTTP API, as far as a service uses it: AppRole, Kubernetes, and the KV engine, version 2.

    Attributes:
        kept: The secrets, by mount and path.
        tokens: Those that hold.
        lease: Seconds for which a login holds, as it says.
        logins: How many there were.
    """

    def __init__(self, **kept: dict[str, Any]) -> None:
        self.kept = {f"secret/{path.replace('__', '/')}": data for path, data in kept.items()}
        self.tokens = {"root"}
        self.lease = 3600
        self.logins = 0
        self.namespace: str | None = None

    def __call__(self, _stub: Stub, request: Request, http: BaseHTTPRequestHandler) -> None:
        if request.headers.get("x-vault-namespace") != self.namespace:
            say(http, 404, {"errors": []})
        elif request.method == "POST" and request.path in {"/v1/auth/approle/login", "/v1/auth/kubernetes/login"}:
            self._login(request, http)
        elif request.headers.get("x-vault-token") not in self.tokens:
            say(http, 403, {"errors": ["permission denied", SECRET]})
        else:
            mount, _, path = request.path.removeprefix("/v1/").partition("/data/")
            data = self.kept.get(f"{mount}/{path}")
            if data is None:
                say(http, 404, {"errors": []})
            else:
                say(http, 200, {"request_id": "1", "data": {"data": data, "metadata": {"version": 3}}})

    def _login(self, request: Request, http: BaseHTTPRequestHandler) -> None:
        good = (
            {"role_id": "iris", "secret_id": SECRET},
            {"role": "iris", "jwt": SECRET},
        )
        if request.json() not in good:
            say(http, 400, {"errors": ["invalid role or secret ID", SECRET]})
            return
        self.logins += 1
        token = f"token-{self.logins}"
        self.tokens.add(token)
        say(http, 200, {"auth": {"client_token": token, "lease_duration": self.lease, "renewable": True}})


class KeyVault:
    """Azure Key Vault's REST API, as far as a service uses it: a challenge, a bearer token, and secrets.

    Attributes:
        kept: The secrets.
        resource: What a token must be for, as the challenge says. None: the domain that the vault is in.
    """

    def __init__(self, **kept: Any) -> None:
        self.kept = {name.replace("_", "-"): value for name, value in kept.items()}
        self.resource: str | None = None

    def __call__(self, stub: Stub, request: Request, http: BaseHTTPRequestHandler) -> None:
        if request.headers.get("authorization") != "Bearer a-token":
            tenant = 'authorization="https://login.microsoftonline.com/0f1e2d3c"'
            domain = request.headers["host"].partition(".")[2]
            challenge = f'Bearer {tenant}, resource="{self.resource or f"https://{domain}"}"'
            say(http, 401, {"error": {"code": "Unauthorized", "message": "no token"}}, WWW_Authenticate=challenge)
            return
        name = request.path.removeprefix("/secrets/").partition("?")[0].strip("/")
        if name not in self.kept:
            say(http, 404, {"error": {"code": "SecretNotFound", "message": f"{name} {SECRET}"}})
        elif self.kept[name] is None:
            say(http, 403, {"error": {"code": "Forbidden", "innererror": {"code": "SecretDisabled"}}})
        else:
            identity = f"{stub.url}/secrets/{name}/0123456789abcdef0123456789abcdef"
            say(http, 200, {"value": self.kept[name], "id": identity, "attributes": {"enabled": True}})


class Token(NamedTuple):
    """An access token, as Azure's credentials hand it over."""

    token: str
    expires_on: int


class Credential:
    """An identity of Azure that gets a token for whatever it is asked for, and remembers what that was."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    def get_token(self, *scopes: str, **_: Any) -> Token:
        """A token."""
        self.scopes += scopes
        return Token("a-token", int(time.time()) + 3600)


@contextmanager
def secrets_manager() -> Iterator[str]:
    """The URL of a server that speaks the protocol of AWS, with nothing in it: its state is that of the process."""
    import httpx
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        httpx.post(f"{url}/moto-api/reset", trust_env=False).raise_for_status()
        yield url
    finally:
        server.stop()
