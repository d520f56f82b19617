"""Checks of a GGUF LoRA file before llama.cpp sees it.

llama.cpp's loader and graph abort the whole process on some files (an `alpha` of another type, a LoRA on
tied embeddings) and skip some tensors without a word (norms). Everything that can be known from the two
headers is refused here, by name.

Source: src/llama-adapter.cpp `llama_adapter_lora_init_impl` and src/llama-graph.cpp `build_lora_mm`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import Header, TensorInfo, read_header
from llamaleon_server.binding.errors import AdapterError

ALPHA_KEY = "adapter.lora.alpha"
GGUF_FLOAT32 = struct.pack("<I", 6)
NOT_MULTIPLIABLE = frozenset({"I8", "I16", "I32", "I64", "F64"})
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
MAX_NAME_BYTES = 63  # ggml cuts longer names


@dataclass(frozen=True)
class AdapterFile:
    """What a checked file holds. `pairs` are its A and B by the base tensor that they change.

    `alpha` 0 means that B (A x) is added as it is, else times alpha / rank.
    """

    path: Path
    pairs: dict[str, tuple[TensorInfo, TensorInfo]]
    alpha: float
    rank: int
    bytes: int

    @property
    def targets(self) -> frozenset[str]:
        return frozenset(self.pairs)


def check(path: Path, base: Header) -> AdapterFile:
    """Compare an adapter's header with its base's. Raises: AdapterError naming what does not fit."""
    try:
        header = read_header(path)
    except ConvertError as error:
        raise AdapterError(str(error)) from error
    _check_metadata(header, base)
    pairs = _pairs(header)
    rank = 0
    for target, (a, b) in pairs.items():
        rank = max(rank, _check_pair(header, base, target, a, b))
    alpha = header.get(ALPHA_KEY) if ALPHA_KEY in header else 0.0
    assert isinstance(alpha, float), "its type is checked"
    if not math.isfinite(alpha):
        raise AdapterError(f"{path}: `{ALPHA_KEY}` is {alpha}. Convert the adapter again.")
    return AdapterFile(path, pairs, alpha, rank, header.size)


def _check_metadata(header: Header, base: Header) -> None:
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if (found := header.get(key)) != wanted:
            raise AdapterError(f"{header.path}: `{key}` is {found!r}; a GGUF LoRA has {wanted!r}.")
    if header.architecture != base.architecture:
        raise AdapterError(
            f"{header.path}: made for the architecture {header.architecture!r}, the base is "
            f"{base.architecture!r}. Use it with the base it was trained on."
        )
    if ALPHA_KEY in header and header.raw(ALPHA_KEY)[:4] != GGUF_FLOAT32:
        raise AdapterError(f"{header.path}: `{ALPHA_KEY}` is not a 32-bit float. Convert the adapter again.")
    if "adapter.alora.invocation_tokens" in header:
        raise AdapterError(f"{header.path}: an activated LoRA (aLoRA), which is not supported. Use a LoRA.")


def _pairs(header: Header) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    halves: dict[str, dict[str, TensorInfo]] = {}
    for name, tensor in header.tensors.items():
        target, _, half = name.rpartition(".")
        if half not in ("lora_a", "lora_b") or len(name.encode()) > MAX_NAME_BYTES:
            raise AdapterError(
                f"{header.path}: tensor {name!r} is not a `.lora_a` or `.lora_b` of a base tensor; llama.cpp "
                "would ignore or refuse it. Train without `modules_to_save`, or merge it into the base."
            )
        halves.setdefault(target, {})[half] = tensor
    if not halves:
        raise AdapterError(f"{header.path}: it holds no tensors.")
    for target, found in halves.items():
        if len(found) != 2:
            missing = "lora_b" if "lora_a" in found else "lora_a"
            raise AdapterError(f"{header.path}: tensor '{target}.{missing}' is missing.")
    return {target: (found["lora_a"], found["lora_b"]) for target, found in halves.items()}


def _check_pair(header: Header, base: Header, target: str, a: TensorInfo, b: TensorInfo) -> int:
    weight = base.tensors.get(target)
    if weight is None:
        if target == HEAD and EMBEDDING in base.tensors:
            raise AdapterError(
                f"{header.path}: tensor {a.name!r} adapts the output head, which this base shares with its "
                "embedding. Train without the head, or on a base with a head of its own."
            )
        raise AdapterError(
            f"{header.path}: tensor {a.name!r} changes {target!r}, which the base does not have."
        )
    if target == EMBEDDING and HEAD not in base.tensors:
        raise AdapterError(
            f"{header.path}: tensor {a.name!r} adapts an embedding that this base shares with its output "
            "head; llama.cpp cannot apply that. Train without the embedding."
        )
    for tensor in (a, b):
        if tensor.type in NOT_MULTIPLIABLE:
            raise AdapterError(
                f"{header.path}: tensor {tensor.name!r} has type {tensor.type}; use F16 or F32."
            )
    # GGUF shapes, fastest dimension first. A is (n_in, rank), B is (rank, n_out); of an embedding, A is
    # (rank, n_vocab) and B (rank, n_embd), because its rows are looked up and not multiplied.
    n_in, n_out, *experts = _padded(weight)
    rank = _padded(b)[0]
    wanted_a = (rank, n_out, *experts) if target == EMBEDDING else (n_in, rank, *experts)
    wanted_b = (rank, n_in, *experts) if target == EMBEDDING else (rank, n_out, *experts)
    for tensor, wanted in ((a, wanted_a), (b, wanted_b)):
        if rank == 0 or _padded(tensor) != wanted:
            raise AdapterError(
                f"{header.path}: tensor {tensor.name!r} has shape {tensor.shape}, the base and its other "
                f"half need {wanted}. It was made for another base."
            )
    return rank


def _padded(tensor: TensorInfo) -> tuple[int, ...]:
    return tensor.shape + (1,) * (4 - len(tensor.shape))
