"""A thread for one object: it neither keeps the object nor outlives it."""

import threading
import weakref

from mlguard._lookout import Lookout, OwnLock, Watched, _keep_looking, restart_all


class Owner:
    """Something to look after."""

    def __init__(self) -> None:
        self.lookout = Lookout(self, "mlguard-test")
        self.looked = threading.Event()
        self.restarts = 0

    def look(self) -> float:
        """Look, and wait for an hour."""
        self.looked.set()
        return 3_600

    def restart_in_child(self) -> None:
        """Count it."""
        self.restarts += 1


def lookouts() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mlguard-test"]


def test_it_looks_at_once_and_ends_with_its_owner() -> None:
    """However long it would have waited for the next look."""
    owner = Owner()
    assert not owner.lookout.is_out
    owner.lookout.send()
    assert owner.lookout.is_out
    assert owner.looked.wait(10)
    (thread,) = lookouts()
    assert thread.daemon, "it keeps no process from ending"
    del owner
    thread.join(10)
    assert not thread.is_alive()


def test_it_never_begins_for_what_is_gone() -> None:
    """The owner may have gone before the thread had its first turn."""
    owner = Owner()
    reference: weakref.ref[Watched] = weakref.ref(owner)
    del owner
    _keep_looking(reference, threading.Lock())


def test_a_child_of_a_fork_has_none() -> None:
    """The owner is told, if there is one."""
    owner, other = Owner(), Owner()
    owner.lookout.send()
    orphan = other.lookout
    del other
    restart_all()
    assert (owner.lookout.is_out, orphan.is_out, owner.restarts) == (False, False, 1)


def test_a_lock_is_free_in_the_child_of_a_fork() -> None:
    """Whoever held it in the parent, and whether that goes on in the child or not."""
    lock = OwnLock()
    with lock:
        restart_all()
        with lock:
            pass
    with lock:
        pass
