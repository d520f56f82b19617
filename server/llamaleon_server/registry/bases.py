"""Base models: references to GGUF files, with what was read from them cached by path, size and time."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from pathlib import Path

import msgspec

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import Header, read_header
from llamaleon_convert.manifest import fingerprint_of
from llamaleon_convert.split import files_of, stem_of
from llamaleon_server.chat.template import ChatTemplate
from llamaleon_server.errors import BadRequest, Conflict, NotFound
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.names import check_base_name
from llamaleon_server.registry.projectors import check_projector, projector_beside
from llamaleon_server.registry.records import Base, BaseFacts


class BaseStore:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._seen: dict[tuple[str, int, int], BaseFacts] = {}  # resolving a name must not parse JSON

    def add(
        self,
        path: Path,
        name: str | None = None,
        *,
        projector: Path | None = None,
        found_in: str | None = None,
        replace: bool = False,
    ) -> Base:
        """Register a file in place; the same name and path again is no change.

        Without a `projector` one that lies beside the file and fits it is taken.
        `replace`: the name moves to this file although the one it has exists.

        Raises:
            BadRequest: not a readable GGUF, not a name, or no projector for it.
            Conflict: the name belongs to another file.
        """
        path = path.expanduser().absolute()
        name = check_base_name(name or stem_of(path))
        facts, size = self._facts(path)
        # Before the transaction, which nobody else can write in: it reads headers.
        projector = self._projector(path, name, projector, replace=replace)
        with self._db.transaction():
            row = self._db.row("SELECT path FROM bases WHERE name = ?", name)
            if row is not None and row["path"] != str(path) and Path(row["path"]).exists() and not replace:
                raise Conflict(
                    f"The base model `{name}` is already {row['path']}: remove it first, or register "
                    f"{path} under another name.",
                    param="name",
                )
            self._db.execute(
                "INSERT INTO bases (name, path, created, projector, found_in) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET path = excluded.path, projector = excluded.projector, "
                "found_in = excluded.found_in",
                name,
                str(path),
                int(time.time()),
                None if projector is None else str(projector),
                found_in,
            )
            self._db.execute("DELETE FROM hidden_files WHERE path = ?", str(path))
            row = self._db.row("SELECT * FROM bases WHERE name = ?", name)
        assert row is not None  # inserted above
        return _base(row, facts, size)

    def _projector(self, path: Path, name: str, given: Path | None, *, replace: bool) -> Path | None:
        """The one given, the one it had, or one that lies beside it. Raises: BadRequest."""
        if given is not None:
            return check_projector(given, path)
        row = self._db.row("SELECT projector FROM bases WHERE name = ? AND path = ?", name, str(path))
        known = None if row is None or replace else row["projector"]
        return Path(known) if known is not None and Path(known).exists() else projector_beside(path)

    def remove(self, name: str, *, hide: bool = True) -> None:
        """`hide`: its file is not to be found again by itself."""
        with self._db.transaction():
            row = self._db.row("SELECT path FROM bases WHERE name = ?", name)
            if row is None:
                raise NotFound(f"There is no base model `{name}`.", param="model")
            self._db.execute("DELETE FROM bases WHERE name = ?", name)
            if hide:
                self._db.execute("INSERT OR IGNORE INTO hidden_files VALUES (?)", row["path"])

    def hidden(self) -> set[Path]:
        return {Path(row["path"]) for row in self._db.rows("SELECT path FROM hidden_files")}

    def names(self) -> list[str]:
        return [row["name"] for row in self._db.rows("SELECT name FROM bases ORDER BY rowid")]

    def all(self) -> list[Base]:
        return [self._read(row) for row in self._db.rows("SELECT * FROM bases ORDER BY rowid")]

    def get(self, name: str) -> Base | None:
        """None if unknown. A base whose file is gone comes back with `missing` set."""
        row = self._db.row("SELECT * FROM bases WHERE name = ?", name)
        return None if row is None else self._read(row)

    def _read(self, row: sqlite3.Row) -> Base:
        path = row["path"]
        try:
            facts, size = self._facts(Path(path))
        except BadRequest:
            known = self._db.row("SELECT facts, bytes FROM gguf_files WHERE path = ?", path)
            assert known is not None  # written before the base was
            facts, size = msgspec.json.decode(known["facts"], type=BaseFacts), known["bytes"]
            return _base(row, facts, size, missing=True)
        return _base(row, facts, size)

    def _facts(self, path: Path) -> tuple[BaseFacts, int]:
        """From the cache while size and time of the file stay, so that a restart never reads 40 GB again."""
        try:
            stats = [file.stat() for file in files_of(path)]
        except OSError as error:
            raise BadRequest(
                f"Cannot read the base model {error.filename}: {error.strerror}.", param="path"
            ) from error
        size = sum(stat.st_size for stat in stats)
        identity = (str(path), size, max(stat.st_mtime_ns for stat in stats))
        if identity not in self._seen:
            self._seen[identity] = self._stored(identity) or self._fresh(path, identity)
        return self._seen[identity], size

    def _stored(self, identity: tuple[str, int, int]) -> BaseFacts | None:
        row = self._db.row(
            "SELECT facts FROM gguf_files WHERE path = ? AND bytes = ? AND mtime_ns = ?", *identity
        )
        return None if row is None else msgspec.json.decode(row["facts"], type=BaseFacts)

    def _fresh(self, path: Path, identity: tuple[str, int, int]) -> BaseFacts:
        try:
            facts = read_facts(path)
        except ConvertError as error:
            raise BadRequest(f"{path} cannot serve as a base model: {error}", param="path") from error
        encoded = msgspec.json.encode(facts).decode()
        self._db.execute("INSERT OR REPLACE INTO gguf_files VALUES (?, ?, ?, ?)", *identity, encoded)
        return facts


def read_facts(path: Path) -> BaseFacts:
    """Raises: ConvertError."""
    header = read_header(path)
    if header.kind == "adapter":
        raise ConvertError(f"{path}: a LoRA adapter, not a base model. Add it with `llamaleon add` instead.")
    return BaseFacts(
        fingerprint=fingerprint_of(header),
        chat_template=header.chat_template,
        template_broken=ChatTemplate(header.chat_template).problem is not None,
        bos_token=_token(header, header.bos_id),
        eos_token=_token(header, header.eos_id),
        n_ctx_train=header.context_length,
        weight_type=weight_type(header),
    )


def weight_type(header: Header) -> str:
    """The type that holds most of the bytes of the matrices."""
    held: Counter[str] = Counter()
    for tensor in header.tensors.values():
        if len(tensor.shape) > 1:
            held[tensor.type] += tensor.nbytes
    return held.most_common(1)[0][0] if held else ""


def _token(header: Header, token_id: int | None) -> str:
    return "" if token_id is None or token_id >= header.vocab_size else header.token(token_id)


def _base(row: sqlite3.Row, facts: BaseFacts, size: int, *, missing: bool = False) -> Base:
    return Base(
        name=row["name"],
        path=Path(row["path"]),
        architecture=facts.fingerprint.architecture,
        fingerprint=facts.fingerprint,
        chat_template=facts.chat_template,
        template_broken=facts.template_broken,
        bos_token=facts.bos_token,
        eos_token=facts.eos_token,
        n_ctx_train=facts.n_ctx_train,
        bytes=size,
        created=row["created"],
        weight_type=facts.weight_type,
        projector=None if row["projector"] is None else Path(row["projector"]),
        found_in=row["found_in"],
        missing=missing,
    )
