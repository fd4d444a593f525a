"""Ways around who-is-calling that somebody has tried, where one part meets another, each shut."""

from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request, Security

from mlguard import AnyAuth, APIKey, APIKeyAuth, APIKeys, harden, principal_of
from tests.asgi import call
from tests.auth.logins import make_issuer
from tests.clock import Clock

NOW = 1_800_000_000.0


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


# Either credential ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hardened", [True, False])
def test_principal_of_names_who_came_with_either_credential(hardened: bool, clock: Clock) -> None:
    """A limit of somebody else's by principal_of would else count everybody by address, or answer nobody."""
    record, secret = APIKey.generate("robot", scopes=["predict"])
    key_auth = APIKeyAuth(APIKeys([record]))
    either = AnyAuth(key_auth, make_issuer(clock).auth())
    app = FastAPI()

    @app.get("/", dependencies=[Depends(either)])
    def who(request: Request) -> list[Any]:
        return [principal_of(request, guard).identity for guard in (either, key_auth)]

    @app.get("/more", dependencies=[Security(either, scopes=["explain"])])
    def more() -> None: ...

    if hardened:
        harden(app)
    key = (b"x-api-key", secret.encode())

    assert call(app, "/", method="GET", headers=[key]).json == [["api-key", "", "robot"]] * 2
    refused = call(app, "/more", method="GET", headers=[key])
    assert (refused.status, refused.headers["www-authenticate"].split()[0]) == (403, "APIKey")
