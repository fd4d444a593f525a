"""A thread that looks after something, now and then, for as long as there is something to look after."""

import contextlib
import os
import threading
import weakref
from typing import Protocol

_AGAIN = 0.2  # seconds until the next look after one that failed


class Watched(Protocol):
    """Something that has to be looked after."""

    def look(self) -> float:
        """Look. Returns the seconds until the next look."""

    def restart_in_child(self) -> None:
        """Begin anew after a fork, in the child: it has no thread, and locks are as the parent's threads had them."""


class Lookout:
    """The thread of one object.

    It starts when it is told to, at the object's first use, so that a server may fork before. It does not keep the
    object: once that is gone, the thread ends at once. It never keeps a process from ending.

    Args:
        owner: What it looks after.
        name: Of the thread.

    Attributes:
        is_out: Whether the thread runs.
    """

    def __init__(self, owner: Watched, name: str) -> None:
        self._owner = weakref.ref(owner)
        self._name = name
        self.is_out = False
        restart_after_fork(self)

    def send(self) -> None:
        """Start the thread. The owner sees to it that nobody else does at the same time.

        Where there can be no further thread, ``is_out`` stays False.
        """
        owner = self._owner()
        if owner is None:  # pragma: no cover  # only the owner calls this
            return
        # A lock as a signal: it can be released from the middle of a garbage collection, an Event cannot safely be set.
        over = threading.Lock()
        over.acquire()
        reference = weakref.ref(owner, lambda _: over.release())
        thread = threading.Thread(target=_keep_looking, args=(reference, over), name=self._name, daemon=True)
        with contextlib.suppress(RuntimeError):
            thread.start()
            self.is_out = True

    def restart_in_child(self) -> None:
        """After a fork, in the child."""
        self.is_out = False
        owner = self._owner()
        if owner is not None:
            owner.restart_in_child()


def _keep_looking(reference: "weakref.ref[Watched]", over: threading.Lock) -> None:
    owner: Watched | None
    while (owner := reference()) is not None:
        wait = _AGAIN
        with contextlib.suppress(Exception):  # such as no memory: there is a next look
            wait = owner.look()
        del owner
        if over.acquire(timeout=wait):
            return


class OwnLock:
    """A lock of this process alone: whoever held it in the parent of a fork does not hold it in the child."""

    def __init__(self) -> None:
        self.restart_in_child()
        restart_after_fork(self)

    def restart_in_child(self) -> None:
        """After a fork, in the child: who held it has stayed behind."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # who held it has forked, and here is the child
            self._lock.release()


class _Forked(Protocol):
    def restart_in_child(self) -> None: ...


_forked: "weakref.WeakSet[_Forked]" = weakref.WeakSet()


def restart_after_fork(one: _Forked) -> None:
    """Have ``restart_in_child`` called in the child of each fork, for as long as this object is there."""
    _forked.add(one)


def restart_all() -> None:
    """Begin anew in the child of a fork."""
    for one in list(_forked):
        one.restart_in_child()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # Windows cannot fork
    os.register_at_fork(after_in_child=restart_all)
