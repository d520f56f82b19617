"""What each file of a watched folder became, so that a restart takes nothing in twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from llamaleon_server.registry.db import Database
from llamaleon_server.registry.records import WatchedFile


class WatchedStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, path: Path) -> WatchedFile | None:
        row = self._db.row("SELECT * FROM watched WHERE path = ?", str(path))
        return None if row is None else _watched(row)

    def put(self, file: WatchedFile) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO watched VALUES (?, ?, ?, ?, ?)",
            str(file.path),
            file.stamp,
            file.name,
            msgspec.json.encode(file.versions).decode(),
            file.reason,
        )

    def remove(self, path: Path) -> None:
        self._db.execute("DELETE FROM watched WHERE path = ?", str(path))

    def all(self) -> list[WatchedFile]:
        return [_watched(row) for row in self._db.rows("SELECT * FROM watched ORDER BY path")]

    def failures(self) -> list[WatchedFile]:
        return [file for file in self.all() if file.reason is not None]


def _watched(row: sqlite3.Row) -> WatchedFile:
    return WatchedFile(
        path=Path(row["path"]),
        stamp=row["stamp"],
        name=row["name"],
        versions=msgspec.json.decode(row["versions"], type=tuple[int, ...]),
        reason=row["reason"],
    )
