"""Batches as rows. What they do is `batches/`."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from llamaleon_server.errors import NotFound
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.webhooks import WebhookStore

VALIDATING, IN_PROGRESS, FINALIZING = "validating", "in_progress", "finalizing"
CANCELLING = "cancelling"
COMPLETED, FAILED, EXPIRED, CANCELLED = "completed", "failed", "expired", "cancelled"
ENDED = frozenset({COMPLETED, FAILED, EXPIRED, CANCELLED})


class LineError(Struct, frozen=True, kw_only=True):
    """Why a file was not taken. `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Counts(Struct, frozen=True, kw_only=True):
    """Of requests. Those that were never run, because the batch ended before, are in `total` only."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Tokens(Struct, frozen=True, kw_only=True):
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def plus(self, other: Tokens) -> Tokens:
        return Tokens(
            **{field: getattr(self, field) + getattr(other, field) for field in self.__struct_fields__}
        )


class BatchRecord(Struct, frozen=True, kw_only=True):
    """A batch as stored. New fields get defaults, so that old rows keep reading. Times are Unix seconds."""

    id: str
    created_at: int
    endpoint: str
    input_file_id: str
    completion_window: str
    expires_at: int
    granted: str  # what the key of its creator may do
    metadata: dict[str, str] | None = None
    output_expires_s: int | None = None
    status: str = VALIDATING
    end: str = COMPLETED  # what it becomes once its files are written
    model: str | None = None
    counts: Counts = Counts()
    tokens: Tokens = Tokens()
    errors: list[LineError] = []
    times: dict[str, int] = {}  # when it took each status
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class BatchStore:
    def __init__(self, db: Database, folder: Path, webhooks: WebhookStore) -> None:
        self._db = db
        self._folder = folder
        self._webhooks = webhooks

    def results(self, batch_id: str) -> Path:
        """Where what was done is written down while the batch runs."""
        return self._folder / f"{batch_id}.jsonl"

    def add(self, record: BatchRecord) -> BatchRecord:
        self._db.execute(
            "INSERT INTO batches (id, status, record) VALUES (?, ?, ?)",
            record.id,
            record.status,
            _encode(record),
        )
        return record

    def get(self, batch_id: str) -> BatchRecord:
        """Raises: NotFound."""
        row = self._db.row("SELECT record FROM batches WHERE id = ?", batch_id)
        if row is None:
            raise NotFound(f"No batch found with id '{batch_id}'.", param="batch_id")
        return _decode(row)

    def update(self, batch_id: str, **changes: Any) -> BatchRecord:
        """A change that ends it is announced to webhooks."""
        with self._db.transaction():
            before = self.get(batch_id)
            record = msgspec.structs.replace(before, **changes)
            self._db.execute(
                "UPDATE batches SET status = ?, record = ? WHERE id = ?",
                record.status,
                _encode(record),
                batch_id,
            )
            if record.ended and not before.ended:
                self._webhooks.announce(f"batch.{record.status}", batch_id)
        return record

    def unfinished(self) -> list[BatchRecord]:
        """Oldest first."""
        rows = self._db.rows(
            "SELECT record FROM batches WHERE status NOT IN (?, ?, ?, ?) ORDER BY seq", *sorted(ENDED)
        )
        return [_decode(row) for row in rows]

    def page(self, *, after: str | None, limit: int) -> tuple[list[BatchRecord], bool]:
        """Newest first: one page, and whether there is more. Raises: NotFound for `after`."""
        start = None
        if after is not None:
            row = self._db.row("SELECT seq FROM batches WHERE id = ?", after)
            if row is None:
                raise NotFound(f"No batch found with id '{after}'.", param="after")
            start = int(row["seq"])
        rows = self._db.rows(
            "SELECT record FROM batches WHERE (? IS NULL OR seq < ?) ORDER BY seq DESC LIMIT ?",
            start,
            start,
            limit + 1,
        )
        return [_decode(row) for row in rows[:limit]], len(rows) > limit


def _encode(record: BatchRecord) -> str:
    return msgspec.json.encode(record).decode()


def _decode(row: sqlite3.Row) -> BatchRecord:
    return msgspec.json.decode(row["record"], type=BatchRecord)
