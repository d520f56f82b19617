"""Conversations as rows: items that responses read and add to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from llamaleon_server.errors import NotFound
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.items import ItemRows
from llamaleon_server.wire.responses_items import Item, new_id


class Conversation(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str] = {}


class ConversationStore:
    """Raises everywhere: NotFound for a conversation, or an item of it, that is not there."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._items = ItemRows(db)

    def add(self, items: Sequence[Item], metadata: dict[str, str]) -> Conversation:
        made = Conversation(id=new_id("conv"), created_at=int(time.time()), metadata=metadata)
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO conversations (id, created, metadata) VALUES (?, ?, ?)",
                made.id,
                made.created_at,
                msgspec.json.encode(metadata).decode(),
            )
            self._items.add(made.id, items)
        return made

    def get(self, conversation_id: str, param: str = "conversation_id") -> Conversation:
        row = self._db.row("SELECT * FROM conversations WHERE id = ?", conversation_id)
        if row is None:
            raise NotFound(f"Conversation with id '{conversation_id}' not found.", param=param)
        return Conversation(
            id=row["id"], created_at=row["created"], metadata=msgspec.json.decode(row["metadata"])
        )

    def set_metadata(self, conversation_id: str, metadata: dict[str, str]) -> Conversation:
        self._db.execute(
            "UPDATE conversations SET metadata = ? WHERE id = ?",
            msgspec.json.encode(metadata).decode(),
            conversation_id,
        )
        return self.get(conversation_id)

    def delete(self, conversation_id: str) -> None:
        """With its items; the responses that were made in it keep theirs."""
        with self._db.transaction():
            self.get(conversation_id)
            self._db.execute("DELETE FROM conversations WHERE id = ?", conversation_id)
            self._items.remove(conversation_id)

    def items(self, conversation_id: str, param: str = "conversation_id") -> list[Item]:
        self.get(conversation_id, param)
        return self._items.of(conversation_id)

    def extend(self, conversation_id: str, items: Sequence[Item]) -> None:
        with self._db.transaction():
            self.get(conversation_id)
            self._items.add(conversation_id, items)

    def item(self, conversation_id: str, item_id: str) -> Item:
        for item in self.items(conversation_id):
            if item.id == item_id:
                return item
        raise NotFound(f"Item with id '{item_id}' not found.", param="item_id")

    def delete_item(self, conversation_id: str, item_id: str) -> Conversation:
        self.item(conversation_id, item_id)
        self._items.remove(conversation_id, item_id)
        return self.get(conversation_id)
