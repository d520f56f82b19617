"""Webhooks that wait to be delivered: an outbox, written in the transaction that makes the event true."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

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
    """Nothing is recorded until somebody listens."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._urls: Sequence[str] = ()
        self._added: Callable[[], None] = lambda: None

    def listen(self, urls: Sequence[str], added: Callable[[], None]) -> None:
        """From now on events are recorded for these. `added` is called in the transaction that does it."""
        self._urls, self._added = urls, added

    def announce(self, type: str, id: str) -> None:
        """OpenAI's event object about what has that id, once for each URL, due at once.

        Call it in the transaction that makes it true, from any thread.
        """
        now = time.time()
        event = {
            "id": f"evt_{secrets.token_hex(12)}",
            "object": "event",
            "created_at": int(now),
            "type": type,
            "data": {"id": id},
        }
        body = msgspec.json.encode(event).decode()
        for url in self._urls:
            self._db.execute(
                "INSERT INTO webhooks (id, url, body, due) VALUES (?, ?, ?, ?)", event["id"], url, body, now
            )
        self._added()

    def due(self, url: str, now: float, limit: int) -> list[Webhook]:
        """Those that wait longest. Waits for a transaction that may just be adding some."""
        with self._db.transaction():
            rows = self._db.rows(
                "SELECT * FROM webhooks WHERE url = ? AND due <= ? ORDER BY due, seq LIMIT ?", url, now, limit
            )
        return [Webhook(**{name: row[name] for name in Webhook.__struct_fields__}) for row in rows]

    def next_due(self, url: str) -> float | None:
        row = self._db.row("SELECT MIN(due) AS due FROM webhooks WHERE url = ?", url)
        return None if row is None else row["due"]

    def postpone(self, webhook: Webhook, due: float) -> None:
        """It was tried in vain."""
        self._db.execute(
            "UPDATE webhooks SET attempts = attempts + 1, due = ? WHERE seq = ?", due, webhook.seq
        )

    def remove(self, webhook: Webhook) -> None:
        self._db.execute("DELETE FROM webhooks WHERE seq = ?", webhook.seq)

    def forget_others(self, urls: Sequence[str]) -> None:
        """What waits for URLs that are configured no more."""
        self._db.execute(
            "DELETE FROM webhooks WHERE url NOT IN (SELECT value FROM json_each(?))",
            msgspec.json.encode(urls).decode(),
        )
