"""Names: where a module lies in a GGUF, and which tensors a LoRA reaches."""

from __future__ import annotations

import pytest

from llamaleon_convert.architectures import ARCHITECTURES, Rows, locate, lora_reaches


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
        ("qwen3moe", "model.layers.0.mlp.gate", "blk.0.ffn_gate_inp.weight"),
        ("qwen3moe", "model.layers.0.mlp.experts.3.down_proj", "blk.0.ffn_down_exps.weight"),
        ("llama", "model.layers.0.block_sparse_moe.experts.1.w3", "blk.0.ffn_up_exps.weight"),
        ("gpt-oss", "model.layers.0.mlp.experts.down_proj", "blk.0.ffn_down_exps.weight"),
        ("qwen2", "model.layers.0.mlp.experts.down_proj", None),
        ("qwen3moe", "model.layers.0.mlp.experts.3.other_proj", None),
        ("lfm2", "model.layers.0.conv.conv", None),
    ],
)
def test_locate(architecture: str, module: str, tensor: str | None) -> None:
    places = locate(ARCHITECTURES[architecture], module, ())
    assert [place.tensor for place in places] == ([] if tensor is None else [tensor])


def test_one_module_may_be_several_tensors() -> None:
    gate, up = locate(ARCHITECTURES["gpt-oss"], "model.layers.2.mlp.experts.gate_up_proj", ())
    assert (gate.tensor, gate.rows) == ("blk.2.ffn_gate_exps.weight", Rows.EVEN)
    assert (up.tensor, up.rows) == ("blk.2.ffn_up_exps.weight", Rows.ODD)
    assert len(locate(ARCHITECTURES["gpt-oss"], "model.layers.2.mlp.experts", ())) == 3
    granite, module = ARCHITECTURES["granitehybrid"], "model.layers.0.shared_mlp.output_linear"
    dense = locate(granite, module, {"blk.0.ffn_down.weight"})
    assert [place.tensor for place in dense] == ["blk.0.ffn_down.weight"]
    assert locate(granite, module, {"blk.0.ffn_down_shexp.weight"})[0].kind == "ffn_down_shexp"


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
