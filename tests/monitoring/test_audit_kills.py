"""Processes that are killed, that fork and that find the disk full: real ones, many times."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from mlguard import AuditLog, verify_audit_log
from tests.monitoring.audit_logs import KEY, events, records, requests
from tests.servers import ROOT

CHILDREN = Path(__file__).with_name("audit_children.py")


def run(*arguments: str) -> str:
    """Run Python with these arguments, and return what it says."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "AUDIT_KEY": KEY, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Of 24 processes under load, two at a time in one folder, each killed, every promise is kept, and all verifies."""
    seed = secrets.randbelow(10**6)
    acknowledged = run(str(CHILDREN), str(tmp_path), "24", str(seed)).split()
    assert len(acknowledged) > 100, seed
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact, (seed, [chain.problems for chain in result.chains])
    assert len(result.chains) >= 12  # some were killed before they had begun one
    assert {chain.ending for chain in result.chains} <= {"open", "torn"}
    whole = []
    for file in sorted(tmp_path.glob("*.jsonl")):
        *lines, _ = file.read_bytes().split(b"\n")
        whole += [line for line in lines if b'"event":"request"' in line]
    names = {line.split(b'"name":"')[1].split(b'"')[0].decode() for line in whole}
    assert set(acknowledged) <= names, seed
    assert len(names) == len(whole)


def test_after_a_torn_tail_the_next_start_writes_another_chain(tmp_path: Path) -> None:
    """A line that a power cut has torn is named, and hinders nobody."""
    log = AuditLog(tmp_path, key=KEY)
    for event in events(3):
        log.put(event)
    assert log.close()
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-200])
    log = AuditLog(tmp_path, key=KEY)
    log.put(events(1)[0])
    assert log.close()
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact
    assert sorted(chain.ending for chain in result.chains) == ["closed", "torn"]


FORKS = """
import os, sys
from mlguard import AuditLog
log = AuditLog(sys.argv[1], key=os.environ["AUDIT_KEY"])
for number in range(6):
    log.put({"event": "request", "number": number})
    assert log.flush()
    pid = os.fork()
    if pid == 0:
        log.put({"event": "request", "number": 100 + number})
        sys.exit()  # closes the log, as any end of a process does
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_children_of_a_fork_write_chains_of_their_own(tmp_path: Path) -> None:
    """A process that forks while its log is running gives no child its file, and loses nothing itself."""
    run("-c", FORKS, str(tmp_path))
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact
    assert [chain.ending for chain in result.chains] == ["closed"] * 7
    numbers = [record["number"] for record in requests(tmp_path)]
    assert sorted(numbers) == [*range(6), *range(100, 106)]
    reasons = [record["facts"]["reason"] for record in records(tmp_path) if record["event"] == "audit.opened"]
    assert sorted(reasons) == ["fork"] * 6 + ["start"]


FULL = """
import os, resource, signal, sys
from mlguard import AuditLog, UnavailableError
import asyncio
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AuditLog(sys.argv[1], key=os.environ["AUDIT_KEY"])
async def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, resource.RLIM_INFINITY))
    kept = refused = 0
    while not refused:
        log.put({"event": "request", "filling": "x" * 900})
        try:
            await log.written()
            kept += 1
        except UnavailableError:
            refused += 1
    assert kept > 3
    assert not log.accepts() or kept
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    while not log.accepts():
        await asyncio.sleep(0.01)
    await log.written()
    print(kept + refused)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_a_file_that_may_not_grow_loses_nothing(tmp_path: Path) -> None:
    """Where the system lets a file grow no further, what was put is refused, and comes in when it can."""
    count = int(run("-c", FULL, str(tmp_path)))
    result = verify_audit_log(tmp_path, key=KEY)
    assert result.is_intact
    assert len(requests(tmp_path)) == count
