"""Whether this process is one of several that serve the same app."""

import errno
import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_of_several(app: str) -> Iterator[bool]:
    """Say for as long as the block lasts that this process serves an app, and find out whether another does already.

    Workers are those that the same parent has started to serve the same app, whatever server it is. On Linux each one
    takes a name that only one can have, an abstract Unix socket, which ends with the process. Elsewhere only
    ``WEB_CONCURRENCY`` tells, which servers read their number of workers from.

    Args:
        app: Names the app, the same in all of its workers.
    """
    name = hashlib.blake2b(f"{os.getppid()} {app}".encode("utf-8", "replace"), digest_size=16).hexdigest()
    if sys.platform != "linux":
        yield os.environ.get("WEB_CONCURRENCY", "1").strip() not in {"", "0", "1"}
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taken:
        try:
            taken.bind(f"\0mlguard-{name}")
        except OSError as error:
            yield error.errno == errno.EADDRINUSE
        else:
            yield False
