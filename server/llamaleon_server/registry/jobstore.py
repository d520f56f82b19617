"""Fine-tuning jobs, their events and checkpoints, as rows. What they mean is `jobs/`."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from llamaleon_server.errors import NotFound
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.webhooks import WebhookStore

VALIDATING = "validating_files"
QUEUED = "queued"
RUNNING = "running"
PAUSED = "paused"  # it goes on at its stage when it is resumed
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"
ENDED = frozenset({SUCCEEDED, FAILED, CANCELLED})


class JobError(Struct, frozen=True):
    code: str
    message: str
    param: str | None = None


class JobRecord(Struct, frozen=True, kw_only=True):
    """A job as stored. New fields get defaults, so that old rows keep reading."""

    id: str
    created_at: int
    model: str  # as asked for
    base: str
    adapter: str  # the adapter's name: the suffix, or one made from the id
    suffix: str | None
    training_file: str
    validation_file: str | None
    seed: int
    status: str = VALIDATING
    stage: str = "validate"  # where a restarted server goes on
    requested: dict[str, Any] = {}  # hyperparameters as asked for, "auto" kept
    resolved: dict[str, Any] = {}  # the same with every "auto" replaced, once known
    metadata: dict[str, str] | None = None
    method: str = "supervised"  # of llamaleon_trainer.job.METHODS
    text_template: str | None = None  # what makes a text of each row's columns
    init_adapter: str | None = None  # `NAME@VERSION` of the base's adapter that training goes on from
    integrations: list[dict[str, Any]] = []  # as asked for
    deploy: bool = True  # False: converted, proved and evaluated, but its name keeps what it means
    finished_at: int | None = None
    fine_tuned_model: str | None = None
    result_files: list[str] = []
    trained_tokens: int | None = None
    estimated_finish: int | None = None
    error: JobError | None = None
    events_offset: int = 0  # bytes of events.jsonl that are recorded
    trainer_done: bool = False  # its last event is recorded
    total_steps: int | None = None
    last_step: int = 0
    restarts: int = 0  # of the trainer
    parity: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class JobEvent(Struct, frozen=True, kw_only=True):
    id: str
    created_at: int
    level: str  # info, warn, error
    type: str  # message, metrics
    message: str
    data: dict[str, Any]


class JobCheckpoint(Struct, frozen=True, kw_only=True):
    id: str
    job: str
    step: int
    ft_name: str
    metrics: dict[str, float]
    created_at: int


class JobStore:
    """Changes go through `update`, one transaction each, so that events and state never disagree."""

    def __init__(self, db: Database, folder: Path, webhooks: WebhookStore) -> None:
        self.db = db
        self._folder = folder
        self._webhooks = webhooks

    def directory(self, job_id: str) -> Path:
        return self._folder / job_id

    def create(self, record: JobRecord) -> JobRecord:
        self.db.execute(
            "INSERT INTO jobs (id, status, record) VALUES (?, ?, ?)",
            record.id,
            record.status,
            _encode(record),
        )
        return record

    def get(self, job_id: str) -> JobRecord:
        """Raises: NotFound."""
        row = self.db.row("SELECT record FROM jobs WHERE id = ?", job_id)
        if row is None:
            raise NotFound(f"Could not find fine tune: {job_id}", param="fine_tuning_job_id")
        return _decode(row)

    def update(self, job_id: str, **changes: Any) -> JobRecord:
        """A change that ends it is announced to webhooks."""
        with self.db.transaction():
            before = self.get(job_id)
            record = msgspec.structs.replace(before, **changes)
            self.db.execute(
                "UPDATE jobs SET status = ?, record = ? WHERE id = ?", record.status, _encode(record), job_id
            )
            if record.ended and not before.ended:
                self._webhooks.announce(f"fine_tuning.job.{record.status}", job_id)
        return record

    def unfinished(self) -> list[JobRecord]:
        """Oldest first."""
        rows = self.db.rows(
            "SELECT record FROM jobs WHERE status NOT IN (?, ?, ?) ORDER BY seq", *sorted(ENDED)
        )
        return [_decode(row) for row in rows]

    def page(
        self, *, after: str | None, limit: int, keep: Callable[[JobRecord], bool] = lambda _: True
    ) -> tuple[list[JobRecord], bool]:
        """Newest first: one page of those that `keep` accepts, and whether there is more."""
        start = None if after is None else self._seq("jobs", after)
        page: list[JobRecord] = []
        cursor = self.db.rows(
            "SELECT record FROM jobs WHERE (? IS NULL OR seq < ?) ORDER BY seq DESC", start, start
        )
        for row in cursor:
            record = _decode(row)
            if not keep(record):
                continue
            if len(page) == limit:
                return page, True
            page.append(record)
        return page, False

    # ------------------------------------------------------------ events

    def add_event(
        self,
        job_id: str,
        message: str,
        *,
        level: str = "info",
        type: str = "message",
        data: dict[str, Any] | None = None,
        created: float | None = None,
        once: str | None = None,
    ) -> None:
        """Append an event; with `once`, only if none with this mark was recorded for the job before."""
        self.db.execute(
            "INSERT OR IGNORE INTO job_events (id, job, created, level, type, message, data, once) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            f"ft-event-{secrets.token_hex(12)}",
            job_id,
            int(created if created is not None else time.time()),
            level,
            type,
            message,
            msgspec.json.encode(data or {}).decode(),
            once,
        )

    def events(self, job_id: str, *, after: str | None, limit: int) -> tuple[list[JobEvent], bool]:
        """Newest first: one page and whether there is more. Raises: NotFound."""
        self.get(job_id)
        start = None if after is None else self._seq("job_events", after)
        rows = self.db.rows(
            "SELECT * FROM job_events WHERE job = ? AND (? IS NULL OR seq < ?) ORDER BY seq DESC LIMIT ?",
            job_id,
            start,
            start,
            limit + 1,
        )
        return [_event(row) for row in rows[:limit]], len(rows) > limit

    def all_events(self, job_id: str, type: str | None = None) -> list[JobEvent]:
        """Oldest first."""
        rows = self.db.rows(
            "SELECT * FROM job_events WHERE job = ? AND (? IS NULL OR type = ?) ORDER BY seq",
            job_id,
            type,
            type,
        )
        return [_event(row) for row in rows]

    # ------------------------------------------------------------ checkpoints

    def add_checkpoint(self, job_id: str, step: int, ft_name: str, metrics: dict[str, float]) -> None:
        """Idempotent by step: a resumed trainer announces the same step again."""
        self.db.execute(
            "INSERT OR IGNORE INTO job_checkpoints (id, job, step, ft_name, metrics, created) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            f"ftckpt_{secrets.token_hex(12)}",
            job_id,
            step,
            ft_name,
            msgspec.json.encode(metrics).decode(),
            int(time.time()),
        )

    def remove_checkpoint(self, checkpoint: JobCheckpoint) -> None:
        self.db.execute("DELETE FROM job_checkpoints WHERE id = ?", checkpoint.id)

    def checkpoints(self, job_id: str, *, after: str | None, limit: int) -> tuple[list[JobCheckpoint], bool]:
        """Newest first: one page and whether there is more. Raises: NotFound."""
        self.get(job_id)
        start = None if after is None else self._seq("job_checkpoints", after)
        rows = self.db.rows(
            "SELECT * FROM job_checkpoints WHERE job = ? AND (? IS NULL OR seq < ?) "
            "ORDER BY seq DESC LIMIT ?",
            job_id,
            start,
            start,
            limit + 1,
        )
        return [_checkpoint(row) for row in rows[:limit]], len(rows) > limit

    def _seq(self, table: str, identifier: str) -> int:
        row = self.db.row(f"SELECT seq FROM {table} WHERE id = ?", identifier)
        if row is None:
            raise NotFound(f"`after` names no object of this list: {identifier}", param="after")
        return int(row["seq"])


def _encode(record: JobRecord) -> str:
    return msgspec.json.encode(record).decode()


def _decode(row: sqlite3.Row) -> JobRecord:
    return msgspec.json.decode(row["record"], type=JobRecord)


def _event(row: sqlite3.Row) -> JobEvent:
    return JobEvent(
        id=row["id"],
        created_at=row["created"],
        level=row["level"],
        type=row["type"],
        message=row["message"],
        data=msgspec.json.decode(row["data"]),
    )


def _checkpoint(row: sqlite3.Row) -> JobCheckpoint:
    return JobCheckpoint(
        id=row["id"],
        job=row["job"],
        step=row["step"],
        ft_name=row["ft_name"],
        metrics=msgspec.json.decode(row["metrics"]),
        created_at=row["created"],
    )
