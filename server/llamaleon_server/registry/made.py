"""Made models in the database: a record each, by name."""

from __future__ import annotations

import msgspec

from llamaleon_server.registry.db import Database
from llamaleon_server.registry.records import MadeModel

LATEST = ":latest"


class MadeStore:
    """Read once, then kept in memory: every request asks for names. Only this process writes."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: dict[str, MadeModel] | None = None
        self.changes = 0  # so far, by this process

    def put(self, made: MadeModel) -> MadeModel:
        """Record it; one of that name is replaced, and keeps its time of creation."""
        known = self.get(made.name)
        if known is not None:
            made = msgspec.structs.replace(made, created=known.created)
        self._db.execute(
            "INSERT INTO made_models (name, base, record) VALUES (?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET base = excluded.base, record = excluded.record",
            made.name,
            made.base,
            msgspec.json.encode(made).decode(),
        )
        self._changed()
        return made

    def remove(self, name: str) -> bool:
        removed = self._db.execute("DELETE FROM made_models WHERE name = ?", name).rowcount
        self._changed()
        return bool(removed)

    def get(self, name: str) -> MadeModel | None:
        return self._all().get(name)

    def names(self) -> list[str]:
        return list(self._all())

    def all(self, base: str | None = None) -> list[MadeModel]:
        """Of one base, or all; in the order in which they were first made."""
        return [made for made in self._all().values() if base in {None, made.base}]

    def _all(self) -> dict[str, MadeModel]:
        known = self._known
        if known is None:
            changes = self.changes
            rows = self._db.rows("SELECT record FROM made_models ORDER BY seq")
            found = [msgspec.json.decode(row["record"], type=MadeModel) for row in rows]
            known = {made.name: made for made in found}
            if changes == self.changes:  # else another thread has just written
                self._known = known
        return known

    def _changed(self) -> None:
        self.changes += 1
        self._known = None
