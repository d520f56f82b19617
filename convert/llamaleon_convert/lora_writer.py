"""Writes a GGUF LoRA, one tensor in memory at a time.

llama.cpp computes `W x + weight * (alpha / rank) * B (A x)` with one `alpha` for the whole file. PEFT's
factor may differ by module (rank patterns, alpha patterns, rsLoRA): what differs is multiplied into B.

Weights keep the source's precision: F32 and F16 stay what they are, BF16 becomes F32 (in F16 or BF16
llama.cpp would round the activations as well); a B that had to be multiplied becomes F32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from llamaleon_convert.manifest import EMBEDDED_PREFIX, BaseFingerprint
from llamaleon_convert.plan import Target
from llamaleon_convert.safetensors_file import SafetensorsFile, Weights

DType = np.dtype[np.float32] | np.dtype[np.float16]


def write_lora(
    path: Path, targets: Sequence[Target], weights: SafetensorsFile, base: BaseFingerprint, *, scale: float
) -> None:
    """`scale` is multiplied into the file's alpha (dimensionless)."""
    alpha = Counter(_alpha(target) for target in targets).most_common(1)[0][0]
    writer = gguf.GGUFWriter(path, base.architecture)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha * scale)
        writer.add_string("llamaleon.source", "peft")
        _embed(writer, base)
        for target in targets:
            _announce(writer, target, weights, factor=_alpha(target) / alpha)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for target in targets:
            writer.write_tensor_data(_served_a(target, weights.read(target.a)))
            writer.write_tensor_data(_served_b(target, weights.read(target.b), _alpha(target) / alpha))
    finally:
        writer.close()


def _alpha(target: Target) -> float:
    """The alpha at which llama.cpp's factor is PEFT's. A float32, so that equal settings come out equal."""
    return float(np.float32(target.scaling * target.rank))


def _embed(writer: gguf.GGUFWriter, base: BaseFingerprint) -> None:
    for field in base.__struct_fields__:
        value = getattr(base, field)
        if isinstance(value, int):
            writer.add_uint64(EMBEDDED_PREFIX + field, value)
        elif value:
            writer.add_string(EMBEDDED_PREFIX + field, value)


def _announce(writer: gguf.GGUFWriter, target: Target, weights: SafetensorsFile, *, factor: float) -> None:
    """Row of the tensor table for A and for B, in the order in which their data follow."""
    a, b = weights.entries[target.a], weights.entries[target.b]
    a_shape = a.shape[::-1] if target.transpose_a else a.shape
    for suffix, shape, dtype in (
        ("lora_a", a_shape, _served_dtype(a.dtype, factor=1.0)),
        ("lora_b", b.shape, _served_dtype(b.dtype, factor=factor)),
    ):
        nbytes = shape[0] * shape[1] * dtype.itemsize
        writer.add_tensor_info(f"{target.tensor}.{suffix}", shape, dtype, nbytes)


def _served_dtype(stored: str, *, factor: float) -> DType:
    return np.dtype(np.float16) if stored == "F16" and factor == 1.0 else np.dtype(np.float32)


def _served_a(target: Target, a: Weights) -> Weights:
    return np.ascontiguousarray(a.T) if target.transpose_a else a


def _served_b(target: Target, b: Weights, factor: float) -> Weights:
    if factor != 1.0:
        b = b.astype(np.float32) * np.float32(factor)
    return b if target.heads is None else interleave_halves(b, target.heads)


def interleave_halves(rows: Weights, heads: int) -> Weights:
    """Within each head, row i of the first half and row i of the second half become neighbours.

    Source: llama.cpp `conversion/llama.py`, `LlamaModel.permute`; undoes transformers' own reordering.
    """
    order = np.arange(rows.shape[0]).reshape(heads, 2, -1).swapaxes(1, 2).ravel()
    return rows[order]
