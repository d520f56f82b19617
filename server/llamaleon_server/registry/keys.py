"""API keys: a random secret each, of which the database has the hash only."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
import time
from typing import Literal, get_args

from msgspec import Struct

from llamaleon_server.errors import BadRequest, Conflict, NotFound
from llamaleon_server.registry.db import Database

KeyScope = Literal["use", "train", "admin"]
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)  # each may do what those before it may

PREFIX = "llamaleon"
SECRET_BYTES = 32
USED_EVERY_S = 60  # `used` is that exact: a write for every request would wait for the disk
_KEY = re.compile(rf"{PREFIX}-(?P<id>[0-9a-f]{{8}})-[\w-]{{43}}", re.ASCII)
_NAME = re.compile(r"[\w.@-]{1,64}")


class KeyRecord(Struct, frozen=True, kw_only=True):
    """What may be shown of a key at any time. Times in seconds since the epoch."""

    id: str
    name: str
    scope: KeyScope
    created: int
    used: int | None


def hash_of(key: str) -> bytes:
    """A fast hash is right here: 256 random bits cannot be guessed from it, unlike a password."""
    return hashlib.sha256(key.encode()).digest()


class KeyStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    def create(self, name: str, scope: KeyScope) -> tuple[KeyRecord, str]:
        """The record, and the key itself, which nothing can show again.

        Raises:
            BadRequest: no such scope, or a name that is none.
            Conflict: the name is taken.
        """
        if scope not in SCOPES:
            raise BadRequest(f"`scope` must be one of {', '.join(SCOPES)}, not {scope!r}.", param="scope")
        if not _NAME.fullmatch(name):
            raise BadRequest(
                "`name` must be 1 to 64 letters, digits, dots, dashes, underscores or @.", param="name"
            )
        made = KeyRecord(id=secrets.token_hex(4), name=name, scope=scope, created=int(time.time()), used=None)
        key = f"{PREFIX}-{made.id}-{secrets.token_urlsafe(SECRET_BYTES)}"
        try:
            self._db.execute(
                "INSERT INTO keys (id, name, scope, hash, created) VALUES (?, ?, ?, ?, ?)",
                made.id,
                name,
                scope,
                hash_of(key),
                made.created,
            )
        except sqlite3.IntegrityError as error:
            raise Conflict(f"There is a key called {name!r} already.", param="name") from error
        return made, key

    def all(self) -> list[KeyRecord]:
        return [_record(row) for row in self._db.rows("SELECT * FROM keys ORDER BY created, name")]

    def any(self) -> bool:
        return self._db.row("SELECT 1 FROM keys LIMIT 1") is not None

    def find(self, key: str) -> KeyRecord | None:
        """Who has this key. Looked up by its public part; what is secret is compared in constant time."""
        parts = _KEY.fullmatch(key)
        row = self._db.row("SELECT * FROM keys WHERE id = ?", parts["id"]) if parts else None
        if row is None or not hmac.compare_digest(bytes(row["hash"]), hash_of(key)):
            return None
        return _record(row)

    def note_use(self, record: KeyRecord) -> None:
        """Waits for the disk: call in a thread."""
        self._db.execute("UPDATE keys SET used = ? WHERE id = ?", int(time.time()), record.id)

    def revoke(self, name_or_id: str) -> KeyRecord:
        """Raises: NotFound."""
        found = next((one for one in self.all() if name_or_id in (one.name, one.id)), None)
        if found is None:
            raise NotFound(f"There is no key {name_or_id!r}.", param="name")
        self._db.execute("DELETE FROM keys WHERE id = ?", found.id)
        return found


def _record(row: sqlite3.Row) -> KeyRecord:
    return KeyRecord(
        id=row["id"], name=row["name"], scope=row["scope"], created=row["created"], used=row["used"]
    )
