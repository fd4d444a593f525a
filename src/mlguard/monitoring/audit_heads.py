"""Signed heads: how far each chain of an audit log has come, kept where whoever alters the log cannot reach it."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from mlguard._files import sync_folder
from mlguard._lookout import Lookout
from mlguard._numbers import seconds
from mlguard.artifacts._signing_keys import read_pem
from mlguard.errors import ConfigurationError
from mlguard.monitoring._audit_chain import Point
from mlguard.monitoring._audit_records import parsed
from mlguard.monitoring._audit_sinks import checked_folder
from mlguard.monitoring.events import record_event
from mlguard.problems import logger

#: A public key: PEM, the path of a PEM file, or ready.
HeadPublicKey: TypeAlias = str | bytes | os.PathLike[str] | Ed25519PublicKey
#: A private key, in the same forms.
HeadPrivateKey: TypeAlias = str | bytes | os.PathLike[str] | Ed25519PrivateKey
#: A folder of heads, or the lines themselves.
HeadSource: TypeAlias = str | os.PathLike[str] | Iterable[bytes]

_DOMAIN = b"mlguard audit head 1\n"  # nothing else that is signed with this key begins like it
_BEGINNING = b'{"chain":"'
_END = b',"signature":"'
_MAX_LINE = 1_024
_MOST_CHAINS = 64  # that were begun since heads were kept for the last time
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | sum(getattr(os, f, 0) for f in ("O_NOFOLLOW", "O_CLOEXEC"))
_MAKE_ONE = "make one with: openssl genpkey -algorithm ed25519 -out head-key.pem"
_MEMBERS = {"v": int, "chain": str, "seq": int, "mac": str, "file": int}


class AuditHeads:
    """Keeps signed heads of an audit log in another place.

    A head says: chain so-and-so has a record with this number and this MAC. Who has the key of the log can rewrite
    records; but not those up to the last head, without the key that signs heads **and** the place where they are. So
    keep them where the machine that writes the log can add and not remove: another machine, a bucket that locks
    objects, a mailbox. A folder on the same disk proves little.

    They are kept by a thread of its own: a place that is slow, or that is lost, hinders neither the log nor requests.
    It is told to the operator, and the next head covers what the missing one would have.

    Args:
        place: A folder that is not the log's; each chain has a file in it. Or a function that takes a line.
        key: The Ed25519 key that signs: PEM, the path of a PEM file, or ready. Whoever verifies needs the public one.
        every: Seconds between two heads of a chain that grows, 1 to 86 400. Default 60. What was cut off since the last
            one is not missed.

    Raises:
        ConfigurationError: No key, no such folder, or a time out of its range.
    """

    def __init__(
        self, place: str | os.PathLike[str] | Callable[[bytes], object], *, key: HeadPrivateKey, every: float = 60.0
    ) -> None:
        self._key = _private_key(key)
        self.folder = None if callable(place) else checked_folder(place, where="AuditHeads(place)")
        self._place = place
        self._every = seconds("AuditHeads(every=...)", every, least=1, most=86_400)
        self.kept = self.failures = 0
        self._reached: dict[str, Point] = {}
        self._lookout = Lookout(self, "mlguard-audit-heads")
        self.restart_in_child()

    def restart_in_child(self) -> None:
        """After a fork, in the child: the parent's chains are the parent's."""
        self._lock = threading.Lock()
        self._keeping = threading.Lock()
        self._reached = {}

    def reached(self, point: Point) -> None:
        """A chain has come this far. The log calls it."""
        with self._lock:
            self._reached.pop(point.chain, None)
            self._reached[point.chain] = point
            while len(self._reached) > _MOST_CHAINS:
                del self._reached[next(iter(self._reached))]
        if not self._lookout.is_out:
            self._lookout.send()

    def look(self) -> float:
        """What the thread does. Returns the seconds until the next time."""
        self.keep()
        return self._every

    def keep(self) -> None:
        """Keep a head of each chain that has grown. What goes wrong is told to the operator."""
        with self._keeping:
            with self._lock:
                points = [*self._reached.values()]
            for point in points:
                try:
                    self._keep(point)
                except Exception as error:
                    self.failures += 1
                    wrong = type(error).__name__
                    with suppress(Exception):  # of somebody's handler
                        logger.error("audit log: its head cannot be kept (%s)", wrong)
                        record_event("audit.failed", error=wrong, what="head")
                    return
                self.kept += 1
                with self._lock:
                    if self._reached.get(point.chain) == point:  # else it has grown meanwhile
                        del self._reached[point.chain]

    def _keep(self, point: Point) -> None:
        body = orjson.dumps({"v": 1, **point._asdict()}, option=orjson.OPT_SORT_KEYS)
        signature = self._key.sign(_DOMAIN + body).hex().encode()
        line = b'%b%b%b"}\n' % (body[:-1], _END, signature)
        if self.folder is None:
            self._place(line)  # type: ignore[operator]  # then it is a function
            return
        path = self.folder / f"heads-{point.chain}.jsonl"
        is_new = not path.exists()
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            _append(descriptor, line)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(self.folder)

    def __repr__(self) -> str:
        return f"AuditHeads({self.folder or self._place!r}, every={self._every:g})"


def _append(descriptor: int, line: bytes) -> None:
    """Have a line on the disk, or nothing of it: the next one would not begin behind what is left, but in it.

    Raises:
        OSError: It is not, and is to be tried again.
    """
    size = os.fstat(descriptor).st_size  # nobody else writes heads of this chain
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads that were read.

    Attributes:
        last: The last head of each chain.
        refused: How many are not signed with one of the keys, or are no heads. The beginning of one that a file
            ends with is not among them: the machine has lost its power.
    """

    last: dict[str, Point]
    refused: int


def read_heads(source: HeadSource, keys: HeadPublicKey | Sequence[HeadPublicKey]) -> Heads:
    """Read heads, and keep the last of each chain, which covers those before it.

    Args:
        source: The folder that ``AuditHeads`` writes to, or lines.
        keys: The public keys that may have signed them.

    Raises:
        ConfigurationError: One is no public key, or there is no such folder.
        OSError: A file cannot be read.
    """
    several = isinstance(keys, Sequence) and not isinstance(keys, str | bytes)
    public = [_public_key(key) for key in (keys if several else [keys])]  # type: ignore[union-attr]  # not narrowed
    if not public:
        raise ConfigurationError("there is no public key to verify heads with")
    last: dict[str, Point] = {}
    refused = 0
    for line in _lines(source) if isinstance(source, str | os.PathLike) else source:
        point = _point(line.rstrip(b"\n"), public)
        if point is None:
            refused += 1
        elif point.chain not in last or last[point.chain].seq < point.seq:
            last[point.chain] = point
    return Heads(last, refused)


def _lines(folder: str | os.PathLike[str]) -> Iterator[bytes]:
    if not Path(folder).is_dir():
        raise ConfigurationError("there is no such folder of heads")
    for path in sorted(Path(folder).glob("heads-*.jsonl")):
        if not stat.S_ISREG(path.lstat().st_mode):  # a link, or a pipe that would keep us waiting
            yield b""
            continue
        with path.open("rb") as file:
            while line := file.readline(_MAX_LINE):
                if not _is_torn(line):
                    yield line


def _is_torn(line: bytes) -> bool:
    """Whether it is the beginning of a head, and the end of its file."""
    has_end = line.endswith((b"\n", b"}")) or len(line) == _MAX_LINE
    return not has_end and _BEGINNING.startswith(line[: len(_BEGINNING)])


def _point(line: bytes, keys: Sequence[Ed25519PublicKey]) -> Point | None:
    """What a head says; None if it is none, or not signed."""
    body, _, end = line.rpartition(_END)
    record = parsed(line)
    if record is None or any(type(record.get(name)) is not kind for name, kind in _MEMBERS.items()):
        return None
    try:
        signature = bytes.fromhex(end.removesuffix(b'"}').decode())
    except ValueError:
        return None
    for key in keys:
        with suppress(InvalidSignature):
            key.verify(signature, _DOMAIN + body + b"}")
            return Point(record["chain"], record["seq"], record["mac"], record["file"])
    return None


def _private_key(key: object) -> Ed25519PrivateKey:
    loaded = _loaded(key, "AuditHeads(key=...)", lambda pem: load_pem_private_key(pem, None))
    if not isinstance(loaded, Ed25519PrivateKey):
        raise ConfigurationError(f"AuditHeads(key=...) is a private Ed25519 key without a password; {_MAKE_ONE}")
    return loaded


def _public_key(key: object) -> Ed25519PublicKey:
    loaded = _loaded(key, "the key of heads", load_pem_public_key)
    if not isinstance(loaded, Ed25519PublicKey):
        raise ConfigurationError(
            "the key of heads is a public Ed25519 key; take it out with: openssl pkey -in head-key.pem -pubout"
        )
    return loaded


def _loaded(key: object, where: str, load: Callable[[bytes], object]) -> object:
    """The key in a PEM or its file, or what was given as it is; None for a PEM of something else."""
    if not isinstance(key, str | bytes | os.PathLike):
        return key
    pem = read_pem(key, where)
    try:
        return load(pem)
    except Exception:  # its text could quote the key
        return None
