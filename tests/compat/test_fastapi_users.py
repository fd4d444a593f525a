"""Tokens and password hashes of fastapi-users.

What stands here was made by fastapi-users 15.0.5 itself. It is no dependency of these tests, because it pins pwdlib to
one version. Tokens of other users are made in the form of its ``JWTStrategy``: HS256, with sub, aud and exp.
"""

import asyncio
import json
from typing import Any

import pytest
from fastapi.security import SecurityScopes
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from starlette.requests import HTTPConnection

from mlguard import ConfigurationError, JWTAuth, NotAuthenticatedError, Principal
from mlguard.compat.bcrypt import PasslibBcrypt
from tests.auth.jwt_attacks import hs256, mint

SECRET = "Jw5nVq8Xz2LrT7cPk9BdYm3HsGf6Ae4U"
USER = "0b7a3a0e-5a3d-4c55-9a0f-4f1c2f6f3f10"
EXPIRES = 1795662025
HEADER = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
#: Of ``JWTStrategy(secret=SECRET, lifetime_seconds=3600).write_token(user)``.
ACCESS = (
    f"{HEADER}.eyJzdWIiOiIwYjdhM2EwZS01YTNkLTRjNTUtOWEwZi00ZjFjMmY2ZjNmMTAiLCJhdWQiOlsiZmFzdGFwaS11c2VyczphdXRo"
    "Il0sImV4cCI6MTc5NTY2MjAyNX0.RhSDoGSiPk-ykX6NRilge9WQHTJlhAr_CFkkJ1IhVI0"
)
#: What is mailed to who has forgotten a password, signed with the same secret, as many apps do.
RESET = (
    f"{HEADER}.eyJzdWIiOiIwYjdhM2EwZS01YTNkLTRjNTUtOWEwZi00ZjFjMmY2ZjNmMTAiLCJwYXNzd29yZF9mZ3B0IjoieCIsImF1ZCI6ImZh"
    "c3RhcGktdXNlcnM6cmVzZXQiLCJleHAiOjE3OTU2NjIwMjV9.EZoMJrPY60XLx-UBghU9ceCG6NjESXvuo8pFSibBNlM"
)
PASSWORD = "correct horse Ünïcode 🐎"
#: Of its ``PasswordHelper``, which makes argon2 hashes and reads those of bcrypt from before version 13.
ARGON2 = "$argon2id$v=19$m=65536,t=3,p=4$HV/7+bpzLs4bAorj6h2wSQ$vF45qzjP/PVZcbiIRXjqeASHsAJn1DQ8fail54vNMtA"
BCRYPT = "$2b$04$PEcUTuxjgOuGYVGabx.iMesMmvTtTISXrENnf6Lrpaepixuae10EW"


def guard(**options: Any) -> JWTAuth:
    settings = {"audience": "fastapi-users:auth", "clock": lambda: EXPIRES - 60, **options}
    return JWTAuth(SECRET, algorithms=["HS256"], **settings)


def who(auth: JWTAuth, token: str) -> Principal:
    conn = HTTPConnection({"type": "http", "headers": [(b"authorization", b"Bearer " + token.encode())]})
    return asyncio.run(auth(conn, SecurityScopes()))


def made(**claims: Any) -> str:
    claims = {"sub": USER, "aud": ["fastapi-users:auth"], "exp": EXPIRES, **claims}
    return mint(json.dumps(claims).encode(), sign=lambda message: hs256(message, SECRET.encode())).decode()


def test_token_of_fastapi_users_verifies() -> None:
    """The principal's id is the user's, as text."""
    assert who(guard(), ACCESS).identity == ("jwt", "", USER)
    assert who(guard(), made()).identity == ("jwt", "", USER)


@pytest.mark.parametrize(
    ("token", "options"),
    [
        (RESET, {}),
        (made(aud=["fastapi-users:verify"]), {}),
        (made(aud="fastapi-users:oauth-state"), {}),
        (ACCESS, {"audience": None}),
        (ACCESS, {"clock": lambda: EXPIRES}),
        (ACCESS[:-4] + "AAAA", {}),
    ],
)
def test_token_for_something_else_is_refused(token: str, options: dict[str, Any]) -> None:
    """Above all the links that it mails: with the same secret they are as well signed as access tokens."""
    with pytest.raises(NotAuthenticatedError):
        who(guard(**options), token)


def test_token_that_never_expires_is_refused() -> None:
    """``lifetime_seconds=None`` makes tokens without exp."""
    claims = json.dumps({"sub": USER, "aud": ["fastapi-users:auth"]}).encode()
    with pytest.raises(NotAuthenticatedError, match="credential"):
        who(guard(), mint(claims, sign=lambda message: hs256(message, SECRET.encode())).decode())


def test_secret_of_its_documentation_is_refused() -> None:
    """It signs with it."""
    with pytest.raises(ConfigurationError):
        JWTAuth("SECRET", algorithms=["HS256"], audience="fastapi-users:auth")


@pytest.mark.parametrize("stored", [ARGON2, BCRYPT])
def test_its_password_hashes_verify(stored: str) -> None:
    """With pwdlib, as in fastapi-users; bcrypt is replaced."""
    hashes = PasswordHash((Argon2Hasher(), PasslibBcrypt()))
    holds, new = hashes.verify_and_update(PASSWORD, stored)
    assert (holds, new is not None) == (True, stored == BCRYPT)
    assert hashes.verify_and_update("wrong", stored) == (False, None)
