"""SQLite: transactions, reads that never wait for them, and migrations recorded in the database itself."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from llamaleon_server.errors import Conflict, StorageFull
from llamaleon_server.registry.migrations import MIGRATIONS


class Database:
    """Any thread may call. Short statements only: they may run on the event loop.

    Reads have a connection of their own, so that resolving a name never waits while another thread commits
    and the disk syncs. Inside a transaction its own thread reads what it has written.
    """

    def __init__(self, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
        """Raises: Conflict if a newer llamaleon wrote it; OSError if it cannot be opened as a database."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._owner: int | None = None  # the thread whose transaction is open
        self._connection = _connect(path)
        # What was answered to a client survives a power cut, not only the death of the process.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._migrate(path, migrations)
        self._read_lock = threading.Lock()
        self._reader = _connect(path)
        self._reader.execute("PRAGMA query_only = ON")

    def _migrate(self, path: Path, migrations: Sequence[str]) -> None:
        with self.transaction():
            self.execute(
                "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, applied INTEGER)"
            )
            (done,) = self.execute("SELECT COALESCE(MAX(number), 0) FROM migrations").fetchone()
            if done > len(migrations):
                raise Conflict(
                    f"{path} was written by a newer llamaleon (migration {done}, this one knows "
                    f"{len(migrations)}): upgrade llamaleon, or use another --home."
                )
            for number, script in enumerate(migrations[done:], done + 1):
                # Not executescript: that would commit, and a half-applied migration must roll back.
                for statement in _statements(script):
                    self.execute(statement)
                self.execute("INSERT INTO migrations VALUES (?, ?)", number, int(time.time()))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Nested use joins the outer transaction."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            self._owner = threading.get_ident()
            try:
                yield
                with _full_disk():
                    self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back already
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._owner = None

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Raises: StorageFull."""
        with self._lock, _full_disk():
            return self._connection.execute(statement, values)

    def row(self, query: str, *values: Any) -> sqlite3.Row | None:
        connection, lock = self._reading()
        with lock:
            found: sqlite3.Row | None = connection.execute(query, values).fetchone()
            return found

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        connection, lock = self._reading()
        with lock:
            return connection.execute(query, values).fetchall()

    def _reading(self) -> tuple[sqlite3.Connection, AbstractContextManager[Any]]:
        if self._owner == threading.get_ident():
            return self._connection, self._lock
        return self._reader, self._read_lock

    def close(self) -> None:
        with self._lock, self._read_lock:
            self._reader.close()
            self._connection.close()


@contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise StorageFull(
                "No space left on the disk for the database; nothing was recorded. Free some space, or serve "
                "with --home on another disk."
            ) from error
        raise


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10.0)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")  # the first to read the file
    except sqlite3.DatabaseError as error:
        raise OSError(f"the database {path} cannot be opened: {error}") from error
    return connection


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise ValueError(f"a migration ends in an unfinished statement: {statement.strip()!r}")
