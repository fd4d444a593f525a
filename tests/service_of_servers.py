"""A service as ``test_other_servers`` has it run by several servers: hardened, recorded, and with redacted logs."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from mlguard import AuditLog, harden, install_audit_log, redact_logs


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    redact_logs()  # the server has set its logs up by now
    yield


app = FastAPI(lifespan=_lifespan)
harden(app)
install_audit_log(app, AuditLog(os.environ["AUDIT_FOLDER"], key=os.environ["AUDIT_KEY"]))


@app.get("/ready")
async def ready() -> str:
    return "yes"
