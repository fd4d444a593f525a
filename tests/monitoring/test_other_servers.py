"""Servers that people run services with: what they write has no query, and what they end leaves a whole audit log."""

import re
import secrets
import signal
from pathlib import Path

import httpx
import pytest

from mlguard import verify_audit_log
from tests.servers import can_connect, program, wait_until

SERVERS = {
    "uvicorn": ("uvicorn", "--port", "0"),
    "gunicorn": (
        "gunicorn", "--worker-class", "uvicorn_worker.UvicornWorker", "--bind", "127.0.0.1:0", "--access-logfile", "-",
        "--no-control-socket",
    ),
    "hypercorn": ("hypercorn", "--bind", "127.0.0.1:0", "--access-logfile", "-"),
}  # fmt: skip
_LISTENS = r"(http://127\.0\.0\.1:[1-9][0-9]*)"


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_is_asked_and_ended(server: str, tmp_path: Path) -> None:
    """By SIGTERM, as every orchestrator does."""
    for package in SERVERS[server][:1] + (("uvicorn_worker",) if server == "gunicorn" else ()):
        pytest.importorskip(package)
    folder = tmp_path / "log"
    folder.mkdir(mode=0o700)
    key = secrets.token_urlsafe(32)
    environment = {"AUDIT_FOLDER": str(folder), "AUDIT_KEY": key, "HOME": str(tmp_path)}
    arguments = ("-m", *SERVERS[server], "tests.service_of_servers:app")
    with program(*arguments, environment=environment) as running:
        url = running.wait_for(_LISTENS)[1]
        wait_until(lambda: can_connect(url))
        answer = httpx.get(f"{url}/ready?password=hunter2", trust_env=False)
        assert (answer.status_code, answer.json()) == (200, "yes")
        running.wait_for(r'"GET /ready')
        assert running.stop(signal.SIGTERM) in {0, -signal.SIGTERM}
        written = running.output
    assert "hunter2" not in written
    assert re.search(r'"GET /ready(\?\[query\])? ', written)
    verification = verify_audit_log(folder, key=key)
    assert verification.is_intact
    assert [chain.ending for chain in verification.chains] == ["closed"]
    assert verification.chains[0].records == 3
