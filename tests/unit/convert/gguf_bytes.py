"""Hand-made GGUF files: exact bytes for the header's tests, without any writer in between."""

from __future__ import annotations

import struct
from collections.abc import Sequence

U32, F32, STRING, ARRAY = 4, 6, 8, 9


def string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, value: str | int | float | Sequence[str]) -> bytes:
    if isinstance(value, str):
        return string(name) + struct.pack("<I", STRING) + string(value)
    if isinstance(value, int):
        return string(name) + struct.pack("<II", U32, value)
    if isinstance(value, float):
        return string(name) + struct.pack("<If", F32, value)
    items = b"".join(string(item) for item in value)
    return string(name) + struct.pack("<IIQ", ARRAY, STRING, len(value)) + items


def tensor(name: str, shape: Sequence[int], type_id: int, offset: int) -> bytes:
    extents = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + extents + struct.pack("<IQ", type_id, offset)


def gguf(
    keys: Sequence[bytes], tensors: Sequence[bytes] = (), data: bytes = b"", *, version: int = 3
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join([*keys, *tensors])
    return head + bytes(-len(head) % 32) + data


def small_model() -> bytes:
    """Two tensors of 64 and 32 values, a vocabulary of three."""
    keys = [
        key("general.architecture", "llama"),
        key("llama.block_count", 2),
        key("llama.embedding_length", 8),
        key("tokenizer.ggml.tokens", ["a", "ñ", "€"]),
        key("tokenizer.ggml.bos_token_id", 1),
        key("tokenizer.chat_template", "{{ messages }}"),
    ]
    tensors = [tensor("token_embd.weight", (8, 8), 0, 0), tensor("output_norm.weight", (32,), 1, 256)]
    return gguf(keys, tensors, bytes(range(64)) * 5)
