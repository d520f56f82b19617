"""A GGUF base model of a few kilobytes: enough for everything that reads headers and fits adapters."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tests.unit.server.registry.peft import WIDTH

TOKENS = 32


def write_base(path: Path, *, seed: int = 0, width: int = WIDTH, template: str | None = None) -> Path:
    """Random weights: another seed is another model of the same shapes."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, TOKENS))])
    writer.add_token_scores([0.0] * TOKENS)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if template is not None:
        writer.add_chat_template(template)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))

    add("token_embd.weight", TOKENS, width)
    add("output_norm.weight", width)
    add("output.weight", TOKENS, width)
    add("blk.0.attn_norm.weight", width)
    add("blk.0.ffn_norm.weight", width)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        add(f"blk.0.{name}.weight", width, width)
    add("blk.0.ffn_gate.weight", 2 * width, width)
    add("blk.0.ffn_up.weight", 2 * width, width)
    add("blk.0.ffn_down.weight", width, 2 * width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
