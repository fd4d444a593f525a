"""Who called, and from where, sealed with a key of their own: erased, they are gone from a log that stays as it is."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mlguard.monitoring._audit_records import Record, RecordForm
from mlguard.privacy.subject_keys import SubjectKeys

_MOST = 4_096  # sealed texts that are used again
_AGAIN = 60.0  # seconds: whoever was erased and comes back is under their new key by then


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
        subject = principal.get("id") if isinstance(principal, dict) else principal
        if not isinstance(subject, str) or not subject:
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
        if not isinstance(value, str) or not value:
            return
        name, now = (subject, member, value), time.monotonic()
        until, sealed = self._sealed.pop(name, (0.0, ""))
        if now >= until:  # two looks into a file: of the same caller, once is enough
            until, sealed = now + _AGAIN, self._keys.seal(subject, value, context=member)
        self._sealed[name] = (until, sealed)
        if len(self._sealed) > _MOST:
            self._sealed.popitem(last=False)
        record[member] = sealed
