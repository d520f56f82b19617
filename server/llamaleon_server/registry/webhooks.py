"""Webhooks that wait to be delivered: an outbox, written in the transaction that makes the event true."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from llamaleon_server.registry.db import Database


class Webhook(Struct, frozen=True, kw_only=True):
    """One event for one URL. `due` is in seconds since the epoch."""

    seq: int
    id: str
    url: str
    body: str
    attempts: int
    due: float


class WebhookStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, urls: Sequence[str], type: str, data: dict[str, Any]) -> None:
        """OpenAI's event object, once for each URL, due at once."""
        now = time.time()
        event = {
            "id": f"evt_{secrets.token_hex(12)}",
            "object": "event",
            "created_at": int(now),
            "type": type,
            "data": data,
        }
        body = msgspec.json.encode(event).decode()
        for url in urls:
            self._db.execute(
                "INSERT INTO webhooks (id, url, body, due) VALUES (?, ?, ?, ?)", event["id"], url, body, now
            )

    def due(self, now: float) -> list[Webhook]:
        rows = self._db.rows("SELECT * FROM webhooks WHERE due <= ? ORDER BY seq", now)
        return [Webhook(**{name: row[name] for name in Webhook.__struct_fields__}) for row in rows]

    def next_due(self) -> float | None:
        row = self._db.row("SELECT MIN(due) AS due FROM webhooks")
        return None if row is None else row["due"]

    def postpone(self, webhook: Webhook, due: float) -> None:
        """It was tried in vain."""
        self._db.execute(
            "UPDATE webhooks SET attempts = attempts + 1, due = ? WHERE seq = ?", due, webhook.seq
        )

    def remove(self, webhook: Webhook) -> None:
        self._db.execute("DELETE FROM webhooks WHERE seq = ?", webhook.seq)
