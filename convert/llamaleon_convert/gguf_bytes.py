"""How the head of a GGUF is spelt: two writers need it, and gguf-py's costs a tenth of a second to import.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from msgspec import Struct

from llamaleon_convert.ggml_types import TENSOR_TYPES
from llamaleon_convert.walk import MAGIC, STRING

VERSION, ALIGNMENT = 3, 32
FLOAT32, UINT64 = 6, 10
TYPE_IDS = {kind.name: number for number, kind in TENSOR_TYPES.items()}


class Row(Struct, frozen=True):
    """One tensor of the table; `shape` as ggml counts, the fastest-running dimension first."""

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str, value: str | float | int) -> bytes:
    """A metadata key with a string, a float32 or an unsigned 64-bit number."""
    if isinstance(value, str):
        return text(key) + struct.pack("<I", STRING) + text(value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", FLOAT32, value)
    return text(key) + struct.pack("<IQ", UINT64, value)


def head(entries: Sequence[bytes], rows: Iterable[Row], alignment: int = ALIGNMENT) -> bytes:
    """Everything before the data of the first tensor; the data follow in the rows' order, each padded."""
    table, offset = [], 0
    for row in rows:
        dimensions = len(row.shape)
        table.append(text(row.name) + struct.pack("<I", dimensions))
        table.append(struct.pack(f"<{dimensions}QIQ", *row.shape, TYPE_IDS[row.type], offset))
        offset += row.nbytes + padding(row.nbytes, alignment)
    counts = struct.pack("<IQQ", VERSION, len(table) // 2, len(entries))
    made = MAGIC + counts + b"".join(entries) + b"".join(table)
    return made + b"\0" * padding(len(made), alignment)


def padding(size: int, alignment: int = ALIGNMENT) -> int:
    return -size % alignment
