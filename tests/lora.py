"""Random LoRA adapters for any base: strong enough to change what the model says, made on the spot."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def random_lora(base: Path, out: Path, *, seed: int, rank: int = 4, strength: float = 0.6) -> Path:
    """A GGUF LoRA on every linear layer of `base`; `strength`: `B A x` beside `W x`, roughly."""
    reader, rng = gguf.GGUFReader(base), np.random.default_rng(seed)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        if parts[0] != "blk" or parts[2] not in LINEARS or parts[-1] != "weight":
            continue
        n_in, n_out = (int(n) for n in tensor.shape)
        a = rng.standard_normal((rank, n_in)) * n_in**-0.5
        b = rng.standard_normal((n_out, rank)) * strength * rank**-0.5
        writer.add_tensor(f"{tensor.name}.lora_a", a.astype(np.float32))
        writer.add_tensor(f"{tensor.name}.lora_b", b.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
