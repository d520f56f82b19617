"""Uploaded and produced files: `files/ID` holds the bytes, the database the rest."""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from llamaleon_server.errors import NotFound, TooLarge
from llamaleon_server.registry import blobs
from llamaleon_server.registry.db import Database

FINE_TUNE = "fine-tune"
RESULTS = "fine-tune-results"


class StoredFile(Struct, frozen=True, kw_only=True):
    id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created: int
    expires: int | None
    path: Path


class Upload:
    """A file being received: write pieces, then `commit`, or `abort`. Methods block: call them in a thread.

    Raises:
        StorageFull: from `write` and `commit`; what was written is removed.
        TooLarge: from `write`, beyond `max_bytes`.
    """

    def __init__(
        self, folder: Path, max_bytes: int, commit: Callable[[Upload, str, str, int | None], StoredFile]
    ):
        self.id = f"file-{secrets.token_hex(12)}"
        self.path = folder / f".{self.id}.tmp"
        self.bytes = 0
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._commit = commit
        with blobs.disk_errors("the upload"):
            self._file = self.path.open("wb")

    def write(self, data: bytes) -> None:
        self.bytes += len(data)
        if self.bytes > self._max_bytes:
            self.abort()
            raise TooLarge(f"The file is larger than the limit of {self._max_bytes} bytes.", param="file")
        try:
            with blobs.disk_errors("the upload"):
                self._file.write(data)
        except BaseException:
            self.abort()
            raise
        self._hash.update(data)

    def commit(self, filename: str, purpose: str, expires: int | None = None) -> StoredFile:
        try:
            with blobs.disk_errors("the upload"):
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
            return self._commit(self, filename, purpose, expires)
        except BaseException:
            self.abort()
            raise

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def abort(self) -> None:
        """Forget what was received; harmless after `commit`."""
        try:
            self._file.close()
        except OSError:  # closing flushes, which fails again on the full disk that brought us here
            self.bytes = 0
        self.path.unlink(missing_ok=True)


class FileStore:
    def __init__(self, db: Database, folder: Path) -> None:
        self._db = db
        self._folder = folder

    def sweep(self) -> None:
        for left_over in self._folder.glob(".file-*.tmp"):
            left_over.unlink(missing_ok=True)
        self.expire()

    def upload(self, max_bytes: int) -> Upload:
        return Upload(self._folder, max_bytes, self._record)

    def put(self, filename: str, purpose: str, data: bytes, file_id: str | None = None) -> StoredFile:
        """A file made here; with `file_id` it replaces the one that has this id."""
        upload = self.upload(len(data))
        upload.id = file_id or upload.id
        upload.write(data)
        return upload.commit(filename, purpose)

    def _record(self, upload: Upload, filename: str, purpose: str, expires: int | None) -> StoredFile:
        final = self._folder / upload.id
        try:
            with blobs.disk_errors("the upload"):
                upload.path.replace(final)
                blobs.sync_directory(self._folder)
            self._db.execute(
                "INSERT OR REPLACE INTO files (id, filename, purpose, bytes, sha256, created, expires) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                upload.id,
                filename,
                purpose,
                upload.bytes,
                upload.sha256,
                int(time.time()),
                expires,
            )
        except BaseException:
            final.unlink(missing_ok=True)
            raise
        return self.get(upload.id)

    def get(self, file_id: str, param: str | None = "file_id") -> StoredFile:
        """Raises: NotFound."""
        row = self._db.row(
            "SELECT * FROM files WHERE id = ? AND (expires IS NULL OR expires > ?)", file_id, int(time.time())
        )
        if row is None:
            raise NotFound(f"No such File object: {file_id}", param=param)
        return self._stored(row)

    def page(
        self,
        *,
        purpose: str | None = None,
        limit: int = 10_000,
        descending: bool = True,
        after: str | None = None,
    ) -> tuple[list[StoredFile], bool]:
        """One page and whether there is more.

        Raises:
            NotFound: `after` is no file.
        """
        compare, order = ("<", "DESC") if descending else (">", "ASC")
        start = None if after is None else self._seq(after)
        rows = self._db.rows(
            f"SELECT * FROM files WHERE (? IS NULL OR purpose = ?) AND (? IS NULL OR seq {compare} ?) "
            f"AND (expires IS NULL OR expires > ?) ORDER BY seq {order} LIMIT ?",
            purpose,
            purpose,
            start,
            start,
            int(time.time()),
            limit + 1,
        )
        return [self._stored(row) for row in rows[:limit]], len(rows) > limit

    def delete(self, file_id: str) -> None:
        """Raises: NotFound."""
        path = self.get(file_id).path
        self._db.execute("DELETE FROM files WHERE id = ?", file_id)
        path.unlink(missing_ok=True)

    def expire(self) -> None:
        """Remove what has passed its `expires`."""
        for row in self._db.rows("SELECT id FROM files WHERE expires <= ?", int(time.time())):
            self._db.execute("DELETE FROM files WHERE id = ?", row["id"])
            (self._folder / row["id"]).unlink(missing_ok=True)

    def _seq(self, file_id: str) -> int:
        row = self._db.row("SELECT seq FROM files WHERE id = ?", file_id)
        if row is None:
            raise NotFound(f"No such File object: {file_id}", param="after")
        return int(row["seq"])

    def _stored(self, row: sqlite3.Row) -> StoredFile:
        return StoredFile(
            id=row["id"],
            filename=row["filename"],
            purpose=row["purpose"],
            bytes=row["bytes"],
            sha256=row["sha256"],
            created=row["created"],
            expires=row["expires"],
            path=self._folder / row["id"],
        )
