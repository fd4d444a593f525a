"""What tests of logins share: cheap hashes, an issuer with a clock, and forms sent to an app in this process."""

import asyncio
from typing import Any
from urllib.parse import urlencode

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from starlette.types import ASGIApp

from mlguard import MemoryStore, Passwords, TokenIssuer
from tests.asgi import Answer, acall
from tests.clock import Clock

SECRET = "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQsT5uV"
OTHER_SECRET = "p9Wc4nT7bK2xV6mQ1zR8yL3gD5fH0jSaE7iU"
ISSUER = "https://id.example"
AUDIENCE = "https://api.example"

#: As cheap as argon2 gets.
CHEAP = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))


def make_issuer(clock: Clock, **settings: Any) -> TokenIssuer:
    return TokenIssuer(
        settings.pop("key", SECRET),
        **{
            "algorithm": "HS256",
            "issuer": ISSUER,
            "audience": AUDIENCE,
            "store": MemoryStore(clock=clock),
            "clock": clock,
            **settings,
        },
    )


def cheap_passwords(**settings: Any) -> Passwords:
    return Passwords(CHEAP, **settings)


async def apost(
    app: ASGIApp, path: str, form: dict[str, str] | bytes, *, address: str = "192.0.2.1", **headers: str
) -> Answer:
    body = form if isinstance(form, bytes) else urlencode(form).encode()
    sent = {"content_type": "application/x-www-form-urlencoded", **headers}
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in sent.items()]
    return await acall(app, path, headers=pairs, chunks=[body], client=(address, 1))


def post(
    app: ASGIApp, path: str, form: dict[str, str] | bytes, *, address: str = "192.0.2.1", **headers: str
) -> Answer:
    return asyncio.run(apost(app, path, form, address=address, **headers))


def log_in(app: ASGIApp, name: str = "alice", password: str = "right", **more: str) -> Answer:
    address = more.pop("address", "192.0.2.1")
    return post(app, "/token", {"username": name, "password": password, **more}, address=address)


def get(app: ASGIApp, path: str, token: str) -> int:
    """The status of a request with a bearer token."""
    headers = [(b"authorization", f"Bearer {token}".encode())]
    return asyncio.run(acall(app, path, method="GET", headers=headers)).status
