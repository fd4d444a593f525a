"""Ids of requests: no two are the same, in whatever thread or process they are drawn."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlguard._request_ids import new_request_id


def test_ids_have_64_random_bits_and_are_never_the_same() -> None:
    """Drawn by several threads at a time, more than are drawn at once."""
    with ThreadPoolExecutor(8) as threads:
        ids = [*threads.map(lambda _: new_request_id(), range(20_000))]
    assert all(re.fullmatch(r"[0-9a-f]{16}", one) for one in ids)
    assert len(set(ids)) == 20_000
    assert abs(sum(int(one, 16).bit_count() for one in ids) / 20_000 - 32) < 0.5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_draws_its_own() -> None:
    """And not those that its parent has drawn, but not given yet."""
    new_request_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  # in another process
        os.write(write, "".join([new_request_id() for _ in range(300)]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    assert len(theirs) == 300 * 16
    ours = {new_request_id() for _ in range(300)}
    assert not ours & {theirs[at : at + 16] for at in range(0, len(theirs), 16)}
