"""FastAPI's own documentation page, in a real browser: a person can authorise and try a guarded call."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI, Security
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    Features,
    Passwords,
    RateLimit,
    TokenIssuer,
    User,
    Users,
    harden,
    token_router,
    truncate_output,
)
from mlguard.memory_store import MemoryStore
from tests.browser import CHROMIUM, Page, browsing
from tests.servers import serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

ANSWER = ".live-responses-table .response"
CDN = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"


def assets() -> dict[str, tuple[str, bytes]]:
    """What the page loads from a content delivery network, from a package instead."""
    package = find_spec("fastapi_offline")
    if package is None or package.origin is None:
        raise RuntimeError("fastapi-offline is not installed")
    static = Path(package.origin).parent / "static"
    kinds = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
    answers = {CDN + name: (kind, (static / name).read_bytes()) for name, kind in kinds.items()}
    return {**answers, "https://fastapi.tiangolo.com/img/favicon.png": ("image/png", b"")}


def test_a_person_can_authorise_and_call() -> None:
    """Without the key the call is refused, with it the example of the page itself is answered."""
    record, secret = APIKey.generate("alice", scopes={"predict"})
    app = FastAPI()
    harden(app, docs=True)
    caller = APIKeyAuth(APIKeys([record]))
    limit = RateLimit("60/minute", by=caller, store=MemoryStore())
    rows = Features(columns=2, low=0, high=1, max_rows=3)

    @app.post("/predict", dependencies=[Security(caller, scopes=["predict"]), Depends(limit)])
    @truncate_output
    def predict(x: Annotated[np.ndarray[Any, Any], Depends(rows)]) -> Any:
        return {"probabilities": x}

    with serving(app) as url, browsing(assets()) as page:
        page.open(f"{url}/docs")
        page.click("#operations-default-predict_predict_post .opblock-summary-control")
        page.click(".try-out__btn")
        page.click(".execute")
        page.wait_for(f"{ANSWER} .response-col_status", "401")
        page.click(".auth-wrapper .authorize")
        page.type(".auth-container input", secret)
        page.click(".auth-container .authorize")
        page.click(".auth-container .btn-done")
        page.click(".execute")
        page.wait_for(f"{ANSWER} .response-col_status", "200")
        page.wait_for(ANSWER, '"probabilities"')
        assert page.strays == []
        assert not any("Content Security Policy" in error for error in page.errors)


class Operation:
    """One operation of the page, opened to be tried."""

    def __init__(self, page: Page, name: str) -> None:
        self._page = page
        self._block = f"#operations-default-{name}"
        page.click(f"{self._block} .opblock-summary-control")
        page.click(f"{self._block} .try-out__btn")

    def execute(self, status: str, **fields: str) -> str:
        """Fill the form, send it, and wait for an answer with this status. Returns what is shown of the answer."""
        for name, value in fields.items():
            self._page.type(f'{self._block} tr[data-property-name="{name}"] input', value)
        self._page.click(f"{self._block} .execute")
        self._page.wait_for(f"{self._block} {ANSWER} .response-col_status", status)
        return self._page.text(f"{self._block} {ANSWER}")

    @property
    def bearer(self) -> str:
        """The token that the page has sent."""
        found = re.search("Bearer ([^']+)'", self._page.text(f"{self._block} .curl"))
        assert found
        return found[1]


def test_a_person_can_log_in_call_renew_and_log_out() -> None:
    """The Authorize button asks for name and password; what it got is sent, renewed and taken back on the page."""
    password = "four random words here"
    cheap = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))
    issuer = TokenIssuer(
        "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQsT5uV", algorithm="HS256", issuer="https://a.example", audience="b",
        store=MemoryStore(),
    )  # fmt: skip
    app = FastAPI()
    harden(app, docs=True)
    users = Users({"alice": User("1", cheap.hash(password), scopes={"predict"})})
    app.include_router(token_router(users, issuer, passwords=Passwords(cheap)))
    caller = issuer.auth(token_url="token", scopes={"predict": "Ask the model"})

    @app.get("/predict", dependencies=[Security(caller, scopes=["predict"])])
    def predict() -> str:
        return "setosa"

    with serving(app) as url, browsing(assets()) as page:
        page.open(f"{url}/docs")
        page.click(".auth-wrapper .authorize")
        page.type("#oauth_username", "alice")
        page.type("#oauth_password", password)
        page.click(".scopes a[data-all]")
        page.click(".auth-container .authorize")
        page.click(".auth-container .btn-done")
        prediction = Operation(page, "predict_predict_get")
        assert "setosa" in prediction.execute("200")
        tokens = Operation(page, "token_token_post").execute("200", username="alice", password=password)
        refresh = Operation(page, "refresh_token_refresh_post")
        renewed = refresh.execute("200", refresh_token=json_value(tokens, "refresh_token"))
        revoke = Operation(page, "revoke_token_revoke_post")
        revoke.execute("200", token=json_value(renewed, "refresh_token"))
        refresh.execute("400", refresh_token=json_value(renewed, "refresh_token"))
        revoke.execute("200", token=prediction.bearer)
        prediction.execute("401")
        assert page.strays == []
        assert not any("Content Security Policy" in error for error in page.errors)


def json_value(shown: str, name: str) -> str:
    """A text out of JSON that the page shows."""
    found = re.search(f'"{name}": "([^"]+)"', shown)
    assert found, shown
    return found[1]
