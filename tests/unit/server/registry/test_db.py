"""Migrations are numbered, recorded and never applied twice; a transaction is all or nothing."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from llamaleon_server.errors import Conflict, StorageFull
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.migrations import MIGRATIONS


def tables(database: Database) -> set[str]:
    return {row["name"] for row in database.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_a_new_database_has_every_table_and_records_each_migration(tmp_path: Path) -> None:
    database = Database(tmp_path / "new.db")
    assert {"bases", "adapters", "files", "jobs", "job_events", "job_checkpoints", "watched"} <= tables(
        database
    )
    numbers = [row["number"] for row in database.rows("SELECT number FROM migrations ORDER BY number")]
    assert numbers == list(range(1, len(MIGRATIONS) + 1))


def test_opening_again_applies_only_what_is_new_and_keeps_the_rows(tmp_path: Path) -> None:
    first = ("CREATE TABLE a (x INTEGER);",)
    database = Database(tmp_path / "some.db", first)
    database.execute("INSERT INTO a VALUES (7)")
    database.close()
    for _ in range(2):
        database = Database(tmp_path / "some.db", (*first, "ALTER TABLE a ADD COLUMN y INTEGER DEFAULT 1;"))
        [row] = database.rows("SELECT x, y FROM a")
        assert tuple(row) == (7, 1)
        database.close()


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    good = ("CREATE TABLE a (x INTEGER);",)
    with pytest.raises(sqlite3.OperationalError):
        Database(
            tmp_path / "some.db", (*good, "CREATE TABLE b (x INTEGER);\nINSERT INTO nowhere VALUES (1);")
        )
    database = Database(tmp_path / "some.db", good)
    assert tables(database) == {"migrations", "a"}


def test_a_database_from_the_future_is_refused_by_name(tmp_path: Path) -> None:
    Database(tmp_path / "some.db", ("CREATE TABLE a (x INTEGER);", "CREATE TABLE b (x INTEGER);")).close()
    with pytest.raises(Conflict, match="newer llamaleon"):
        Database(tmp_path / "some.db", ("CREATE TABLE a (x INTEGER);",))


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    path.write_bytes(b"nothing of the kind " * 100)
    with pytest.raises(OSError, match=f"{path} cannot be opened: file is not a database"):
        Database(path)
    assert path.read_bytes() == b"nothing of the kind " * 100


def test_an_unfinished_statement_in_a_migration_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unfinished statement"):
        Database(tmp_path / "some.db", ("CREATE TABLE a (x INTEGER)",))


def test_a_nested_transaction_belongs_to_the_outer_one(tmp_path: Path) -> None:
    database = Database(tmp_path / "some.db", ("CREATE TABLE a (x INTEGER);",))

    def insert_and_fail() -> None:
        with database.transaction():
            with database.transaction():
                database.execute("INSERT INTO a VALUES (1)")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        insert_and_fail()
    assert database.rows("SELECT * FROM a") == []


def test_reads_do_not_wait_for_a_transaction_and_see_only_what_is_committed(tmp_path: Path) -> None:
    database = Database(tmp_path / "some.db", ("CREATE TABLE a (x INTEGER);",))
    seen: list[int] = []
    with database.transaction():
        database.execute("INSERT INTO a VALUES (1)")
        assert len(database.rows("SELECT * FROM a")) == 1, "its own thread sees what it wrote"
        other = threading.Thread(target=lambda: seen.append(len(database.rows("SELECT * FROM a"))))
        other.start()
        other.join(30)
        assert seen == [0], "another thread read at once, and the committed state"
    assert len(database.rows("SELECT * FROM a")) == 1


def test_a_full_disk_records_nothing_and_is_no_end(tmp_path: Path) -> None:
    database = Database(tmp_path / "some.db", ("CREATE TABLE a (x TEXT);",))
    database.execute("INSERT INTO a VALUES ('kept')")
    [pages] = database.rows("PRAGMA page_count")
    database.execute(f"PRAGMA max_page_count = {pages['page_count']}")

    def fill() -> None:
        with database.transaction():
            for _ in range(100):
                database.execute("INSERT INTO a VALUES (?)", "x" * 4096)

    with pytest.raises(StorageFull, match="nothing was recorded"):
        fill()
    assert [row["x"] for row in database.rows("SELECT x FROM a")] == ["kept"]
    database.execute("PRAGMA max_page_count = 1000000")
    database.execute("INSERT INTO a VALUES ('again')")
    assert len(database.rows("SELECT x FROM a")) == 2
