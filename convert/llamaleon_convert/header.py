"""Metadata and tensor table of a GGUF file, without its weights; of a split model, of all its parts.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.ggml_types import TENSOR_TYPES
from llamaleon_convert.split import files_of, part_of
from llamaleon_convert.walk import ARRAY, MAGIC, SCALAR_FORMATS, STRING, Array, Head, Parser, check_magic

SUPPORTED_VERSIONS = (2, 3)
MAX_DIMENSIONS = 4

Scalar = int | float | bool | str
Value = Scalar | list[Scalar]


class TensorInfo(Struct, frozen=True):
    """One row of the tensor table. `offset` is from the start of `file`, a part of the model or all of it."""

    name: str
    shape: tuple[
        int, ...
    ]  # ggml's `ne`: the fastest-running dimension first, (n_in, n_out) of a linear layer
    type: str
    offset: int
    nbytes: int
    file: Path


class Header(Struct, frozen=True):
    """What a model says about itself. Made by `read_header`."""

    path: Path  # of a split model, its first part
    size: int  # bytes of all parts
    tensors: dict[str, TensorInfo]
    _metadata: dict[str, Scalar | Array]
    _spans: dict[str, tuple[int, int]]  # of each key: where its type and value lie in _data
    _data: bytes

    def get(self, key: str, default: Value | None = None) -> Value | None:
        """Value of a metadata key. Arrays are decoded anew at each call."""
        value = self._metadata.get(key)
        if value is None:
            return default
        return self._decode(value) if isinstance(value, Array) else value

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
        return tokens.count if isinstance(tokens, Array) else 0

    @property
    def bos_id(self) -> int | None:
        return self.integer("tokenizer.ggml.bos_token_id")

    @property
    def eos_id(self) -> int | None:
        return self.integer("tokenizer.ggml.eos_token_id")

    def token(self, token_id: int) -> str:
        """Text of a vocabulary entry as stored (byte-level BPE keeps its `Ġ`). Raises: IndexError."""
        tokens = self._metadata.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, Array) or tokens.starts is None or not 0 <= token_id < tokens.count:
            raise IndexError(f"{self.path}: no token {token_id} in a vocabulary of {self.vocab_size}")
        return self._string_at(tokens.starts[token_id])

    def _string_at(self, start: int) -> str:
        (length,) = struct.unpack_from("<Q", self._data, start)
        return self._data[start + 8 : start + 8 + length].decode(errors="replace")

    def _decode(self, value: Array) -> list[Scalar]:
        if value.starts is not None:
            return [self._string_at(start) for start in value.starts]
        return list(
            struct.unpack_from(f"<{value.count}{SCALAR_FORMATS[value.item_type]}", self._data, value.begin)
        )


def read_header(path: Path | str) -> Header:
    """Metadata and tensor table of the GGUF at `path`; of a split model `path` is the first part.

    Raises: ConvertError if the file is missing, is not a GGUF, is a Git LFS pointer, or is shorter than its
        tensor table says; if a part is missing, or belongs to another model.
    """
    header = _read_file(Path(path))
    parts = header.integer("split.count") or 1
    return header if parts <= 1 else _joined(header, parts)


def refuse_overwriting(path: Path, model: Header) -> None:
    """Raises: ConvertError if writing `path` would replace a file of `model`."""
    if path.exists() and any(path.samefile(file) for file in {one.file for one in model.tensors.values()}):
        raise ConvertError(f"{path}: the base itself. Write to another file.")


def _joined(first: Header, count: int) -> Header:
    """The first part, which has the metadata, with the tensors of all."""
    part = part_of(first.path.name)
    if part is None or part.count != count:
        raise ConvertError(
            f"{first.path}: one of {count} parts of a split model, by another name: the parts are found by "
            f"their names, NAME-00001-of-{count:05d}.gguf."
        )
    if part.number != 1 or first.integer("split.no") not in {0, None}:
        raise ConvertError(
            f"{first.path}: part {part.number} of {count} of a split model. Give its first part: "
            f"{first.path.with_name(part.name(1))}"
        )
    size, tensors = first.size, dict(first.tensors)
    for number, path in enumerate(files_of(first.path)[1:], 2):
        if not path.exists():
            raise ConvertError(f"{first.path}: part {number} of {count} is missing: {path}. Download it too.")
        other = _read_file(path)
        if other.integer("split.count") != count or other.integer("split.no") != number - 1:
            raise ConvertError(f"{path}: does not say of itself that it is part {number} of {count}.")
        if twice := tensors.keys() & other.tensors.keys():
            raise ConvertError(f"{path}: tensor {min(twice)!r} is in another part too.")
        tensors |= other.tensors
        size += other.size
    expected = first.integer("split.tensors.count")
    if expected not in {None, len(tensors)}:
        raise ConvertError(
            f"{first.path}: its {count} parts hold {len(tensors)} tensors, not the {expected} of the model: "
            "they are of different models."
        )
    return replace(first, size=size, tensors=tensors)


def _read_file(path: Path) -> Header:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            return _parse(Head(file, size, path))
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror or error}") from error


def _parse(head: Head) -> Header:
    parser = Parser(head)
    check_magic(head)
    parser.at = len(MAGIC)
    version = parser.uint("I")
    if version not in SUPPORTED_VERSIONS:
        hint = " (byte-swapped: a big-endian file)" if version & 0xFFFF == 0 else ""
        raise parser.fail(f"version {version} is not among {SUPPORTED_VERSIONS}{hint}")
    tensor_count, key_count = parser.uint("Q"), parser.uint("Q")
    metadata, spans = _parse_metadata(parser, key_count)
    tensors = _parse_tensors(parser, tensor_count, _alignment(parser, metadata))
    return Header(head.path, head.size, tensors, metadata, spans, bytes(memoryview(head.data)[: parser.at]))


def _parse_metadata(
    parser: Parser, count: int
) -> tuple[dict[str, Scalar | Array], dict[str, tuple[int, int]]]:
    metadata: dict[str, Scalar | Array] = {}
    spans: dict[str, tuple[int, int]] = {}
    for index in range(count):
        key = parser.string(f"name of metadata key {index}")
        begin, value_type = parser.at, parser.uint("I")
        value: Scalar | Array
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


def _alignment(parser: Parser, metadata: dict[str, Scalar | Array]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise parser.fail(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def _parse_tensors(parser: Parser, count: int, alignment: int) -> dict[str, TensorInfo]:
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
        tensors[name] = TensorInfo(name, shape, type_name, begin, nbytes, parser.head.path)
    return tensors


def _tensor_size(parser: Parser, name: str, shape: tuple[int, ...], type_id: int) -> tuple[str, int]:
    kind = TENSOR_TYPES.get(type_id)
    if kind is None:
        raise parser.fail(f"tensor {name!r} has unknown type {type_id}; this version may be too old for it")
    elements = math.prod(shape)
    if shape and shape[0] % kind.block_elements:
        raise parser.fail(f"tensor {name!r}: a row of {shape[0]} does not divide into {kind.name} blocks")
    return kind.name, elements // kind.block_elements * kind.block_bytes
