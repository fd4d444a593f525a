"""An app under uvicorn in a process of its own, so that its time and memory are its own."""

import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn


@dataclass(frozen=True, slots=True)
class Served:
    """A running service: where it listens, and its process."""

    address: tuple[str, int]
    process_id: int

    def reset_peak_memory(self) -> None:
        """Let the peak begin again at what is in use now (Linux)."""
        Path(f"/proc/{self.process_id}/clear_refs").write_text("5")

    def memory(self, what: str) -> int:
        """Bytes of ``"VmRSS"``, in use now, or ``"VmHWM"``, the peak (Linux)."""
        for line in Path(f"/proc/{self.process_id}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == what:
                return int(value.split()[0]) * 1024
        raise OSError(f"the kernel does not tell {what}")

    def processor_seconds(self) -> float:
        """Seconds that its threads have worked so far (Linux)."""
        fields = Path(f"/proc/{self.process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serve(app: str, settings: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Serve an app on a free port of the loopback interface.

    Connections are taken from the start and answered as soon as the app is up.

    Args:
        app: ``"module:function"`` that makes it.
        settings: Environment variables that it has beside those of this process.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "bench.serving", app, str(listener.fileno())]
        root = Path(__file__).parent.parent
        environment = {**os.environ, **(settings or {})}
        process = subprocess.Popen(  # noqa: S603  # nothing from outside
            command, pass_fds=[listener.fileno()], cwd=root, env=environment
        )
        try:
            address = listener.getsockname()
            listener.close()  # the child has its own: if it dies, connecting fails instead of hanging
            yield Served(address, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=10)


def _main(app: str, descriptor: str) -> None:
    module, _, function = app.partition(":")
    made = getattr(importlib.import_module(module), function)()
    config = uvicorn.Config(made, log_level="critical", access_log=False)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(descriptor))])


if __name__ == "__main__":
    _main(*sys.argv[1:])
