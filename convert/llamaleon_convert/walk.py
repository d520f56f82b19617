"""Walks the bytes of a GGUF file's head, front to back.

Reads only the head of the file, in growing pieces, into memory: the file is not mapped, so that one being
overwritten meanwhile cannot take the process down. Arrays stay undecoded until they are asked for: a
150 k-token vocabulary costs its bytes and one walk over them.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from array import array
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from llamaleon_convert.errors import ConvertError

MAGIC = b"GGUF"
LFS_PREFIX = b"version https://git-lfs"
MAX_METADATA_BYTES = (
    1 << 28
)  # 15 times the largest real vocabulary; bounds what a hostile file can make us read
FIRST_READ_BYTES = 1 << 20

STRING, ARRAY = 8, 9
SCALAR_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Array(Struct, frozen=True):
    """Where an undecoded array lies. `starts` are the places of its strings, None for numbers."""

    item_type: int
    count: int
    begin: int
    end: int
    starts: array[int] | None


class Head:
    """The first bytes of a file, read as far as somebody looked."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file = file
        self.size = size
        self.path = path
        self.data = bytearray()

    def need(self, end: int) -> None:
        """Make bytes up to `end` available. Raises: ConvertError if the file or the limit ends before."""
        if end <= len(self.data):
            return
        if end > self.size:
            raise ConvertError(
                f"{self.path}: truncated: its header needs {end} bytes, the file has {self.size}. "
                "Copy or download it again."
            )
        if end > MAX_METADATA_BYTES:
            raise ConvertError(f"{self.path}: its metadata claims more than {MAX_METADATA_BYTES} bytes.")
        wanted = min(self.size, max(end, 2 * len(self.data), FIRST_READ_BYTES))
        self.data += self._file.read(wanted - len(self.data))
        if len(self.data) < end:
            raise ConvertError(f"{self.path}: the file became shorter while it was being read.")


class Parser:
    """Walks the header once, front to back."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.at = 0

    def fail(self, reason: str) -> ConvertError:
        return ConvertError(f"{self.head.path}: not a valid GGUF file: {reason}")

    def scalar(self, code: str) -> int | float | bool:
        layout = struct.Struct("<" + code)
        self.head.need(self.at + layout.size)
        value: int | float | bool = layout.unpack_from(self.head.data, self.at)[0]
        self.at += layout.size
        return value

    def uint(self, code: str) -> int:
        return int(self.scalar(code))

    def string(self, what: str) -> str:
        length = self.uint("Q")
        self.head.need(self.at + length)
        raw = bytes(self.head.data[self.at : self.at + length])
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8 ({error.reason} at byte {error.start})") from None

    def array_value(self, key: str) -> Array:
        item_type, count, begin = self.uint("I"), self.uint("Q"), self.at
        if item_type == STRING:
            starts = self._string_starts(count)
            return Array(item_type, count, begin, self.at, starts)
        if item_type not in SCALAR_FORMATS:
            raise self.fail(f"array {key!r} has unknown item type {item_type}")
        self.at += count * struct.calcsize("<" + SCALAR_FORMATS[item_type])
        self.head.need(self.at)
        return Array(item_type, count, begin, self.at, None)

    def _string_starts(self, count: int) -> array[int]:
        """Places of `count` strings; leaves `at` behind the last. The one hot loop of this file."""
        head, at, starts = self.head, self.at, array("Q")
        append, length_at, data = starts.append, struct.Struct("<Q").unpack_from, head.data
        for _ in range(count):
            try:
                (length,) = length_at(data, at)
            except (struct.error, OverflowError):  # not read that far yet
                head.need(at + 8)
                (length,) = length_at(data, at)
            append(at)
            at += 8 + length
        head.need(at)
        self.at = at
        return starts


def check_magic(head: Head) -> None:
    if head.size == 0:
        raise ConvertError(f"{head.path}: the file is empty. Download it again.")
    head.need(min(head.size, len(LFS_PREFIX)))
    if head.data.startswith(LFS_PREFIX):
        raise ConvertError(
            f"{head.path}: a Git LFS pointer, not the file itself. Fetch it with `git lfs pull`, "
            "or download it from its page."
        )
    if not head.data.startswith(MAGIC):
        raise ConvertError(f"{head.path}: not a GGUF file (it begins with {bytes(head.data[:4])!r}).")
