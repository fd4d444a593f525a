"""What the record of a request costs the request: one guarded endpoint, without and with an audit log.

The log's thread writes to a file meanwhile, with its syncs: what it takes from the event loop is in it. A row of 30
numbers is sent, with key, scope, two limits and truncated output, so that the record has all there is. The digest of
the input is measured beside it.
"""

import json
import tempfile
from typing import Any

import numpy as np
from fastapi import FastAPI

from bench.asgi import Post
from bench.predict import guarded
from bench.report import Extra, Table
from bench.timing import take_turns
from mlguard.auth.api_keys import APIKey
from mlguard.monitoring.audit_log import AuditLog
from mlguard.monitoring.audited_requests import install_audit_log

_KEY = "audit-Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jd"
_INPUT_KEY = "input-Jd7sHfN4cU0wY5tR8pZ2mLzTx9Qk3bV"
_TARGET = 12e-6  # seconds
_COLUMNS = 30


async def measure(*, short: bool) -> Table:
    """The record, and the record with a digest."""
    key, secret = APIKey.generate("bench", scopes=["predict"])
    row = np.random.default_rng(7).uniform(0, 10, _COLUMNS).tolist()
    body = json.dumps({"features": [row]}).encode()

    def post(app: FastAPI) -> Post:
        return Post(app, "/predict", body, {"x-api-key": secret})

    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for work, options in (("a record", {}), ("a record with a digest of the input", {"input_key": _INPUT_KEY})):
            log = AuditLog(folder, key=_KEY)
            app = guarded(_COLUMNS, 1, key)
            install_audit_log(app, log, **_typed(options))
            posts = {"bare": post(guarded(_COLUMNS, 1, key)), "guarded": post(app)}
            answers = [await one() for one in posts.values()]
            if answers[0] != answers[1] or answers[0][0] != 200:
                raise AssertionError(f"the answers differ: {answers}")
            timing = await take_turns(posts, rounds=2 if short else 301, calls=10 if short else 20)
            lines.append(Extra(work, timing, _TARGET))
            if not log.close(60):
                raise AssertionError("not all was written")
    return Table("The audit log: the record of a request", lines)


def _typed(options: dict[str, str]) -> dict[str, Any]:
    return dict(options)
