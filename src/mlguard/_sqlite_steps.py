"""A change to an SQLite file as one step."""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def in_one_step(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], T]) -> T:
    """Make a change whole, or not at all. The lock is taken at once, or two who have read could not both go on.

    Args:
        connection: One that begins no transactions by itself.
        change: Makes it.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = change(connection)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some errors have rolled back already
            connection.execute("ROLLBACK")
        raise
    return result
