"""Rows with labels that nobody believes yet, in a file, until an operator says what becomes of them."""

import json
import os
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from mlguard._guard import Principal
from mlguard._numbers import whole
from mlguard._sqlite_steps import in_one_step
from mlguard.errors import ConfigurationError, UnavailableError
from mlguard.monitoring.events import record_event
from mlguard.monitoring.quarantined_rows import Held, QuarantinedRow, ReleasedFeedback, State, bounded

T = TypeVar("T")

_FORM = 1_835_821_939  # what SQLite keeps as application_id: this file is ours, and of this form
_TABLES = """
CREATE TABLE held (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, expires REAL NOT NULL, state TEXT NOT NULL,
    method TEXT NOT NULL, issuer TEXT NOT NULL, caller TEXT NOT NULL, reason TEXT NOT NULL,
    label TEXT NOT NULL, features TEXT NOT NULL
);
CREATE INDEX held_of ON held (caller, method, issuer);
CREATE INDEX held_until ON held (expires);
CREATE TABLE form (json TEXT NOT NULL);
"""
_COLUMNS = "id, at, state, method, issuer, caller, reason, label, features"
_OF_CALLER = "(? IS NULL OR caller = ?) AND (? IS NULL OR method = ?) AND (? IS NULL OR issuer = ?)"
_WAIT = 5.0  # seconds for whoever else writes
_MOST_IDS = 500  # in one statement


class FeedbackQuarantine:
    """Labelled rows that wait for an operator, in one SQLite file on a local disk, for many processes at once.

    The file holds numbers, texts and dates: nothing in it is ever run. It has personal data, if the rows have, and the
    ids of callers: it is for its owner only (0600), what leaves it is overwritten with zeros (``secure_delete``), and
    every row goes after ``keep``, released or not. Copies that SQLite's journal, a disk or a backup has made are not
    reached.

    It is bounded: what comes beyond a bound is not kept, and not accepted either. One caller can fill its own share and
    no other; many together can fill the file, and then what honest callers send is not kept until an operator has
    looked at it.

    Args:
        path: The file. Made if it is not there. Its folder must be there.
        max_rows: How many rows are kept.
        max_rows_per_caller: How many of one caller. At most a tenth of ``max_rows``, if left out.
        max_bytes: How large the file may grow by what callers send.
        keep: How long a row is kept.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: A setting that cannot work; a file that cannot be opened, is of another kind, or that others
            on the machine may read or write.
        UnavailableError: From a call: the file cannot be read or written now.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_rows: int = 10_000,
        max_rows_per_caller: int | None = None,
        max_bytes: int = 256 * 1_048_576,
        keep: timedelta = timedelta(days=30),
        clock: Callable[[], float] = time.time,
    ) -> None:
        where = "FeedbackQuarantine"
        self.path = Path(path).absolute()
        self._max_rows = whole(f"{where}(max_rows=...)", max_rows, least=1)
        own = max(1, self._max_rows // 10) if max_rows_per_caller is None else max_rows_per_caller
        self._own = whole(f"{where}(max_rows_per_caller=...)", own, least=1, most=self._max_rows)
        self._max_bytes = whole(f"{where}(max_bytes=...)", max_bytes, least=65_536)
        if not isinstance(keep, timedelta) or keep <= timedelta(0):
            raise ConfigurationError(f"{where}(keep=...) is a timedelta above 0, such as timedelta(days=30)")
        self._keep = keep.total_seconds()
        self._clock = clock
        wrong = ""
        try:
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            _check(self.path)
            self._set_up()
        except OSError as error:
            wrong = type(error).__name__
        except UnavailableError as error:
            wrong = error.reason
        if wrong:
            raise ConfigurationError(f"{where}(path): {str(self.path)!r} cannot be used ({wrong})")

    def _set_up(self) -> None:
        def prepare(connection: sqlite3.Connection) -> int:
            (form,) = connection.execute("PRAGMA application_id").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables == 0:
                for statement in filter(str.strip, _TABLES.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_FORM}")
                form = _FORM
            return int(form)

        if self._change(prepare) != _FORM:
            raise ConfigurationError(f"FeedbackQuarantine(path): {str(self.path)!r} is another kind of file")

    # The service --------------------------------------------------------------------------------------------------

    def bind(self, *, shape: Sequence[int], dtype: str, labels: Sequence[str | int]) -> None:
        """Say what the rows are. A file is for rows of one shape, one dtype and one set of labels.

        Raises:
            ConfigurationError: There are other rows in it, or it cannot be used now: a service that starts is told why.
        """
        form = json.dumps({"shape": [*shape], "dtype": dtype, "labels": [*labels]})

        def bind(connection: sqlite3.Connection) -> bool:
            known = connection.execute("SELECT json FROM form").fetchone()
            if known is None or not connection.execute("SELECT EXISTS (SELECT * FROM held)").fetchone()[0]:
                connection.execute("DELETE FROM form")
                connection.execute("INSERT INTO form VALUES (?)", (form,))
                return True
            return bool(known[0] == form)

        wrong = ""
        try:
            is_ours = self._change(bind)
        except UnavailableError as error:
            wrong = error.reason
        if wrong:
            raise ConfigurationError(f"FeedbackQuarantine: {wrong}")
        if not is_ours:
            raise ConfigurationError(
                "FeedbackQuarantine: the file has rows of another shape or with other labels; release or reject them, "
                "or take another file"
            )

    def add(self, rows: Sequence[Held]) -> int:
        """Keep rows, as many as there is room for.

        Returns:
            How many are kept.
        """
        now = self._clock()

        def add(connection: sqlite3.Connection) -> int:
            _purge(connection, now)
            (there,) = connection.execute("SELECT count(*) FROM held").fetchone()
            mine: Counter[tuple[str, str, str]] = Counter()
            kept: list[tuple[Any, ...]] = []
            for row in rows:
                if row.who not in mine:
                    mine[row.who] = _count_of(connection, row.who)
                if there + len(kept) < self._max_rows and mine[row.who] < self._own:
                    mine[row.who] += 1
                    kept.append(self._written(row, now))
            # Only what callers add is bounded: an operator who looks at a full file must be able to act on it.
            (page,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count = {self._max_bytes // page}")
            insert = "INSERT INTO held VALUES (NULL, ?, ?, 'held', ?, ?, ?, ?, ?, ?)"
            connection.executemany(insert, kept)
            return len(kept)

        return self._change(add)

    def _written(self, row: Held, now: float) -> tuple[Any, ...]:
        features = orjson.dumps(np.ascontiguousarray(row.features), option=orjson.OPT_SERIALIZE_NUMPY).decode()
        return now, now + self._keep, *row.who, row.reason, json.dumps(row.label), features

    # The operator -------------------------------------------------------------------------------------------------

    def rows(
        self, *, caller: Principal | str | None = None, state: State = "held", after: int = 0, limit: int = 100
    ) -> list[QuarantinedRow]:
        """Rows in quarantine, in the order in which they came.

        Args:
            caller: Who has sent them: a :class:`Principal`; or the id, which a key and a token may both have. None:
                everybody.
            state: Which rows: that wait, or that were released and not fetched yet.
            after: Only rows with a higher id: the last one of the page before.
            limit: How many at most.
        """
        limit = whole("FeedbackQuarantine.rows(limit=...)", limit, least=1)
        query = (
            f"SELECT {_COLUMNS} FROM held WHERE state = ? AND id > ? AND expires > ? "  # noqa: S608  # nothing from outside
            f"AND {_OF_CALLER} ORDER BY id LIMIT ?"
        )
        values = (state, after, self._clock(), *_who(caller), limit)
        return self._ask(lambda one: [self._read(one, row) for row in one.execute(query, values).fetchall()])

    def row(self, id: int) -> QuarantinedRow | None:  # noqa: A002  # it is called so
        """One row, if it is there."""
        query = f"SELECT {_COLUMNS} FROM held WHERE id = ? AND expires > ?"  # noqa: S608  # nothing from outside

        def find(connection: sqlite3.Connection) -> QuarantinedRow | None:
            row = connection.execute(query, (id, self._clock())).fetchone()
            return None if row is None else self._read(connection, row)

        return self._ask(find)

    def count(self, state: State = "held") -> int:
        """How many rows there are."""
        query = "SELECT count(*) FROM held WHERE state = ? AND expires > ?"
        return int(self._ask(lambda one: one.execute(query, (state, self._clock())).fetchone()[0]))

    def release(self, ids: Iterable[int]) -> int:
        """Let rows into the training data: the next :meth:`released` has them.

        Returns:
            How many there were.
        """
        return self._decide(ids, "UPDATE held SET state = 'released' WHERE", "feedback.released")

    def reject(self, ids: Iterable[int]) -> int:
        """Remove rows that wait. Those that were released stay.

        Returns:
            How many there were.
        """
        return self._decide(ids, "DELETE FROM held WHERE", "feedback.rejected")

    def withdraw(self, ids: Iterable[int]) -> int:
        """Take back that rows were released: they wait again. Too late for what was fetched.

        A job that is within :meth:`released` has them too: stop it first. They are not lost when it ends.

        Returns:
            How many there were.
        """
        return self._decide(ids, "UPDATE held SET state = 'held' WHERE", "feedback.withdrawn", state="released")

    def _decide(self, ids: Iterable[int], statement: str, event: str, *, state: State = "held") -> int:
        wanted = sorted({whole("id", id_, least=0, most=2**63 - 1) for id_ in ids})

        def decide(connection: sqlite3.Connection) -> Counter[tuple[str, str, str]]:
            whose: Counter[tuple[str, str, str]] = Counter()
            for start in range(0, len(wanted), _MOST_IDS):
                some = wanted[start : start + _MOST_IDS]
                which = f" state = '{state}' AND id IN ({', '.join('?' * len(some))})"
                question = f"SELECT method, issuer, caller FROM held WHERE {which}"  # noqa: S608  # question marks alone
                whose.update(connection.execute(question, some).fetchall())
                connection.execute(statement + which, some)
            return whose

        whose = self._change(decide)
        for (method, issuer, caller), rows in whose.items():
            named = {} if method == "name" else {"caller": caller}
            record_event(event, method=method, **({"issuer": issuer} if issuer else {}), **named, rows=rows)
        return whose.total()

    def forget(self, caller: Principal | str) -> int:
        """Remove all rows of a caller, released or not: for one who is to be erased. No event names them.

        Args:
            caller: A :class:`Principal`; or the id, whatever it was proved by.

        Returns:
            How many there were.
        """
        statement = f"DELETE FROM held WHERE {_OF_CALLER}"  # noqa: S608  # nothing from outside
        return self._change(lambda one: one.execute(statement, _who(caller)).rowcount)

    def purge(self) -> int:
        """Remove what is older than ``keep``. Whatever is added and fetched does it too.

        Returns:
            How many rows there were.
        """
        return self._change(lambda one: _purge(one, self._clock()))

    # The retraining job -------------------------------------------------------------------------------------------

    @contextmanager
    def released(self, *, limit: int = 10_000) -> Iterator[ReleasedFeedback]:
        """What was released, for the training data. It leaves the file when the block ends without an exception.

        After a crash in between it is there again: so look for it in the data before, or add both in one step. For one
        job at a time.

        Args:
            limit: How many rows at most.

        Yields:
            The rows and labels; none where nothing was released.
        """
        self.purge()
        rows = self.rows(state="released", limit=limit)
        form = self._ask(_form)
        x = np.array([row.features for row in rows], form["dtype"]).reshape(len(rows), *form["shape"])
        y = np.array(form["labels"])[[form["labels"].index(row.label) for row in rows]]
        yield ReleasedFeedback(x, y, tuple((row.method, row.issuer, row.caller) for row in rows))
        done = [(row.id,) for row in rows]
        self._change(lambda one: one.executemany("DELETE FROM held WHERE id = ? AND state = 'released'", done))

    # The file -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _read(connection: sqlite3.Connection, row: Sequence[Any]) -> QuarantinedRow:
        id_, at, state, method, issuer, caller, reason, label, features = row
        values = np.array(json.loads(features), _form(connection)["dtype"])  # what is missing is null, and NaN
        moment = datetime.fromtimestamp(at, UTC)
        return QuarantinedRow(id_, moment, state, method, issuer, caller, reason, json.loads(label), values)

    def _change(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Change something as one step."""
        return self._ask(lambda connection: in_one_step(connection, change))

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Ask over a connection of its own: none is used by two threads, or by two processes after a fork."""
        try:
            with closing(self._connect()) as connection:
                return question(connection)
        except sqlite3.Error as error:
            wrong = f"{type(error).__name__} {getattr(error, 'sqlite_errorname', '')}".strip()
        raise UnavailableError(f"the quarantine of feedback cannot be used: {wrong}", retry_after=1)

    def _connect(self) -> sqlite3.Connection:
        # Not made anew where it has gone: SQLite would let others read it.
        address = f"{self.path.as_uri()}?mode=rw"
        connection = sqlite3.connect(address, uri=True, timeout=_WAIT, isolation_level=None)
        connection.execute("PRAGMA secure_delete = ON")
        return connection

    def __repr__(self) -> str:
        return f"FeedbackQuarantine({self.path.name!r})"


def _who(caller: Principal | str | None) -> tuple[str | None, ...]:
    """What ``_OF_CALLER`` asks for."""
    if isinstance(caller, Principal):
        method, issuer, id_ = caller.identity
        return (bounded(id_),) * 2 + (method,) * 2 + (bounded(issuer),) * 2
    return (None if caller is None else bounded(caller),) * 2 + (None,) * 4


def _purge(connection: sqlite3.Connection, now: float) -> int:
    return connection.execute("DELETE FROM held WHERE expires <= ?", (now,)).rowcount


def _form(connection: sqlite3.Connection) -> dict[str, Any]:
    """What the rows are. Nothing was ever added where nobody has said so."""
    known = connection.execute("SELECT json FROM form").fetchone()
    form: dict[str, Any] = {"shape": [0], "dtype": "float64", "labels": []} if known is None else json.loads(known[0])
    return form


def _count_of(connection: sqlite3.Connection, who: tuple[str, str, str]) -> int:
    query = "SELECT count(*) FROM held WHERE method = ? AND issuer = ? AND caller = ?"
    (count,) = connection.execute(query, who).fetchone()
    return int(count)


def _check(path: Path) -> None:
    """Refuse a file that others may read or write: it may hold personal data, and what is trained on.

    Raises:
        ConfigurationError: They may.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ConfigurationError(f"FeedbackQuarantine(path): {str(path)!r} is no regular file")
    if os.name == "posix" and state.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"FeedbackQuarantine(path): others on the machine may read or write {str(path)!r}; chmod 600"
        )
