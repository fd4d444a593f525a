"""The chain of one process: what each next line goes on from."""

import hashlib
import os
import secrets
import socket
from typing import NamedTuple

from mlguard.monitoring._audit_keys import ChainKey
from mlguard.monitoring._audit_records import NOTHING_BEFORE, OPENED, VERSION, Record, signed_line


class Point(NamedTuple):
    """How far a chain has come.

    Attributes:
        chain: Which one.
        seq: Number of its last record, from 0.
        mac: MAC of that one, in hex.
        file: Number of the file that has it, from 1.
    """

    chain: str
    seq: int
    mac: str
    file: int


class Chain:
    """Makes lines of records, each bound to the one before.

    Args:
        key: Chains them.

    Attributes:
        id: At random: no two chains share a file, whoever writes them.
        file: Number of the file that is written.
    """

    def __init__(self, key: ChainKey) -> None:
        self.id = secrets.token_hex(8)
        self.file = 0
        self._key = key
        self._seq = -1
        self._mac = NOTHING_BEFORE
        self._last_line = b""

    @property
    def key_id(self) -> str:
        """Which key chains the records of this file."""
        return self._key.id

    @property
    def point(self) -> Point:
        """How far it has come."""
        return Point(self.id, self._seq, self._mac.hex(), self.file)

    def opening(self, key: ChainKey, *, time: str, reason: str, others: list[str]) -> bytes:
        """The first line of the next file. It has all that is needed to verify that file without the one before.

        Args:
            key: Chains the records of this file.
            time: When.
            reason: Why there is another file.
            others: Which files of other chains there are, so that nobody removes one of those unseen.
        """
        previous = self._mac.hex()
        before = hashlib.sha256(self._last_line.rstrip(b"\n")).hexdigest() if self._last_line else None
        self._key = key
        self.file += 1
        facts = {
            "file": self.file,
            "key": key.id,
            "previous": previous,
            "previous_line_sha256": before,
            "reason": reason,
            "others": others,
            "process": os.getpid(),
            "host": socket.gethostname()[:255],
        }
        return self.line({"event": OPENED, "facts": facts}, time=time)

    def line(self, record: Record, *, time: str) -> bytes:
        """The line of a record."""
        self._seq += 1
        record["v"] = VERSION
        record["chain"] = self.id
        record["seq"] = self._seq
        record["time"] = time
        self._last_line, self._mac = signed_line(self._key.secret, self._mac, record)
        return self._last_line
