"""A base GGUF of the right shapes and a PEFT directory for it, without torch: for tests of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

HIDDEN, INNER, VOCABULARY, RANK = 16, 32, 24, 4
Tensors = dict[str, npt.NDArray[np.floating[Any]]]

LAYER = {
    "attn_q": ("self_attn.q_proj", HIDDEN, HIDDEN),
    "attn_v": ("self_attn.v_proj", HIDDEN, HIDDEN),
    "ffn_up": ("mlp.up_proj", HIDDEN, INNER),
    "ffn_down": ("mlp.down_proj", INNER, HIDDEN),
}


def write_base(
    path: Path, *, architecture: str = "qwen2", tied: bool = True, seed: int = 0, **keys: str
) -> Path:
    """One block, a vocabulary of 24. `keys` are extra string metadata, with `__` for the dot."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_embedding_length(HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(VOCABULARY)])
    for key, value in keys.items():
        writer.add_string(key.replace("__", "."), value)
    shapes: dict[str, tuple[int, ...]] = {
        f"blk.0.{name}.weight": (n_out, n_in) for name, (_, n_in, n_out) in LAYER.items()
    }
    shapes |= {"token_embd.weight": (VOCABULARY, HIDDEN), "blk.0.attn_norm.weight": (HIDDEN,)}
    if not tied:
        shapes["output.weight"] = (VOCABULARY, HIDDEN)
    for name, shape in shapes.items():
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensor_of(path: Path, name: str) -> npt.NDArray[np.float32]:
    """An F32 tensor of a GGUF, row-major."""
    (tensor,) = (tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    return np.array(tensor.data, dtype=np.float32)


def lora_tensors(*, rank: int = RANK, seed: int = 0) -> Tensors:
    """PEFT's keys and arrays of a LoRA on every linear layer of `write_base`'s model."""
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for module, n_in, n_out in LAYER.values():
        prefix = f"base_model.model.model.layers.0.{module}"
        tensors[f"{prefix}.lora_A.weight"] = rng.standard_normal((rank, n_in)).astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = rng.standard_normal((n_out, rank)).astype(np.float32)
    return tensors


def write_peft(directory: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    """A PEFT directory; `config` overrides fields of adapter_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    fields = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "bias": "none", "init_lora_weights": True}
    (directory / "adapter_config.json").write_text(json.dumps({**fields, **config}))
    save_file(lora_tensors() if tensors is None else tensors, directory / "adapter_model.safetensors")
    return directory
