"""A service whose answers wait for their records, to be run in several worker processes, some of which are killed."""

import os

from fastapi import FastAPI

from mlguard import AuditLog, harden, install_audit_log

app = FastAPI()
harden(app)
install_audit_log(app, AuditLog(os.environ["AUDIT_LOG"], key=os.environ["AUDIT_KEY"], durability="request"))


@app.get("/")
async def process() -> int:
    """Which process answers."""
    return os.getpid()
