"""Names: where a module lies in a GGUF, and which tensors a LoRA reaches."""

from __future__ import annotations

import pytest

from llamaleon_convert.architectures import ARCHITECTURES, Place, locate, lora_reaches


@pytest.mark.parametrize(
    ("architecture", "module", "tensor"),
    [
        ("llama", "model.layers.11.self_attn.o_proj", "blk.11.attn_output.weight"),
        ("gemma3", "model.language_model.layers.3.mlp.up_proj", "blk.3.ffn_up.weight"),
        ("gemma3", "language_model.model.layers.3.mlp.up_proj", "blk.3.ffn_up.weight"),
        ("phi3", "model.layers.0.mlp.gate_up_proj", "blk.0.ffn_up.weight"),
        ("gpt2", "transformer.h.2.mlp.c_proj", "blk.2.ffn_down.weight"),
        ("gpt2", "transformer.wte", "token_embd.weight"),
        ("qwen2", "model.embed_tokens", "token_embd.weight"),
        ("qwen2", "lm_head", "output.weight"),
        ("gemma3", "model.vision_tower.encoder.layers.0.self_attn.q_proj", None),
        ("gemma3", "model.vision_tower.layers.0.self_attn.q_proj", None),
        ("gpt2", "transformer.wpe", None),
        ("gpt2", "model.layers.0.self_attn.q_proj", None),
        ("llama", "model.layers.0.self_attn.q_proj.extra", None),
        ("llama", "model.layers.x.self_attn.q_proj", None),
        ("llama", "model.layers.0.input_layernorm", None),
        ("qwen3moe", "model.layers.0.mlp.experts", None),
    ],
)
def test_locate(architecture: str, module: str, tensor: str | None) -> None:
    place = locate(ARCHITECTURES[architecture], module)
    assert (place.tensor if isinstance(place, Place) else None) == tensor


@pytest.mark.parametrize(
    ("architecture", "tensor", "reached"),
    [
        ("llama", "blk.0.attn_q.weight", True),
        ("llama", "output.weight", True),
        ("llama", "blk.0.attn_norm.weight", False),
        ("llama", "output_norm.weight", False),
        ("llama", "rope_freqs.weight", False),
        ("llama", "blk.0.attn_q.bias", False),
        ("qwen3", "blk.0.attn_q_norm.weight", False),
        ("phi3", "blk.0.attn_q.weight", False),
        ("deepseek2", "blk.0.attn_q_a.weight", False),
        ("deepseek2", "blk.0.attn_output.weight", True),
        ("deepseek2", "output.weight", False),
        ("gemma4", "per_layer_model_proj.weight", False),
        ("falcon", "blk.0.attn_qkv.weight", True),
        ("falcon", "blk.0.attn_norm.weight", False),
    ],
)
def test_lora_reaches(architecture: str, tensor: str, reached: bool) -> None:
    assert lora_reaches(architecture, tensor) is reached
