"""What the record of a request costs the request: one guarded endpoint, without and with an audit log.

A row of 30 numbers is sent, with a key and a limit. Once the answer is a label alone, so that there is nothing to sum
up; once it has the scores of three classes. The log of the first lines takes records and does nothing, as the thread
that writes does not run on the way of a request; that thread's share of the processor is measured in the last line,
where it writes to a file with its syncs as fast as requests come.
"""

import json
import tempfile
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI

from bench.asgi import Post
from bench.report import Extra, Table
from bench.timing import take_turns
from mlguard.auth.api_keys import APIKey, APIKeyAuth, APIKeys
from mlguard.hardening import harden
from mlguard.inputs.features import Features
from mlguard.monitoring.audit_log import AuditLog
from mlguard.monitoring.audited_requests import RequestLog, install_audit_log
from mlguard.outputs.truncation import truncate_output
from mlguard.traffic.rate import RateLimit

_KEYS = {"log": "audit-Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jd", "input": "input-Jd7sHfN4cU0wY5tR8pZ2mLzTx9Qk3bV"}
_TARGET = 12e-6  # seconds
_COLUMNS = 30
_LABEL = {"label": "virginica"}
_SCORES = {"label": "virginica", "probabilities": [0.0125, 0.25, 0.7375]}


async def measure(*, short: bool) -> Table:
    """The record by itself, with a summary of the answer, with a digest of the input, and with the thread at work."""
    key, secret = APIKey.generate("bench")
    row = np.random.default_rng(7).uniform(0, 10, _COLUMNS).tolist()
    body = json.dumps({"features": [row]}).encode()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(folder, key=_KEYS["log"])
        for work, answer, taker, input_key in (
            ("a record", _LABEL, _Nowhere(), None),
            ("with a summary of the scores", _SCORES, _Nowhere(), None),
            ("with a digest of the input", _LABEL, _Nowhere(), _KEYS["input"]),
            ("with the thread that writes", _LABEL, log, None),
        ):
            guarded = _service(key, answer)
            install_audit_log(guarded, taker, input_key=input_key)
            apps = {"bare": _service(key, answer), "guarded": guarded}
            posts = {name: Post(app, "/predict", body, {"x-api-key": secret}) for name, app in apps.items()}
            answers = [await post() for post in posts.values()]
            if answers[0] != answers[1] or answers[0][0] != 200:
                raise AssertionError(f"the answers differ: {answers}")
            timing = await take_turns(posts, rounds=2 if short else 301, calls=10 if short else 20)
            lines.append(Extra(work, timing, _TARGET))
        if not log.close(60):
            raise AssertionError("not all was written")
    return Table("The audit log: the record of a request", lines)


def _service(key: APIKey, answer: dict[str, Any]) -> FastAPI:
    app = FastAPI()
    harden(app)
    caller = APIKeyAuth(APIKeys([key]))
    rows = Features(columns=_COLUMNS, low=0, high=10, max_rows=1)
    steady = RateLimit("1000000000/minute", by=caller)

    @app.post("/predict", response_model=None, dependencies=[Depends(steady)])
    @truncate_output(decimals=2)
    async def predict(x: Annotated[np.ndarray[Any, Any], Depends(rows)]) -> Any:  # noqa: ARG001  # as a model would
        return answer

    return app


class _Nowhere:
    """A log that takes records, and forgets them."""

    durability = "batch"

    def put(self, event: Mapping[str, Any]) -> None: ...

    async def written(self) -> None: ...

    def accepts(self) -> bool:
        return True

    def attach(self) -> None: ...


_: type[RequestLog] = _Nowhere
