"""Base models: references to GGUF files, with what was read from them cached by path, size and time."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import msgspec

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import Header, read_header
from llamaleon_convert.manifest import fingerprint_of
from llamaleon_server.errors import BadRequest, Conflict, NotFound
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.names import check_base_name
from llamaleon_server.registry.records import Base, BaseFacts


class BaseStore:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._seen: dict[tuple[str, int, int], BaseFacts] = {}  # resolving a name must not parse JSON

    def add(self, path: Path, name: str | None = None) -> Base:
        """Register a file in place; the same name and path again is no change.

        Raises:
            BadRequest: not a readable GGUF, or not a name.
            Conflict: the name belongs to another file.
        """
        path = path.expanduser().absolute()
        name = check_base_name(name or path.stem)
        facts, size = self._facts(path)
        with self._db.transaction():
            row = self._db.row("SELECT path FROM bases WHERE name = ?", name)
            if row is not None and row["path"] != str(path):
                if Path(row["path"]).exists():
                    raise Conflict(
                        f"The base model `{name}` is already {row['path']}: remove it first, or register "
                        f"{path} under another name.",
                        param="name",
                    )
                self._db.execute("UPDATE bases SET path = ? WHERE name = ?", str(path), name)
            elif row is None:
                self._db.execute("INSERT INTO bases VALUES (?, ?, ?)", name, str(path), int(time.time()))
            row = self._db.row("SELECT * FROM bases WHERE name = ?", name)
        assert row is not None  # inserted above
        return _base(name, path, row["created"], facts, size)

    def remove(self, name: str) -> None:
        if self._db.execute("DELETE FROM bases WHERE name = ?", name).rowcount == 0:
            raise NotFound(f"There is no base model `{name}`.", param="model")

    def names(self) -> list[str]:
        return [row["name"] for row in self._db.rows("SELECT name FROM bases ORDER BY rowid")]

    def all(self) -> list[Base]:
        return [self._read(name) for name in self.names()]

    def get(self, name: str) -> Base | None:
        """None if unknown. A base whose file is gone comes back with `missing` set."""
        if self._db.row("SELECT 1 FROM bases WHERE name = ?", name) is None:
            return None
        return self._read(name)

    def _read(self, name: str) -> Base:
        row = self._db.row("SELECT * FROM bases WHERE name = ?", name)
        assert row is not None  # the caller has just seen it
        path = Path(row["path"])
        try:
            facts, size = self._facts(path)
        except BadRequest:
            known = self._db.row("SELECT facts, bytes FROM gguf_files WHERE path = ?", str(path))
            assert known is not None  # written before the base was
            facts, size = msgspec.json.decode(known["facts"], type=BaseFacts), known["bytes"]
            return _base(name, path, row["created"], facts, size, missing=True)
        return _base(name, path, row["created"], facts, size)

    def _facts(self, path: Path) -> tuple[BaseFacts, int]:
        """From the cache while size and time of the file stay, so that a restart never reads 40 GB again."""
        try:
            stat = path.stat()
        except OSError as error:
            raise BadRequest(f"Cannot read the base model {path}: {error.strerror}.", param="path") from error
        identity = (str(path), stat.st_size, stat.st_mtime_ns)
        if identity not in self._seen:
            self._seen[identity] = self._stored(identity) or self._fresh(path, identity)
        return self._seen[identity], stat.st_size

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


def _base(name: str, path: Path, created: int, facts: BaseFacts, size: int, *, missing: bool = False) -> Base:
    return Base(
        name=name,
        path=path,
        architecture=facts.fingerprint.architecture,
        fingerprint=facts.fingerprint,
        chat_template=facts.chat_template,
        bos_token=facts.bos_token,
        eos_token=facts.eos_token,
        n_ctx_train=facts.n_ctx_train,
        bytes=size,
        created=created,
        weight_type=facts.weight_type,
        missing=missing,
    )
