"""Items as rows, each of an owner: a response or a conversation."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llamaleon_server.registry.db import Database
from llamaleon_server.wire.responses_items import Item, decode_item


class ItemRows:
    """In the order in which they were added. Clients choose ids too, so one may be there several times."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, owner: str, items: Sequence[Item], *, output: bool = False) -> None:
        for item in items:
            self._db.execute(
                "INSERT INTO items (owner, id, output, item) VALUES (?, ?, ?, ?)",
                owner,
                item.id,
                output,
                msgspec.json.encode(item).decode(),
            )

    def of(self, owner: str, *, output: bool | None = None) -> list[Item]:
        """All of them, or only what was answered, or only what was asked."""
        rows = self._db.rows(
            "SELECT item FROM items WHERE owner = ? AND (? IS NULL OR output = ?) ORDER BY seq",
            owner,
            output,
            output,
        )
        return [decode_item(row["item"]) for row in rows]

    def find(self, item_id: str) -> Item | None:
        """The newest of this id."""
        row = self._db.row("SELECT item FROM items WHERE id = ? ORDER BY seq DESC LIMIT 1", item_id)
        return None if row is None else decode_item(row["item"])

    def remove(self, owner: str, item_id: str | None = None) -> None:
        self._db.execute(
            "DELETE FROM items WHERE owner = ? AND (? IS NULL OR id = ?)", owner, item_id, item_id
        )

    def sweep(self) -> None:
        """Whose owner has gone."""
        self._db.execute(
            "DELETE FROM items WHERE owner NOT IN "
            "(SELECT id FROM responses UNION ALL SELECT id FROM conversations)"
        )
