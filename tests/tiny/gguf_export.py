"""Writes a small transformers model as GGUF. For tests only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from transformers import PretrainedConfig, PreTrainedModel

from tests.tiny import layouts, vocabulary

Array = npt.NDArray[np.float32]

# Where llama.cpp's name is not model_type.
ARCHITECTURES = {
    "mistral": "llama",
    "mixtral": "llama",
    "gemma3_text": "gemma3",
    "qwen3_moe": "qwen3moe",
    "gpt_oss": "gpt-oss",
    "granitemoehybrid": "granitehybrid",
    "qwen3_5_text": "qwen35",
}
PERMUTES_ROPE = {
    "llama",
    "granite",
    "granitemoe",
    "granitehybrid",
    "smollm3",
}  # llama.cpp rotates neighbouring pairs, transformers halves
NORMAL, CONTROL = 1, 3  # llama.cpp's token types


def write(
    model: PreTrainedModel,
    path: Path,
    *,
    chat_template: str | None,
    extra: Callable[[gguf.GGUFWriter], None] | None = None,
) -> None:
    """`extra` adds what the family's model has not: keys and tensors of its own."""
    config = model.config
    architecture = ARCHITECTURES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("model")
    writer.add_name("tiny")  # not the family: llama.cpp expects certain tokens of a model named phi3
    writer.add_file_type(0)
    _add_hyperparameters(writer, config)
    _add_family(writer, architecture, config)
    _add_tokenizer(writer, chat_template)
    if extra is not None:
        extra(writer)
    for tensor_name, tensor in _tensors(model, architecture):
        writer.add_tensor(tensor_name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_hyperparameters(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    heads = config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", 4 * config.hidden_size))
    writer.add_head_count(heads)
    writer.add_head_count_kv(layouts.key_value_heads(config))
    writer.add_vocab_size(config.vocab_size)
    for field in ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"):
        if hasattr(config, field):
            writer.add_layer_norm_eps(getattr(config, field))
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.model_type == "gpt2":
        return
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    rope = config.rope_parameters or {"rope_theta": 10000.0}  # none: a model without positions
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))


def _add_family(writer: gguf.GGUFWriter, architecture: str, config: PretrainedConfig) -> None:
    """The keys that only one family has."""
    if architecture in {"gemma2", "gemma3"}:
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if architecture == "phi3":
        writer.add_sliding_window(config.sliding_window or 0)
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    if architecture == "stablelm":
        writer.add_parallel_residual(config.use_parallel_residual)
    if hasattr(config, "num_experts_per_tok"):
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if architecture == "qwen3moe":
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if architecture.startswith("granite"):
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    layouts.add_keys(writer, architecture, config)


def _add_tokenizer(writer: gguf.GGUFWriter, chat_template: str | None) -> None:
    tokens = vocabulary.tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if vocabulary.is_control(token) else NORMAL for token in tokens])
    writer.add_token_merges([f"{left} {right}" for left, right in vocabulary.merges()])
    writer.add_bos_token_id(vocabulary.EOS)
    writer.add_eos_token_id(vocabulary.END_OF_TURN)
    writer.add_add_bos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _tensors(model: PreTrainedModel, architecture: str) -> list[tuple[str, Array]]:
    config = model.config
    number = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    found: list[tuple[str, Array]] = []
    for name, parameter in model.named_parameters():  # a tied head appears once, as the embedding
        special = layouts.tensors(name, parameter.detach().numpy(), architecture, config)
        if special is not None:
            found += special
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise KeyError(f"{architecture}: no GGUF name for {name}")
        found.append((target, _as_served(name, parameter.detach().numpy(), architecture, config)))
    return found


def _as_served(name: str, value: Array, architecture: str, config: Any) -> Array:
    if architecture == "gpt2" and ".c_" in name and value.ndim == 2:
        return value.T  # Conv1D keeps (n_in, n_out)
    if architecture.startswith(("gemma", "qwen35")) and name.endswith("norm.weight"):
        return value + 1
    if architecture in PERMUTES_ROPE and name.endswith(("q_proj.weight", "q_proj.bias")):
        return _interleave_halves(value, config.num_attention_heads)
    if architecture in PERMUTES_ROPE and name.endswith(("k_proj.weight", "k_proj.bias")):
        return _interleave_halves(value, config.num_key_value_heads)
    return value


def _interleave_halves(value: Array, heads: int) -> Array:
    rows, rest = value.shape[0], value.shape[1:]
    return value.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2).reshape(rows, *rest)
