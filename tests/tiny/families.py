"""The transformers config of each family, small, with every multiplier and window at a telling value."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from tests.tiny.vocabulary import END_OF_TURN, EOS, SIZE

COMMON = {
    "vocab_size": SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": EOS,
    "eos_token_id": END_OF_TURN,
    "pad_token_id": EOS,
}
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32}
GPT2 = {"vocab_size": SIZE, "n_positions": 512, "n_embd": 64, "n_layer": 2, "n_head": 4}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GRANITE = {
    "embedding_multiplier": 6.0,
    "logits_scaling": 4.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.125,
}
MIXTURE = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32}
GPT_OSS = {
    "head_dim": 32,
    "sliding_window": 256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
MAMBA = {
    "layer_types": ["linear_attention", "full_attention"],
    "shared_intermediate_size": 48,
    "mamba_n_heads": 4,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "mamba_d_head": 32,
}
DELTA_NET = {
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}

CONFIGS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, COMMON),
    "mistral": (transformers.MistralConfig, {**COMMON, "head_dim": 16, "sliding_window": None}),
    "qwen2": (transformers.Qwen2Config, COMMON),
    "qwen3": (transformers.Qwen3Config, {**COMMON, "head_dim": 32}),
    "gemma2": (transformers.Gemma2Config, {**COMMON, **GEMMA, "sliding_window": 256}),
    "gemma3": (transformers.Gemma3TextConfig, {**COMMON, **GEMMA, "sliding_window": 256}),
    "phi3": (transformers.Phi3Config, COMMON),
    "gpt2": (transformers.GPT2Config, {**GPT2, "bos_token_id": EOS, "eos_token_id": END_OF_TURN}),
    "granite": (transformers.GraniteConfig, {**COMMON, **GRANITE}),
    "gemma": (transformers.GemmaConfig, {**COMMON, "head_dim": 32}),
    "stablelm": (transformers.StableLmConfig, {**COMMON, "use_qkv_bias": True}),
    "starcoder2": (transformers.Starcoder2Config, COMMON),
    "olmo2": (transformers.Olmo2Config, COMMON),
    "smollm3": (transformers.SmolLM3Config, COMMON),
    "qwen3moe": (transformers.Qwen3MoeConfig, {**COMMON, **EXPERTS, "head_dim": 32, "norm_topk_prob": True}),
    "granitemoe": (transformers.GraniteMoeConfig, {**COMMON, **EXPERTS, **GRANITE}),
    "mixtral": (transformers.MixtralConfig, {**COMMON, **MIXTURE}),
    "gpt-oss": (transformers.GptOssConfig, {**COMMON, **MIXTURE, **GPT_OSS}),
    "granitehybrid": (transformers.GraniteMoeHybridConfig, {**COMMON, **MIXTURE, **GRANITE, **MAMBA}),
    "lfm2": (
        transformers.Lfm2Config,
        {**COMMON, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    "qwen35": (transformers.Qwen3_5TextConfig, {**COMMON, **DELTA_NET}),
}


def random_model(family: str, *, seed: int = 0, **config_overrides: Any) -> PreTrainedModel:
    """A random float32 model in evaluation mode.

    Raises: KeyError for an unknown family; TypeError or ValueError of transformers for a bad override.
    """
    config_class, defaults = CONFIGS[family]
    config = config_class(**{**defaults, **config_overrides}, dtype="float32")
    model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_random_like(name, parameter, draw, norm_mean=0.0 if "gemma" in family else 1.0))
    return model.eval()


def _random_like(
    name: str, parameter: torch.Tensor, draw: torch.Generator, *, norm_mean: float
) -> torch.Tensor:
    noise = torch.randn(parameter.shape, generator=draw)
    if parameter.ndim > 1:
        n_in = parameter.shape[0 if ".c_" in name else -1]  # GPT-2's Conv1D keeps (n_in, n_out)
        return noise * float(n_in**-0.5)
    is_norm = "norm" in name or ".ln_" in name
    return 0.2 * noise + (norm_mean if is_norm and name.endswith("weight") else 0.0)
