"""Reads a safetensors file one tensor at a time, as bytes or as numbers; numpy is imported for numbers only.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.walk import LFS_PREFIX

if TYPE_CHECKING:
    from llamaleon_convert.floats import Weights

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# A number's last byte holds its sign and the top of its exponent: only with these it can be NaN or infinite.
TOPS = {"F32": (0x7F, 0xFF), "F16": (*range(0x7C, 0x80), *range(0xFC, 0x100))}


class Entry(Struct, frozen=True):
    """One tensor. `begin` is from the start of the file; `shape` is row-major."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int


class SafetensorsFile:
    """The table of a safetensors file; `read` fetches one tensor at a time."""

    def __init__(self, path: Path) -> None:
        """Raises: ConvertError if the file is missing, truncated, or a Git LFS pointer."""
        self.path = path
        try:
            self.entries = self._parse()
        except OSError as error:
            raise ConvertError(f"{path}: cannot be read: {error.strerror or error}") from error

    def read(self, name: str) -> Weights:
        """A tensor as float16 if it is stored so, else as float32.

        Raises: Refused if a value is NaN or infinite, or if the type is not a floating-point one.
        """
        entry = self.entries[name]
        return self._read(name, entry.begin, entry.nbytes).reshape(entry.shape)

    def read_rows(self, name: str, begin: int, end: int) -> Weights:
        """Rows `begin` to `end` as (rows, n_in); rows of stacked matrices are counted through.

        A vector is a row, a single number one of length 1.
        """
        entry = self.entries[name]
        row_bytes = entry.nbytes // math.prod(entry.shape[:-1])
        return self._read(name, entry.begin + begin * row_bytes, (end - begin) * row_bytes).reshape(
            end - begin, -1
        )

    def raw(self, name: str) -> bytes:
        """The bytes of a tensor that is F32 or F16, row by row.

        Raises: Refused if a value is NaN or infinite.
        """
        entry = self.entries[name]
        raw = self._bytes(entry.begin, entry.nbytes)
        tops = raw[ITEM_BYTES[entry.dtype] - 1 :: ITEM_BYTES[entry.dtype]]
        if any(top in tops for top in TOPS[entry.dtype]):
            self._decoded(name, raw)  # which looks at the whole number
        return raw

    def _read(self, name: str, begin: int, nbytes: int) -> Weights:
        dtype = self.entries[name].dtype
        if dtype not in ITEM_BYTES:
            raise Refused(
                f"{self.path}: tensor {name!r} is {dtype}; weights must be F32, F16, BF16 or F64. "
                "Save them again without quantisation."
            )
        return self._decoded(name, self._bytes(begin, nbytes))

    def _bytes(self, begin: int, nbytes: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(begin)
            raw = file.read(nbytes)
        if len(raw) != nbytes:
            raise ConvertError(f"{self.path}: the file became shorter while it was being read.")
        return raw

    def _decoded(self, name: str, raw: bytes) -> Weights:
        from llamaleon_convert.floats import decode, not_finite

        values = decode(raw, self.entries[name].dtype)
        if bad := not_finite(values):
            raise Refused(
                f"{self.path}: tensor {name!r} holds {bad} NaN or infinite values: the training diverged. "
                "Take an earlier checkpoint, or train again with a lower learning rate."
            )
        return values

    def _parse(self) -> dict[str, Entry]:
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(8)
            if head + file.read(len(LFS_PREFIX) - 8) == LFS_PREFIX:
                raise ConvertError(
                    f"{self.path}: a Git LFS pointer, not the weights. Fetch them with `git lfs pull`, "
                    "or download the file from its page."
                )
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise ConvertError(f"{self.path}: truncated or not a safetensors file. Download it again.")
            file.seek(8)
            table = self._table(file.read(length))
        return {name: self._entry(name, row, 8 + length, size) for name, row in table.items()}

    def _table(self, raw: bytes) -> dict[str, Any]:
        try:
            table = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ConvertError(f"{self.path}: not a safetensors file: its header is not JSON.") from error
        if not isinstance(table, dict):
            raise ConvertError(f"{self.path}: not a safetensors file: its header is not a JSON object.")
        table.pop("__metadata__", None)
        return table

    def _entry(self, name: str, row: Any, data_begin: int, size: int) -> Entry:
        match row:
            case {"dtype": str(dtype), "shape": [*extents], "data_offsets": [int(begin), int(end)]} if all(
                isinstance(extent, int) and extent >= 0 for extent in extents
            ):
                shape = tuple(extents)
            case _:
                raise ConvertError(f"{self.path}: the header's row of tensor {name!r} is damaged.")
        nbytes = end - begin
        fits = dtype not in ITEM_BYTES or nbytes == math.prod(shape) * ITEM_BYTES[dtype]
        if begin < 0 or nbytes < 0 or not fits:
            raise ConvertError(f"{self.path}: the header's offsets of tensor {name!r} do not fit its shape.")
        if data_begin + end > size:
            raise ConvertError(
                f"{self.path}: truncated: tensor {name!r} ends at byte {data_begin + end}, the file has "
                f"{size}. Download it again."
            )
        return Entry(dtype, shape, data_begin + begin, nbytes)
