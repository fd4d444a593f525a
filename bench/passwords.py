"""What a login costs, and whether its time tells who has an account.

The first line compares a wrong password for an account there is (bare) with one for an account there is not (guarded):
whoever can tell them apart can list accounts. The second is a whole login beside the bare check of its password, and
the others are an access token beside joserfc's own ``jwt.encode`` of the same claims.
"""

import asyncio
import time
from collections.abc import Callable
from urllib.parse import urlencode

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OctKey

from bench.asgi import Post
from bench.report import Line, Table
from bench.timing import Call, Timing, take_turns
from mlguard.auth.issuer import TokenIssuer
from mlguard.auth.passwords import Passwords, owasp_argon2id
from mlguard.auth.token_router import token_router
from mlguard.auth.users import User, Users
from mlguard.hardening import harden
from mlguard.memory_store import MemoryStore

_SECRET = "Kq3vT8nW1xZ5rB7yM2cD9fG4hJ6kL0pQ"
_FORM = {"content-type": "application/x-www-form-urlencoded"}
_ISSUER, _AUDIENCE, _SCOPES = "https://id.example", "https://api.example", {"predict", "train"}
_NO_LIMIT = ["1000000/second"]


async def measure(*, short: bool) -> Table:
    """All on one event loop, the contenders of each line in turns."""
    right = "correct horse battery"
    hashed = owasp_argon2id().hash(right)
    post = _service(hashed)

    async def check_alone() -> None:
        await asyncio.to_thread(owasp_argon2id().verify_and_update, right, hashed)

    rounds, calls = (2, 1) if short else (31, 3)
    names = {"bare": post("alice", "wrong", 400), "guarded": post("nobody", "wrong", 400)}
    guesses = await take_turns(names, rounds=rounds, calls=calls)
    logins = await take_turns({"bare": check_alone, "guarded": post("alice", right, 200)}, rounds=rounds, calls=calls)
    rounds, calls = (2, 5) if short else (31, 50)
    lines = [
        Line("a wrong name beside a wrong password", guesses, 1.05),
        Line("a login beside argon2id alone", logins, 1.1),
        Line("an access token, HS256", await take_turns(_mint("HS256"), rounds=rounds, calls=calls), 1.3),
        Line("an access token, ES256", await take_turns(_mint("ES256"), rounds=rounds, calls=calls), 1.3),
    ]
    return Table("Passwords and tokens, in process", lines, [_spell_difference(guesses)])


def _service(hashed: str) -> Callable[[str, str, int], Call]:
    app = FastAPI()
    harden(app)
    issuer = TokenIssuer(_SECRET, algorithm="HS256", issuer=_ISSUER, audience=_AUDIENCE, store=MemoryStore())
    users = Users({"alice": User("1", hashed, _SCOPES)})
    limits = {"failures_by_account": _NO_LIMIT, "failures_by_address": _NO_LIMIT}
    app.include_router(token_router(users, issuer, passwords=Passwords(), **limits))

    def post(name: str, password: str, status: int) -> Call:
        request = Post(app, "/token", urlencode({"username": name, "password": password}).encode(), _FORM)

        async def log_in() -> None:
            answered, body = await request()
            if answered != status:
                raise AssertionError(f"{answered} instead of {status}: {body[:200]!r}")

        return log_in

    return post


def _mint(algorithm: str) -> dict[str, Call]:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    secret: str | bytes = pem if algorithm == "ES256" else _SECRET
    key: Key = ECKey.import_key(pem) if algorithm == "ES256" else OctKey.import_key(_SECRET)
    issuer = TokenIssuer(secret, algorithm=algorithm, issuer=_ISSUER, audience=_AUDIENCE, store=MemoryStore())

    async def bare() -> None:  # as the other one
        now = time.time()
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": "1",
            "iat": now,
            "exp": int(now) + 900,
            "jti": "kq3vT8nW1xZ5rB7yM2cD9f",
            "scope": "predict train",
        }
        jwt.encode({"alg": algorithm, "typ": "at+jwt"}, claims, key, algorithms=[algorithm])

    async def guarded() -> None:
        await issuer.access_token("1", scopes=_SCOPES)

    return {"bare": bare, "guarded": guarded}


def _spell_difference(guesses: Timing) -> str:
    known, unknown = guesses.of("bare"), guesses.of("guarded")
    return (
        f"Medians: {known * 1e3:.1f} ms for a wrong password, {unknown * 1e3:.1f} ms for a name that nobody has, "
        f"{abs(unknown / known - 1):.1%} apart (at most 5 %)."
    )
