"""Adapter versions: immutable content under `adapters/NAME/VERSION/`, and the state of each."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from llamaleon_convert.manifest import Manifest
from llamaleon_server.errors import AdapterRefused, Conflict
from llamaleon_server.registry import blobs
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.deployments import DeploymentStore
from llamaleon_server.registry.records import DEPLOYED, FAILED, REGISTERED, RETIRED, AdapterVersion

GGUF = "adapter.gguf"
MANIFEST = "manifest.json"
PEFT = "peft"
INCOMING = ".incoming-"  # folders of what is being taken in


class AdapterStore:
    def __init__(self, db: Database, folder: Path) -> None:
        self._db = db
        self._folder = folder
        self.deployments = DeploymentStore(db)
        self._adding = threading.Lock()  # a version number is taken from its choice until its record

    def sweep(self) -> None:
        for left_over in self._folder.glob(f"{INCOMING}*"):
            blobs.remove_tree(left_over)

    def add(
        self,
        base: str,
        name: str,
        gguf: Path,
        manifest: Manifest,
        *,
        state: str = REGISTERED,
        ft_name: str | None = None,
        peft_dir: Path | None = None,
        owned: bool = False,
        also: Callable[[AdapterVersion], None] | None = None,
    ) -> AdapterVersion:
        """Bring the content in, then record it; `also` is recorded in the same transaction.

        It is copied, or moved if it is `owned`: a file in this home that nobody else can write to.

        Raises:
            StorageFull: nothing was recorded.
            AdapterRefused: the file changed since its manifest was made.
            Conflict: on this disk the name has the directory of another.
        """
        with self._adding:
            version = self._next_version(name)
            final = self._folder / name / str(version)
            self._refuse_twin(name, version, final)
            with blobs.new_directory(final, f"adapter {name}@{version}") as building:
                if owned:
                    blobs.move_synced(gguf, building / GGUF)
                elif blobs.copy_synced(gguf, building / GGUF) != manifest.sha256:
                    raise AdapterRefused(f"{gguf} changed while it was being read: try again.")
                blobs.write_synced(building / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
                if peft_dir is not None:
                    blobs.copy_peft_synced(peft_dir, building / PEFT)
            try:
                with self._db.transaction():
                    self._insert(base, name, version, manifest, state=state, ft_name=ft_name)
                    added = self.version(name, version)
                    assert added is not None  # inserted above
                    if also is not None:
                        also(added)
            except BaseException:  # a full disk needs the room
                blobs.remove_tree(final)
                raise
        return added

    def _refuse_twin(self, name: str, version: int, final: Path) -> None:
        """`SQL` and `sql` are one directory on a disk that ignores case: the first one keeps its files."""
        if not final.exists():
            return
        rows = self._db.rows(
            "SELECT name FROM adapters WHERE version = ? AND name != ? AND state != ?", version, name, RETIRED
        )
        for row in rows:
            other = self._folder / row["name"] / str(version)
            if other.exists() and other.samefile(final):
                raise Conflict(
                    f"This disk does not tell the adapter's name {name!r} from {row['name']!r}, which is "
                    "taken: choose another.",
                    param="name",
                )

    def _insert(
        self, base: str, name: str, version: int, manifest: Manifest, *, state: str, ft_name: str | None
    ) -> None:
        self._db.execute(
            "INSERT INTO adapters (name, version, base, key, state, ft_name, manifest, created) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            name,
            version,
            base,
            manifest.sha256,
            state,
            ft_name,
            msgspec.json.encode(manifest).decode(),
            int(time.time()),
        )
        if state == DEPLOYED:
            self.deployments.add(base, name, version)

    def _next_version(self, name: str) -> int:
        row = self._db.row("SELECT COALESCE(MAX(version), 0) AS last FROM adapters WHERE name = ?", name)
        assert row is not None  # an aggregate always has a row
        return int(row["last"]) + 1

    def set_state(self, version: AdapterVersion, state: str, reason: str | None = None) -> AdapterVersion:
        """Raises: Conflict if it was retired meanwhile."""
        with self._db.transaction():
            changed = self._db.execute(
                "UPDATE adapters SET state = ?, reason = ? WHERE name = ? AND version = ? AND state != ?",
                state,
                reason,
                version.adapter,
                version.version,
                RETIRED,
            ).rowcount
            if not changed:
                raise Conflict(
                    f"`{version.full_name}` was removed: a retired version never comes back.", param="model"
                )
            if state == DEPLOYED:
                self.deployments.add(version.base, version.adapter, version.version)
        return msgspec.structs.replace(version, state=state, reason=reason)

    def set_manifest(self, version: AdapterVersion, manifest: Manifest) -> AdapterVersion:
        """What is learnt about a version later (its evaluation); the content and its key stay."""
        if manifest.sha256 != version.key:
            raise ValueError("a manifest cannot change the content of a version")
        encoded = msgspec.json.encode(manifest)
        with blobs.disk_errors(f"the manifest of {version.adapter}@{version.version}"):
            beside = version.directory / f".{MANIFEST}.tmp"
            blobs.write_synced(beside, msgspec.json.format(encoded))
            beside.replace(version.directory / MANIFEST)
        self._db.execute(
            "UPDATE adapters SET manifest = ? WHERE name = ? AND version = ?",
            encoded.decode(),
            version.adapter,
            version.version,
        )
        return msgspec.structs.replace(version, manifest=manifest)

    def retire(
        self, versions: Sequence[AdapterVersion], also: Callable[[], None] | None = None
    ) -> list[AdapterVersion]:
        """Take them out of service for good and remove their files; running streams keep what they mapped.

        `also` runs in the transaction that records it.
        """
        with self._db.transaction():
            retired = [self.set_state(version, RETIRED) for version in versions]
            if also is not None:
                also()
        for version in retired:
            blobs.remove_tree(version.directory)
        return retired

    def roll_back(self, base: str, name: str) -> tuple[AdapterVersion, AdapterVersion]:
        """The version deployed before serves again. Returns (the one that served, the one that serves now).

        Raises:
            Conflict: none was deployed before, or it is gone.
        """
        with self._db.transaction():
            numbers = self.deployments.roll_back(base, name)
            if numbers is None:
                raise Conflict(f"No other version of `{base}+{name}` was deployed before.", param="model")
            left, back = (self.version(name, number) for number in numbers)
            assert left is not None
            assert back is not None  # both are in the table that was joined
            if not self.deployments.stands(base, name, left.version):
                left = self.set_state(left, REGISTERED, f"rolled back to @{back.version}")
        return left, back

    def latest(self, base: str, name: str) -> AdapterVersion | None:
        """The one that was deployed last and not rolled back."""
        number = self.deployments.serving(base, name)
        return None if number is None else self.version(name, number)

    def version(self, name: str, version: int) -> AdapterVersion | None:
        return self._one("name = ? AND version = ?", name, version)

    def by_ft_name(self, ft_name: str) -> AdapterVersion | None:
        return self._one("ft_name = ?", ft_name)

    def servable(self, base: str | None = None, name: str | None = None) -> list[AdapterVersion]:
        """Registered and deployed versions, oldest name first, then by version."""
        rows = self._db.rows(
            "SELECT a.*, (SELECT MIN(id) FROM adapters f WHERE f.name = a.name AND f.base = a.base) AS first "
            "FROM adapters a WHERE state IN (?, ?) AND (? IS NULL OR base = ?) AND (? IS NULL OR name = ?) "
            "ORDER BY first, version",
            REGISTERED,
            DEPLOYED,
            base,
            base,
            name,
            name,
        )
        return [self._record(row) for row in rows]

    def all(self) -> list[AdapterVersion]:
        """Every version not retired, failed ones with their reason."""
        rows = self._db.rows("SELECT * FROM adapters WHERE state != ? ORDER BY id", RETIRED)
        return [self._record(row) for row in rows]

    def fail(self, version: AdapterVersion, reason: str) -> AdapterVersion:
        return self.set_state(version, FAILED, reason)

    def refuse(self, version: AdapterVersion, reason: str) -> bool:
        """As `fail`, of a version that may have been retired meanwhile: then it stays so, and False."""
        changed = self._db.execute(
            "UPDATE adapters SET state = ?, reason = ? WHERE name = ? AND version = ? AND state IN (?, ?)",
            FAILED,
            reason,
            version.adapter,
            version.version,
            REGISTERED,
            DEPLOYED,
        )
        return bool(changed.rowcount)

    def failed(self, base: str, name: str, version: int | None) -> AdapterVersion | None:
        """The newest version that failed, or that version if it did."""
        return self._one(
            "base = ? AND name = ? AND state = ? AND version = COALESCE(?, version) "
            "ORDER BY version DESC LIMIT 1",
            base,
            name,
            FAILED,
            version,
        )

    def names(self, base: str | None = None) -> list[tuple[str, str]]:
        """(key, `BASE+NAME@VERSION`) of all servable versions, in the order of registration.

        Without their manifests: quick with a thousand of them.
        """
        rows = self._db.rows(
            "SELECT key, base, name, version FROM adapters "
            "WHERE state IN (?, ?) AND base = COALESCE(?, base) ORDER BY id",
            REGISTERED,
            DEPLOYED,
            base,
        )
        return [(row["key"], f"{row['base']}+{row['name']}@{row['version']}") for row in rows]

    def _one(self, where: str, *values: object) -> AdapterVersion | None:
        row = self._db.row(f"SELECT * FROM adapters WHERE {where}", *values)
        return None if row is None else self._record(row)

    def _record(self, row: sqlite3.Row) -> AdapterVersion:
        return AdapterVersion(
            adapter=row["name"],
            base=row["base"],
            version=row["version"],
            key=row["key"],
            path=self._folder / row["name"] / str(row["version"]) / GGUF,
            state=row["state"],
            created=row["created"],
            ft_name=row["ft_name"],
            manifest=msgspec.json.decode(row["manifest"], type=Manifest),
            reason=row["reason"],
        )
