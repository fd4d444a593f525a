"""Where subject keys are kept: what ``SubjectKeys`` needs of such a place, and a file for it."""

import os
import sqlite3
import stat
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from mlguard._sqlite_steps import in_one_step
from mlguard.errors import ConfigurationError, UnavailableError

T = TypeVar("T")

_FORM = 1_835_821_937  # what SQLite keeps as application_id: this file is ours, and of this form
_TABLE = """
CREATE TABLE IF NOT EXISTS keys (subject TEXT PRIMARY KEY, key_id TEXT NOT NULL UNIQUE, wrapped TEXT NOT NULL)
WITHOUT ROWID
"""
_WAIT = 10.0  # seconds for whoever else writes
_PAGE = 1_000  # records at a time, so that a long pass keeps no writer waiting


class KeyRecord(NamedTuple):
    """One subject's key, as it is kept: nothing of it is secret or names anybody.

    Attributes:
        subject: A keyed pseudonym of the subject.
        key_id: At random, anew for each key. What is sealed carries it.
        wrapped: The key, encrypted.
    """

    subject: str
    key_id: str
    wrapped: str


@runtime_checkable
class SubjectKeyStore(Protocol):
    """What :class:`SubjectKeys` needs of the place where records are kept.

    Each call is one step: whole or not done, also after a crash, and seen by all processes when it returns.
    """

    def of(self, subject: str) -> KeyRecord | None:
        """The record of a subject."""

    def by_id(self, key_id: str) -> KeyRecord | None:
        """The record of a key."""

    def add(self, record: KeyRecord) -> KeyRecord:
        """Keep a record unless the subject has one.

        Returns:
            The one that is kept now: of all who add at once, each gets the same.
        """

    def replace(self, records: Iterable[KeyRecord]) -> int:
        """Put records in the place of those with the same subject **and** key id. Those that are gone stay gone.

        Returns:
            How many were replaced.
        """

    def remove(self, subject: str) -> KeyRecord | None:
        """Remove the record of a subject, so that nothing of it is left in this place.

        Returns:
            What was removed.
        """

    def __iter__(self) -> Iterator[KeyRecord]:
        """All records."""


class SubjectKeyFile:
    """Subject keys in one SQLite file on a local disk, for many processes at once.

    A key that is made or removed is on the disk when the call returns (``synchronous=EXTRA``), and what is removed is
    overwritten with zeros in the file (``secure_delete``). Copies that a file system, a disk or a backup has made are
    not reached: they hold keys that are still encrypted, until the key that encrypts them is destroyed. See
    ``SubjectKeys.rewrap``.

    With 100 000 subjects it has some 27 MB. Not for network file systems, whose locks SQLite cannot rely on. A file
    that is exchanged for another one, such as a backup, is not used until there is a new object: from the one before,
    this object could still read who was erased from the other. Do not open the file by other means in this process:
    when it is closed again, SQLite's locks on it are gone (fcntl(2)). Copy it by ``sqlite3``'s ``backup``.

    Args:
        path: The file. Made if it is not there, for its owner only (0600). Its folder must be there.

    Raises:
        ConfigurationError: It cannot be opened, is another kind of file, or every user of the machine may write to it:
            they could put back what was removed.
        UnavailableError: From a call: it cannot be read or written now, such as a full disk, or it is no more the file
            that it was (503, in a request).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).absolute()
        self._inherited: list[sqlite3.Connection] = []
        self._renew()
        wrong = ""
        try:
            _make(self._path)
            self._file = _checked(self._path)
            self._set_up()
        except (OSError, sqlite3.Error, UnavailableError) as error:
            wrong = type(error).__name__
        if wrong:
            raise ConfigurationError(f"SubjectKeyFile(path): the file cannot be used ({wrong})")

    def _renew(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def _set_up(self) -> None:
        def prepare(connection: sqlite3.Connection) -> int:
            (form,) = connection.execute("PRAGMA application_id").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables == 0:
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA application_id = {_FORM}")
                form = _FORM
            return int(form)

        if self._write(prepare) != _FORM:
            raise ConfigurationError("SubjectKeyFile(path): this is another kind of database")

    def of(self, subject: str) -> KeyRecord | None:
        """The record of a subject."""
        return self._find("subject", subject)

    def by_id(self, key_id: str) -> KeyRecord | None:
        """The record of a key."""
        return self._find("key_id", key_id)

    def add(self, record: KeyRecord) -> KeyRecord:
        """Keep a record unless the subject has one."""

        def add(connection: sqlite3.Connection) -> KeyRecord:
            connection.execute("INSERT INTO keys VALUES (?, ?, ?) ON CONFLICT (subject) DO NOTHING", record)
            return KeyRecord(*connection.execute("SELECT * FROM keys WHERE subject = ?", record[:1]).fetchone())

        return self._write(add)

    def replace(self, records: Iterable[KeyRecord]) -> int:
        """Put records in the place of those with the same subject and key id."""
        changes = [(record.wrapped, record.subject, record.key_id) for record in records]
        update = "UPDATE keys SET wrapped = ? WHERE subject = ? AND key_id = ?"
        return self._write(lambda connection: connection.executemany(update, changes).rowcount) if changes else 0

    def remove(self, subject: str) -> KeyRecord | None:
        """Remove the record of a subject."""

        def remove(connection: sqlite3.Connection) -> KeyRecord | None:
            row = connection.execute("SELECT * FROM keys WHERE subject = ?", (subject,)).fetchone()
            connection.execute("DELETE FROM keys WHERE subject = ?", (subject,))
            return KeyRecord(*row) if row else None

        return self._write(remove)

    def __iter__(self) -> Iterator[KeyRecord]:
        """All records that are there from the beginning to the end of the pass."""
        page = "SELECT * FROM keys WHERE subject > ? ORDER BY subject LIMIT ?"
        first = self.of("")
        if first is not None:
            yield first
        last = ""
        while rows := self._ask(lambda connection: connection.execute(page, (last, _PAGE)).fetchall()):  # noqa: B023  # used at once
            yield from map(KeyRecord._make, rows)
            last = rows[-1][0]

    def _find(self, column: str, value: str) -> KeyRecord | None:
        query = f"SELECT * FROM keys WHERE {column} = ?"  # noqa: S608  # one of two
        row = self._ask(lambda connection: connection.execute(query, (value,)).fetchone())
        return KeyRecord(*row) if row else None

    def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Change something as one step."""

        def changed(connection: sqlite3.Connection) -> T:
            # With a write-ahead log, what was removed stays in the file for a while. The mode is kept in the file, and
            # others may set it at any time, such as a program that makes backups. While they use it, this is an error.
            connection.execute("PRAGMA schema_version").fetchone()  # without a look, it does not know of that yet
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
            return in_one_step(connection, change)

        return self._ask(changed)

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        if self._process != os.getpid():  # after a fork: SQLite's connections must not be used or closed in the child
            self._inherited += [self._connection] if self._connection is not None else []
            self._renew()
        try:
            with self._lock:
                if _identity(self._path) != self._file:
                    raise UnavailableError(
                        "the file of subject keys was moved, removed or replaced: start this process anew",
                        retry_after=1,
                    )
                if self._connection is None:
                    self._connection = self._connect()
                return question(self._connection)
        except sqlite3.Error as error:
            wrong = type(error).__name__
        raise UnavailableError(f"the file of subject keys cannot be used: {wrong}", retry_after=1)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
        weakref.finalize(self, _close, connection, os.getpid())
        connection.execute("PRAGMA synchronous = EXTRA")  # a power cut brings nothing back that was removed
        connection.execute("PRAGMA secure_delete = ON")
        return connection

    def __repr__(self) -> str:
        return f"SubjectKeyFile({self._path.name!r})"


def _make(path: Path) -> None:
    """Make the file if it is not there, for its owner only: SQLite would let others read it.

    One that is there is not opened. To close it would take away the locks that this process has on it (fcntl(2)), and
    let other processes into the middle of a change that another thread is making.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _checked(path: Path) -> tuple[int, int]:
    """The identity of a file that may be used.

    Raises:
        ConfigurationError: It may not.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ConfigurationError("SubjectKeyFile(path): it is no regular file")
    if os.name == "posix" and state.st_mode & stat.S_IWOTH:
        raise ConfigurationError("SubjectKeyFile(path): every user of the machine may write to it; chmod o-w")
    return state.st_dev, state.st_ino


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is; None if there is none, or it cannot be told."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _close(connection: sqlite3.Connection, process: int) -> None:
    if process == os.getpid():
        connection.close()
