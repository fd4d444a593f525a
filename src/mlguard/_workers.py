"""Whether this process is one of several that serve the same app."""

import errno
import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# Names that this process has taken. It is one worker, however often it starts the app, as tests do.
_taken: dict[str, socket.socket] = {}


@contextmanager
def second_of_several(app: str) -> Iterator[bool]:
    """Say for as long as the block lasts that this process serves an app, and find out whether it is the second.

    Workers are those that the same parent has started to serve the same app, whatever server it is. On Linux each one
    takes a name that only one can have, an abstract Unix socket, which ends with the process. The first one finds
    nobody, and the third and all others find that the second, which speaks for all, is there already. Elsewhere only
    ``WEB_CONCURRENCY`` tells, which servers read their number of workers from.

    Args:
        app: Names the app, the same in all of its workers.
    """
    if sys.platform != "linux":
        yield os.environ.get("WEB_CONCURRENCY", "1").strip() not in {"", "0", "1"}
        return
    # Made by the worker itself, and so after a server that forks has forked: its parent is the server.
    name = hashlib.blake2b(f"{os.getppid()} {app}".encode("utf-8", "replace"), digest_size=16).hexdigest()
    with ExitStack() as until_the_end:
        yield not _take(f"\0mlguard-{name}-1", until_the_end) and _take(f"\0mlguard-{name}-2", until_the_end)


def _take(name: str, until: ExitStack) -> bool:
    """Take a name until then. False if another process has it; where that cannot be found out, none has."""
    try:
        taken = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError:  # a sandbox without such sockets
        return True
    if _taken.setdefault(name, taken) is not taken:
        taken.close()
        return True
    until.callback(_give_back, name)
    try:
        taken.bind(name)
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def _give_back(name: str) -> None:
    if name in _taken:
        _taken.pop(name).close()


def _give_all_back() -> None:
    for name in [*_taken]:
        _give_back(name)


if sys.platform == "linux":  # pragma: no branch  # tested there alone
    # What a worker forks is no worker, and may live longer.
    os.register_at_fork(after_in_child=_give_all_back)
