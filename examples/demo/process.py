"""Starts an app under uvicorn in a process of its own, with its log in a file, and stops it again."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_START_SECONDS = 60
_STOP_SECONDS = 5
_RUNNING = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:[0-9]+)")


class StartError(Exception):
    """The service did not start. The text ends with what it wrote."""


@dataclass
class Service:
    """A service that is running.

    Attributes:
        url: Where it listens.
        log: What its operator reads.
    """

    url: str
    log: "Log"
    process: subprocess.Popen[bytes]


class Log:
    """The file that holds everything a service writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def peek(self) -> str:
        """What was written since the last :meth:`take`."""
        return self._rest().decode("utf-8", "replace")

    def take(self) -> str:
        """The same, and from then on only what comes after it."""
        rest = self._rest()
        self._read += len(rest)
        return rest.decode("utf-8", "replace")

    def _rest(self) -> bytes:
        with self._path.open("rb") as file:
            file.seek(self._read)
            return file.read()


@contextmanager
def running(app: str, environment: Mapping[str, str], *, port: int = 0) -> Iterator[Service]:
    """Run ``module:app`` until the block ends, however it ends.

    Args:
        app: What uvicorn imports.
        environment: Set on top of this process's own.
        port: On the loopback interface; 0 for any that is free.

    Raises:
        StartError: It ended before it listened, or took too long.
    """
    command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), "--no-server-header"]
    # Threads for linear algebra cost more than they give on rows as short as these.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **environment}
    with tempfile.TemporaryDirectory(prefix="mlguard-demo-") as folder:
        path = Path(folder, "service.log")
        process = None
        try:
            with path.open("ab") as sink, signals_put_off():
                process = subprocess.Popen(  # noqa: S603  # our own command
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
                )
            log = Log(path)
            yield Service(_wait_until_it_listens(process, log), log, process)
        finally:
            if process is not None:
                _stop(process)


@contextmanager
def signals_put_off() -> Iterator[None]:
    """Ctrl-C waits until the block ends. In the middle of starting a process, it would leave it running unknown."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for late in came:
        signal.raise_signal(late)


def _wait_until_it_listens(process: subprocess.Popen[bytes], log: Log) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None  # asked first: what it wrote before it ended is then in the log
        if listening := _RUNNING.search(log.peek()):
            return listening[1]
        if ended:
            raise StartError(f"the service ended with exit code {process.returncode}:\n{log.peek()}")
        time.sleep(0.02)
    raise StartError(f"the service did not listen within {_START_SECONDS} s:\n{log.peek()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
