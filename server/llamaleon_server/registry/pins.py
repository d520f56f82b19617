"""Adapters that users want to stay in their engine's bank: by name, whichever version is deployed, or one."""

from __future__ import annotations

from llamaleon_server.errors import NotFound
from llamaleon_server.registry.adapters import AdapterStore
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.records import DEPLOYED, REGISTERED, AdapterVersion

WHICHEVER = 0  # in the place of a version: the one that is deployed


class PinStore:
    def __init__(self, db: Database, adapters: AdapterStore) -> None:
        self._db = db
        self._adapters = adapters

    def add(self, base: str, name: str, version: int | None) -> None:
        self._db.execute("INSERT OR IGNORE INTO pins VALUES (?, ?, ?)", base, name, version or WHICHEVER)

    def remove(self, base: str | None, name: str, version: int | None) -> None:
        """Without a base or a version: of every one.

        Raises:
            NotFound: there is no such pin.
        """
        removed = self._db.execute(
            "DELETE FROM pins WHERE base = COALESCE(?, base) AND name = ? AND version = COALESCE(?, version)",
            base,
            name,
            version,
        ).rowcount
        if not removed:
            written = (f"{base}+" if base else "") + name + (f"@{version}" if version else "")
            raise NotFound(f"`{written}` is not pinned.", param="model")

    def versions(self, base: str | None = None) -> list[AdapterVersion]:
        """The versions that the pins now mean, each once."""
        found: dict[str, AdapterVersion] = {}
        for row in self._db.rows("SELECT * FROM pins WHERE base = COALESCE(?, base) ORDER BY rowid", base):
            if row["version"] == WHICHEVER:
                version = self._adapters.latest(row["base"], row["name"])
            else:
                version = self._adapters.version(row["name"], row["version"])
            if version is not None and version.state in {REGISTERED, DEPLOYED}:
                found[version.full_name] = version
        return list(found.values())

    def sweep(self) -> None:
        """Forget pins of what was retired: an adapter that later gets the name is another one."""
        self._db.execute(
            "DELETE FROM pins WHERE NOT EXISTS (SELECT 1 FROM adapters WHERE adapters.base = pins.base "
            "AND adapters.name = pins.name AND adapters.state != 'retired' "
            "AND pins.version IN (?, adapters.version))",
            WHICHEVER,
        )
