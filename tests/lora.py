"""Random LoRA adapters for any base: strong enough to change what the model says, made on the spot."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
FUSED = ("attn_qkv",)
EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
EMBEDDING, HEAD = "token_embd", "output"
TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
}

HALF_IN_FULL = "the numbers of F16 as F32"


def random_lora(
    base: Path,
    out: Path,
    *,
    seed: int,
    rank: int = 4,
    strength: float = 0.6,
    targets: Collection[str] = LINEARS,
    scale: float | None = 1.0,
    dtype: str = "F32",
    uneven: bool = False,
) -> Path:
    """A GGUF LoRA on the named tensors of every block of `base`, as far as it has them.

    Args:
        strength: the size of `scale * B A x` beside `W x`, roughly; 0 is an adapter that changes nothing.
        targets: as in a GGUF between `blk.N.` and `.weight`; also `token_embd` and `output`.
        scale: the file's alpha over its rank; None writes no alpha, which llama.cpp takes for 1.
        dtype: one of `TYPES`, Q8_0 where the rows are whole blocks of 32, else F16; or `HALF_IN_FULL`.
        uneven: every other block has half the rank, and then, under the one alpha, twice the scale.
    """
    reader, rng = gguf.GGUFReader(base), np.random.default_rng(seed)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    if scale is not None:
        writer.add_float32("adapter.lora.alpha", scale * rank)
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        block = int(parts[1]) if parts[0] == "blk" else 0
        if parts[-1] != "weight" or parts[-2] not in targets:
            continue
        own = max(1, rank // 2) if uneven and block % 2 else rank
        factor = 1.0 if scale is None else scale * rank / own
        a, b = _factors(parts[-2], [int(n) for n in tensor.shape], own, rng)
        _add(writer, f"{tensor.name}.lora_a", a, dtype)
        _add(writer, f"{tensor.name}.lora_b", b * strength / factor, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _factors(
    target: str, shape: list[int], rank: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A and B for a weight of GGUF shape (n_in, n_out) or (n_in, n_out, n_experts)."""
    n_in, n_out, *experts = shape
    if target == EMBEDDING:  # rows of A are looked up: (n_vocab, rank), and B is (n_embd, rank)
        return rng.standard_normal((n_out, rank)), rng.standard_normal((n_in, rank)) * rank**-0.5
    a = rng.standard_normal((*experts, rank, n_in)) * n_in**-0.5
    return a, rng.standard_normal((*experts, n_out, rank)) * rank**-0.5


def _add(writer: gguf.GGUFWriter, name: str, values: NDArray[np.float64], dtype: str) -> None:
    if dtype == "Q8_0" and values.shape[-1] % 32:
        dtype = "F16"
    if dtype == HALF_IN_FULL:
        values, dtype = values.astype(np.float32).astype(np.float16).astype(np.float64), "F32"
    kind = TYPES[dtype]
    writer.add_tensor(name, gguf.quants.quantize(values.astype(np.float32), kind), raw_dtype=kind)


def poison(adapter: Path, out: Path, value: float) -> Path:
    """A copy whose every A holds `value` in its last row."""
    reader = gguf.GGUFReader(adapter)
    content = bytearray(adapter.read_bytes())
    for tensor in reader.tensors:
        if tensor.name.endswith(".lora_a"):
            values = np.array(tensor.data)
            values[-1] = value
            content[tensor.data_offset : tensor.data_offset + tensor.n_bytes] = values.tobytes()
    out.write_bytes(content)
    return out
