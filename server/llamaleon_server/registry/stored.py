"""Stored chat completions as rows: listed, filtered, and exported to train on."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from llamaleon_server.errors import NotFound
from llamaleon_server.registry.db import Database
from llamaleon_server.wire.stored import Exchange

_decoder = msgspec.json.Decoder(Exchange)
# One statement, however many pairs are wanted: SQLite limits how deep an expression may be.
_HAS_PAIRS = (
    "(SELECT COUNT(*) FROM json_each(?) wanted JOIN json_each(metadata) had"
    " ON had.key = wanted.key AND had.value = wanted.value) = ?"
)


class StoredCompletions:
    """Kept until they are deleted: they are data that somebody collects."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, exchange: Exchange) -> None:
        """Raises: StorageFull."""
        completion = exchange.completion
        self._db.execute(
            "INSERT INTO stored_completions (id, model, metadata, record) VALUES (?, ?, ?, ?)",
            completion.id,
            completion.model,
            _json(completion.metadata or {}),
            _json(exchange),
        )

    def get(self, name: str) -> Exchange:
        """Raises: NotFound."""
        row = self._db.row("SELECT record FROM stored_completions WHERE id = ?", name)
        if row is None:
            raise NotFound(
                f"No stored chat completion '{name}': only those asked for with `store: true` are kept.",
                param="completion_id",
            )
        return _decoder.decode(row["record"])

    def set_metadata(self, name: str, metadata: dict[str, str] | None) -> Exchange:
        """Raises: NotFound."""
        with self._db.transaction():
            exchange = self.get(name)
            completion = msgspec.structs.replace(exchange.completion, metadata=metadata)
            exchange = msgspec.structs.replace(exchange, completion=completion)
            self._db.execute(
                "UPDATE stored_completions SET metadata = ?, record = ? WHERE id = ?",
                _json(metadata or {}),
                _json(exchange),
                name,
            )
        return exchange

    def delete(self, name: str) -> None:
        """Raises: NotFound."""
        with self._db.transaction():
            self.get(name)
            self._db.execute("DELETE FROM stored_completions WHERE id = ?", name)

    def page(
        self,
        *,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        after: str | None = None,
        limit: int | None = None,
        descending: bool = False,
    ) -> tuple[list[Exchange], bool]:
        """Those of `model` whose metadata has all these pairs, and whether there are more.

        Raises:
            NotFound: for `after`.
        """
        start = None if after is None else self._place(after)
        pairs = dict(metadata or {})
        order = "DESC" if descending else "ASC"
        rows = self._db.rows(
            "SELECT record FROM stored_completions WHERE (? IS NULL OR model = ?)"
            f" AND (? IS NULL OR seq {'<' if descending else '>'} ?)"
            f" AND {_HAS_PAIRS} ORDER BY seq {order} LIMIT ?",
            model,
            model,
            start,
            start,
            _json(pairs),
            len(pairs),
            -1 if limit is None else limit + 1,
        )
        found = [_decoder.decode(row["record"]) for row in rows[:limit]]
        return found, limit is not None and len(rows) > limit

    def _place(self, name: str) -> int:
        row = self._db.row("SELECT seq FROM stored_completions WHERE id = ?", name)
        if row is None:
            raise NotFound(f"No stored chat completion '{name}'.", param="after")
        return int(row["seq"])


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
