"""Who called, and from where, sealed with a key of their own: erased, they are gone from a log that stays as it is."""

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mlguard.monitoring._audit_records import Record, RecordForm
from mlguard.privacy.subject_keys import SubjectKeys

_MOST = 4_096  # sealed texts that are used again
_HALVES = re.compile(r"[\ud800-\udfff]")  # of surrogate pairs: nothing can be sealed for an id that has them
_FORK_WAITS = 5.0  # seconds, at most
_AGAIN = 60.0  # seconds: whoever was erased and comes back is under their new key by then
#: No process forks in the middle of it: SQLite has locks of its own, which nobody would release in the child.
_sealing = threading.Lock()
_fork_has_it: list[bool] = []


def _before_fork() -> None:
    _fork_has_it.append(_sealing.acquire(timeout=_FORK_WAITS))


def _after_fork() -> None:
    if _fork_has_it.pop():
        _sealing.release()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # Windows cannot fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


class Seals:
    """Makes records in which the principal's id and issuer and the address are sealed for the principal.

    Where there is no principal, the address stays as it is: a key for each address that somebody calls from would let
    anybody fill the file of keys.

    Args:
        keys: Seals.
        form: Makes the records.
    """

    def __init__(self, keys: SubjectKeys, form: RecordForm) -> None:
        self._keys = keys
        self._form = form
        self._sealed: OrderedDict[tuple[str, str, str], tuple[float, str]] = OrderedDict()

    def record(self, event: Mapping[str, Any]) -> Record:
        """The record of an event.

        Raises:
            UnavailableError: The keys cannot be used now. Nothing is to be written in clear instead.
        """
        record = self._form.record(event)
        principal = record.get("principal")
        subject = _subject(event, principal)
        if not subject:
            return record
        if isinstance(principal, dict):
            for member in ("id", "issuer"):
                self._seal(principal, member, subject)
        else:
            self._seal(record, "principal", subject)
        self._seal(record, "address", subject)
        return record

    def _seal(self, record: Record, member: str, subject: str) -> None:
        value = record.get(member)
        if value is None or value == "":
            return
        value = str(value)  # a number says as much of somebody as a text
        name, now = (subject, member, value), time.monotonic()
        until, sealed = self._sealed.pop(name, (0.0, ""))
        if now >= until:  # two looks into a file: of the same caller, once is enough
            with _sealing:
                until, sealed = now + _AGAIN, self._keys.seal(subject, value, context=member)
        self._sealed[name] = (until, sealed)
        if len(self._sealed) > _MOST:
            self._sealed.popitem(last=False)
        record[member] = sealed


def _subject(event: Mapping[str, Any], recorded: object) -> str:
    """For whom the texts of an event are sealed; empty for nobody.

    As the event says it, and not as its record does: that one is cut and written out, and who erases a person by the id
    that they have would not find it.
    """
    if recorded is None:
        return ""
    said = _id_of(event.get("principal"))
    subject = str.__str__(said) if isinstance(said, str) else _id_of(recorded)
    return "" if subject is None else _HALVES.sub("?", str(subject))


def _id_of(principal: object) -> object:
    return principal.get("id") if isinstance(principal, Mapping) else principal
