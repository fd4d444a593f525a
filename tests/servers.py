"""Real servers on the loopback interface: an app in a thread of this process, or a program in one of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn

ROOT = Path(__file__).parents[1]
_SECONDS = 120  # for what takes one, where the machine is busy
# As in pyproject.toml: Starlette before 0.40 imports python-multipart by its old name.
_WARNINGS = ("-W", "error", "-W", "ignore:Please use `import python_multipart`:PendingDeprecationWarning")
_RUNNING = r"Uvicorn running on (https?://127\.0\.0\.1:[0-9]+)"


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """Serve an ASGI app with uvicorn from a thread, until the block ends.

    Args:
        app: The app, which may be looked into while it is served.
        **options: For ``uvicorn.Config``.

    Returns:
        Its URL.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = {"log_config": None, "server_header": False, "timeout_graceful_shutdown": 1, **options}
        server = uvicorn.Server(uvicorn.Config(app, **settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive())
            if not server.started:
                raise RuntimeError("the app did not start; its log says why")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_SECONDS)


@dataclass
class Program:
    """A program that is running.

    Attributes:
        process: Its process.
    """

    process: subprocess.Popen[bytes]
    _output: Path

    @property
    def output(self) -> str:
        """What it has written so far, to standard output and standard error."""
        return self._output.read_text("utf-8")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return as soon as it has written something that matches.

        Raises:
            RuntimeError: It ended first.
        """
        wait_until(lambda: re.search(pattern, self.output) or self.process.poll() is not None)
        found = re.search(pattern, self.output)
        if found is None:
            raise RuntimeError(f"it ended with exit code {self.process.returncode}:\n{self.output}")
        return found

    def url(self) -> str:
        """Where it listens, as soon as it does. Raises if it ends first."""
        url = self.wait_for(_RUNNING)[1]
        wait_until(lambda: can_connect(url))
        return url

    def stop(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(_SECONDS)

    @property
    def has_children(self) -> bool:
        """Whether a process that it started is running, once it has itself ended."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


@contextmanager
def program(*arguments: str, environment: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Iterator[Program]:
    """Run Python with these arguments, by default in the root of the repository, until the block ends.

    Warnings are errors in it. Of this environment's settings for mlguard it sees none but those that are given.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLGUARD_")}
    settings = {**inherited, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **(environment or {})}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        with output.open("ab") as sink, _interrupts():
            process = subprocess.Popen(
                [sys.executable, "-u", *_WARNINGS, *arguments],
                cwd=cwd,
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, in which nothing may be left
            )
        try:
            yield Program(process, output)
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _interrupts() -> Iterator[None]:
    """A process that starts here takes interrupts, even where a shell that runs in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def can_connect(url: str) -> bool:
    """Whether somebody listens there."""
    place = urlsplit(url)
    try:
        socket.create_connection((place.hostname or "", place.port or 0), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], object], *, seconds: float = _SECONDS) -> None:
    """Return as soon as the condition holds.

    Raises:
        TimeoutError: It does not come to hold.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"what was waited for did not happen within {seconds} s")
        time.sleep(0.01)
