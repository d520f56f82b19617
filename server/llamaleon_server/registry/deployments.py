"""Which version a bare adapter name means, now and before: every deployment is a line of a history.

The history is a stack. A deployment goes on top of it; a rollback withdraws what lies above the one before,
which stays readable as history. A version that was deleted or failed meanwhile no longer counts.
"""

from __future__ import annotations

import time

from msgspec import Struct

from llamaleon_server.registry.db import Database

_STANDING = (
    "FROM deployments d JOIN adapters a ON a.base = d.base AND a.name = d.name AND a.version = d.version "
    "WHERE d.withdrawn IS NULL AND a.state = 'deployed'"
)


class Deployment(Struct, frozen=True, kw_only=True):
    """Times are Unix seconds; `withdrawn` is None while nothing took it back."""

    version: int
    deployed: int
    withdrawn: int | None = None


class DeploymentStore:
    """Of versions by base and adapter name; what they are is `adapters.py`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, base: str, name: str, version: int) -> None:
        """On top, unless it lies there already. In the transaction that changes the version's state."""
        if self.serving(base, name) == version:
            return
        self._db.execute(
            "INSERT INTO deployments (base, name, version, deployed) VALUES (?, ?, ?, ?)",
            base,
            name,
            version,
            int(time.time()),
        )

    def serving(self, base: str, name: str) -> int | None:
        """The version that the name means."""
        row = self._db.row(
            f"SELECT d.version {_STANDING} AND d.base = ? AND d.name = ? ORDER BY d.seq DESC LIMIT 1",
            base,
            name,
        )
        return None if row is None else int(row["version"])

    def all_serving(self, base: str | None = None) -> set[tuple[str, str, int]]:
        """(base, name, version) of every name that means something."""
        # SQLite takes the other columns from the row that has the maximum.
        rows = self._db.rows(
            f"SELECT d.base, d.name, d.version, MAX(d.seq) {_STANDING} AND d.base = COALESCE(?, d.base) "
            "GROUP BY d.base, d.name",
            base,
        )
        return {(row["base"], row["name"], int(row["version"])) for row in rows}

    def history(self, base: str, name: str) -> list[Deployment]:
        """Oldest first, with what was withdrawn."""
        rows = self._db.rows(
            "SELECT version, deployed, withdrawn FROM deployments WHERE base = ? AND name = ? ORDER BY seq",
            base,
            name,
        )
        return [
            Deployment(version=int(row["version"]), deployed=int(row["deployed"]), withdrawn=row["withdrawn"])
            for row in rows
        ]

    def roll_back(self, base: str, name: str) -> tuple[int, int] | None:
        """Withdraw the newest deployment. Returns (version that served, version that serves now), or None.

        None: no other version was deployed before. The caller holds the transaction.
        """
        rows = self._db.rows(
            f"SELECT d.seq, d.version {_STANDING} AND d.base = ? AND d.name = ? ORDER BY d.seq DESC",
            base,
            name,
        )
        before = next((row for row in rows if row["version"] != rows[0]["version"]), None)
        if before is None:
            return None
        self._db.execute(
            "UPDATE deployments SET withdrawn = ? "
            "WHERE base = ? AND name = ? AND withdrawn IS NULL AND seq > ?",
            int(time.time()),
            base,
            name,
            before["seq"],
        )
        return int(rows[0]["version"]), int(before["version"])

    def stands(self, base: str, name: str, version: int) -> bool:
        """Whether a deployment of it was not withdrawn: a rollback may come back to it."""
        row = self._db.row(
            "SELECT 1 FROM deployments WHERE base = ? AND name = ? AND version = ? AND withdrawn IS NULL",
            base,
            name,
            version,
        )
        return row is not None
