"""Metadata and tensor table of a GGUF file, without its weights.

Reads only the head of the file, in growing pieces, into memory: the file is not mapped, so that one being
overwritten meanwhile cannot take the process down. Arrays stay undecoded until they are asked for: a
150 k-token vocabulary costs its bytes and one walk over them.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.ggml_types import TENSOR_TYPES

MAGIC = b"GGUF"
LFS_PREFIX = b"version https://git-lfs"
SUPPORTED_VERSIONS = (2, 3)
MAX_METADATA_BYTES = (
    1 << 28
)  # 15 times the largest real vocabulary; bounds what a hostile file can make us read
MAX_DIMENSIONS = 4
FIRST_READ_BYTES = 1 << 20

STRING, ARRAY = 8, 9
SCALAR_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

Scalar = int | float | bool | str
Value = Scalar | list[Scalar]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One row of the tensor table. `offset` is from the start of the file."""

    name: str
    shape: tuple[
        int, ...
    ]  # ggml's `ne`: the fastest-running dimension first, (n_in, n_out) of a linear layer
    type: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Array:
    """Where an undecoded array lies. `starts` are the places of its strings, None for numbers."""

    item_type: int
    count: int
    begin: int
    end: int
    starts: array[int] | None


class _Head:
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


class _Parser:
    """Walks the header once, front to back."""

    def __init__(self, head: _Head) -> None:
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

    def array_value(self, key: str) -> _Array:
        item_type, count, begin = self.uint("I"), self.uint("Q"), self.at
        if item_type == STRING:
            starts = self._string_starts(count)
            return _Array(item_type, count, begin, self.at, starts)
        if item_type not in SCALAR_FORMATS:
            raise self.fail(f"array {key!r} has unknown item type {item_type}")
        self.at += count * struct.calcsize("<" + SCALAR_FORMATS[item_type])
        self.head.need(self.at)
        return _Array(item_type, count, begin, self.at, None)

    def _string_starts(self, count: int) -> array[int]:
        """Places of `count` strings; leaves `at` behind the last. The one hot loop of this file."""
        head, at, starts = self.head, self.at, array("Q")
        length_at = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > len(head.data):
                head.need(at + 8)
            starts.append(at)
            at += 8 + length_at(head.data, at)[0]
        head.need(at)
        self.at = at
        return starts


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself. Made by `read_header`."""

    path: Path
    size: int
    tensors: dict[str, TensorInfo]
    _metadata: dict[str, Scalar | _Array]
    _spans: dict[str, tuple[int, int]]  # of each key: where its type and value lie in _data
    _data: bytes

    def get(self, key: str, default: Value | None = None) -> Value | None:
        """Value of a metadata key. Arrays are decoded anew at each call."""
        value = self._metadata.get(key)
        if value is None:
            return default
        return self._decode(value) if isinstance(value, _Array) else value

    def __contains__(self, key: str) -> bool:
        return key in self._metadata

    def keys(self) -> list[str]:
        return list(self._metadata)

    def raw(self, key: str) -> bytes:
        """Type and value of a key as they lie in the file, for hashing; empty if there is no such key."""
        begin, end = self._spans.get(key, (0, 0))
        return self._data[begin:end]

    def text(self, key: str) -> str | None:
        value = self.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def model_value(self, name: str) -> Value | None:
        """Value of `ARCHITECTURE.name`, for example `block_count`."""
        return self.get(f"{self.architecture}.{name}")

    @property
    def architecture(self) -> str:
        return self.text("general.architecture") or ""

    @property
    def kind(self) -> str:
        """`general.type`: "model", "adapter", ..."""
        return self.text("general.type") or "model"

    @property
    def name(self) -> str | None:
        return self.text("general.name")

    @property
    def chat_template(self) -> str | None:
        return self.text("tokenizer.chat_template")

    @property
    def block_count(self) -> int:
        value = self.model_value("block_count")
        return value if isinstance(value, int) else 0

    @property
    def embedding_length(self) -> int:
        value = self.model_value("embedding_length")
        return value if isinstance(value, int) else 0

    @property
    def context_length(self) -> int:
        value = self.model_value("context_length")
        return value if isinstance(value, int) else 0

    @property
    def vocab_size(self) -> int:
        tokens = self._metadata.get("tokenizer.ggml.tokens")
        return tokens.count if isinstance(tokens, _Array) else 0

    @property
    def bos_id(self) -> int | None:
        return self.integer("tokenizer.ggml.bos_token_id")

    @property
    def eos_id(self) -> int | None:
        return self.integer("tokenizer.ggml.eos_token_id")

    def token(self, token_id: int) -> str:
        """Text of a vocabulary entry as stored (byte-level BPE keeps its `Ġ`). Raises: IndexError."""
        tokens = self._metadata.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, _Array) or tokens.starts is None or not 0 <= token_id < tokens.count:
            raise IndexError(f"{self.path}: no token {token_id} in a vocabulary of {self.vocab_size}")
        return self._string_at(tokens.starts[token_id])

    def _string_at(self, start: int) -> str:
        (length,) = struct.unpack_from("<Q", self._data, start)
        return self._data[start + 8 : start + 8 + length].decode(errors="replace")

    def _decode(self, value: _Array) -> list[Scalar]:
        if value.starts is not None:
            return [self._string_at(start) for start in value.starts]
        return list(
            struct.unpack_from(f"<{value.count}{SCALAR_FORMATS[value.item_type]}", self._data, value.begin)
        )


def read_header(path: Path | str) -> Header:
    """Metadata and tensor table of the GGUF at `path`.

    Raises: ConvertError if the file is missing, is not a GGUF, is a Git LFS pointer, or is shorter than its
        tensor table says.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            return _parse(_Head(file, size, path))
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror or error}") from error


def _parse(head: _Head) -> Header:
    parser = _Parser(head)
    _check_magic(head)
    parser.at = len(MAGIC)
    version = parser.uint("I")
    if version not in SUPPORTED_VERSIONS:
        hint = " (byte-swapped: a big-endian file)" if version & 0xFFFF == 0 else ""
        raise parser.fail(f"version {version} is not among {SUPPORTED_VERSIONS}{hint}")
    tensor_count, key_count = parser.uint("Q"), parser.uint("Q")
    metadata, spans = _parse_metadata(parser, key_count)
    if isinstance(parts := metadata.get("split.count"), int) and parts > 1:
        raise ConvertError(
            f"{head.path}: one of {parts} parts of a split model. Join them first: "
            "`llama-gguf-split --merge FIRST_PART OUT.gguf`."
        )
    tensors = _parse_tensors(parser, tensor_count, _alignment(parser, metadata))
    return Header(head.path, head.size, tensors, metadata, spans, bytes(head.data[: parser.at]))


def _check_magic(head: _Head) -> None:
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


def _parse_metadata(
    parser: _Parser, count: int
) -> tuple[dict[str, Scalar | _Array], dict[str, tuple[int, int]]]:
    metadata: dict[str, Scalar | _Array] = {}
    spans: dict[str, tuple[int, int]] = {}
    for index in range(count):
        key = parser.string(f"name of metadata key {index}")
        begin, value_type = parser.at, parser.uint("I")
        value: Scalar | _Array
        if value_type == ARRAY:
            value = parser.array_value(key)
        elif value_type == STRING:
            value = parser.string(f"value of {key!r}")
        elif value_type in SCALAR_FORMATS:
            value = parser.scalar(SCALAR_FORMATS[value_type])
        else:
            raise parser.fail(f"key {key!r} has unknown type {value_type}")
        if key in metadata:
            raise parser.fail(f"key {key!r} appears twice")
        metadata[key] = value
        spans[key] = (begin, parser.at)
    return metadata, spans


def _alignment(parser: _Parser, metadata: dict[str, Scalar | _Array]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise parser.fail(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def _parse_tensors(parser: _Parser, count: int, alignment: int) -> dict[str, TensorInfo]:
    rows: list[tuple[str, tuple[int, ...], int, int]] = []
    for index in range(count):
        name = parser.string(f"name of tensor {index}")
        dimensions = parser.uint("I")
        if dimensions > MAX_DIMENSIONS:
            raise parser.fail(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(parser.uint("Q") for _ in range(dimensions))
        rows.append((name, shape, parser.uint("I"), parser.uint("Q")))
    data_begin = -(-parser.at // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, shape, type_id, offset in rows:
        if name in tensors:
            raise parser.fail(f"tensor {name!r} appears twice")
        type_name, nbytes = _tensor_size(parser, name, shape, type_id)
        begin = data_begin + offset
        if begin + nbytes > parser.head.size:
            raise ConvertError(
                f"{parser.head.path}: truncated: tensor {name!r} ends at byte {begin + nbytes}, the file has "
                f"{parser.head.size}. Copy or download it again."
            )
        tensors[name] = TensorInfo(name, shape, type_name, begin, nbytes)
    return tensors


def _tensor_size(parser: _Parser, name: str, shape: tuple[int, ...], type_id: int) -> tuple[str, int]:
    kind = TENSOR_TYPES.get(type_id)
    if kind is None:
        raise parser.fail(f"tensor {name!r} has unknown type {type_id}; this version may be too old for it")
    elements = math.prod(shape)
    if shape and shape[0] % kind.block_elements:
        raise parser.fail(f"tensor {name!r}: a row of {shape[0]} does not divide into {kind.name} blocks")
    return kind.name, elements // kind.block_elements * kind.block_bytes
