"""FastAPI's own documentation page, in a real browser: a person can authorise and try a guarded call."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI, Security

from mlguard import APIKey, APIKeyAuth, APIKeys, Features, RateLimit, harden, truncate_output
from mlguard.store import MemoryStore
from tests.browser import CHROMIUM, browsing
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
        page.wait_for(ANSWER, "401")
        page.click(".auth-wrapper .authorize")
        page.type(".auth-container input", secret)
        page.click(".auth-container .authorize")
        page.click(".auth-container .btn-done")
        page.click(".execute")
        page.wait_for(ANSWER, "200")
        page.wait_for(ANSWER, '"probabilities"')
        assert page.strays == []
        assert not any("Content Security Policy" in error for error in page.errors)
