"""An identity provider on the loopback interface that can go down, rotate its keys, hang, lie and flood."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import RSAKey
from joserfc.jws import JWSRegistry

from tests.auth.jwt_attacks import NOW, mint

WELL_KNOWN = "/.well-known/openid-configuration"


@cache
def private_key(kid: str) -> RSAKey:
    """The provider's key with this id."""
    return RSAKey.import_key(rsa.generate_private_key(65537, 2048), {"kid": kid})


def jwk(kid: str, **changed: Any) -> dict[str, Any]:
    """Its public part, as the provider publishes it."""
    return {**private_key(kid).as_dict(private=False), "use": "sig", "alg": "RS256", **changed}


def jwks(*kids: str) -> bytes:
    """A JWK Set with these keys."""
    return json.dumps({"keys": [jwk(kid) for kid in kids]}).encode()


def token(kid: str, *, signed_by: str | None = None, **claims: Any) -> bytes:
    """A token of the provider's."""
    model = JWSRegistry.algorithms["RS256"]
    return mint(
        {"sub": "alice", "exp": NOW + 60, "iss": "https://login.example", "aud": "api", **claims},
        {"alg": "RS256", "kid": kid},
        lambda message: model.sign(message, private_key(signed_by or kid)),
    )


Answer = Callable[[BaseHTTPRequestHandler], None]


def answer(body: bytes, status: int = 200, **headers: str) -> Answer:
    """An answer with this body."""

    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return send


class Provider:
    """A server whose answers can be replaced while it runs.

    Attributes:
        url: Where it is, which is its issuer too.
        answers: What it answers, by path.
        asked: The paths that it was asked for.
        released: Set when whoever hangs may go on.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.released = threading.Event()
        self.discovers(issuer=url, jwks_uri=url + "/keys")
        self.publishes("one")

    def publishes(self, *kids: str) -> None:
        """From now on, these keys."""
        self.answers["/keys"] = answer(jwks(*kids))

    def discovers(self, **document: Any) -> None:
        """From now on, this discovery document."""
        self.answers[WELL_KNOWN] = answer(json.dumps(document).encode())

    def hang(self, request: BaseHTTPRequestHandler) -> None:
        """Say nothing until the test is over."""
        self.released.wait(30)


@contextmanager
def provider() -> Iterator[Provider]:
    """Run one until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.asked.append(self.path)
            try:
                running.answers[self.path](self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Provider(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        running.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
