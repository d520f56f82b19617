"""transformers configurations of dense families: every key that llama.cpp's graph reads, or a refusal."""

from __future__ import annotations

import math

from ..errors import BaseUnsupported
from .metadata import Keys, Metadata

# The classes of the others rotate every dimension of a head.
PARTLY_ROTATED = ("phi3", "stablelm", "qwen35")


def decoder(meta: Metadata) -> Keys:
    """What every family of the Llama line shares."""
    return {**shape(meta), "rms_norm_eps": meta.number("attention.layer_norm_rms_epsilon")}


def shape(meta: Metadata) -> Keys:
    heads = meta.integer("attention.head_count")
    return {
        "hidden_size": meta.integer("embedding_length"),
        "intermediate_size": meta.integer("feed_forward_length"),
        "num_hidden_layers": meta.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.integer("attention.head_count_kv", heads),
        "head_dim": meta.head_dim,
        "max_position_embeddings": meta.integer("context_length"),
        "rope_parameters": _rope(meta),
    }


def _rope(meta: Metadata) -> Keys:
    """Rotary parameters. `rope_freqs.weight` (Llama 3) is applied to the frequencies after loading."""
    rope: Keys = {"rope_type": "default", "rope_theta": meta.number("rope.freq_base", 10000.0)}
    kind = meta.text("rope.scaling.type", "linear" if meta.has("rope.scale_linear") else "none")
    if kind == "linear":
        factor = meta.number("rope.scaling.factor", meta.number("rope.scale_linear", 1.0))
        rope |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        rope |= _yarn(meta)
    elif kind not in ("none", "longrope"):
        raise BaseUnsupported(f"rope scaling of type {kind!r} is not supported")
    dimensions = meta.integer("rope.dimension_count", meta.head_dim)
    if dimensions != meta.head_dim:
        if meta.architecture not in PARTLY_ROTATED:
            raise BaseUnsupported(f"rotating {dimensions} of {meta.head_dim} dimensions is not supported")
        rope["partial_rotary_factor"] = dimensions / meta.head_dim
    return rope


def _yarn(meta: Metadata) -> Keys:
    factor = meta.number("rope.scaling.factor")
    magnitude = 1.0 + 0.1 * math.log(factor) if factor > 1 else 1.0
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": meta.integer("rope.scaling.original_context_length"),
        "attention_factor": meta.number("rope.scaling.attn_factor", 1.0) * magnitude,
        "beta_fast": meta.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": meta.number("rope.scaling.yarn_beta_slow", 1.0),
    }


def llama(meta: Metadata) -> Keys:
    biases = {
        "attention_bias": meta.has_tensor("blk.0.attn_q.bias"),
        "mlp_bias": meta.has_tensor("blk.0.ffn_up.bias"),
    }
    return {**decoder(meta), **biases}


def qwen2(meta: Metadata) -> Keys:
    return {**decoder(meta), "use_sliding_window": False}


def qwen3(meta: Metadata) -> Keys:
    return {**qwen2(meta), "attention_bias": meta.has_tensor("blk.0.attn_q.bias")}


def granite(meta: Metadata) -> Keys:
    multipliers = {
        "embedding_multiplier": meta.number("embedding_scale", 1.0),
        "residual_multiplier": meta.number("residual_scale", 1.0),
        "attention_multiplier": meta.number("attention.scale", meta.head_dim**-0.5),
        "logits_scaling": meta.number("logit_scale", 1.0),
    }
    return {**llama(meta), **multipliers}


def _gemma(meta: Metadata, blocks_of_27b: int) -> Keys:
    """The attention scale is not in the file: llama.cpp knows the 27 B model by its number of blocks."""
    keys = decoder(meta)
    if keys["num_hidden_layers"] == blocks_of_27b:
        scalar = keys["hidden_size"] / keys["num_attention_heads"]
    else:
        scalar = keys["head_dim"]
    return {**keys, "query_pre_attn_scalar": scalar, "hidden_activation": "gelu_pytorch_tanh"}


def gemma2(meta: Metadata) -> Keys:
    return {
        **_gemma(meta, blocks_of_27b=46),
        "sliding_window": meta.integer("attention.sliding_window", 4096),
        "attn_logit_softcapping": meta.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": meta.number("final_logit_softcapping", 30.0),
    }


def gemma3(meta: Metadata) -> Keys:
    keys = _gemma(meta, blocks_of_27b=62)
    blocks = keys["num_hidden_layers"]
    window = meta.integer("attention.sliding_window", 0)
    every = meta.integer("attention.sliding_window_pattern", 6)
    local = {"rope_type": "default", "rope_theta": meta.number("rope.freq_base_swa", 10000.0)}
    cap = meta.number("final_logit_softcapping", 0.0)
    return {
        **keys,
        "sliding_window": window or keys["max_position_embeddings"],
        "layer_types": [
            "sliding_attention" if window and (block + 1) % every else "full_attention"
            for block in range(blocks)
        ],
        "rope_parameters": {"full_attention": keys["rope_parameters"], "sliding_attention": local},
        "final_logit_softcapping": cap or None,
    }


def phi3(meta: Metadata) -> Keys:
    keys = decoder(meta)
    if keys["head_dim"] * keys["num_attention_heads"] != keys["hidden_size"]:
        raise BaseUnsupported("a phi3 model whose heads do not add up to its width is not supported")
    del keys["head_dim"]
    return {**keys, "sliding_window": None}  # which llama.cpp reads and then leaves out of the graph


def gpt2(meta: Metadata) -> Keys:
    return {
        "n_embd": meta.integer("embedding_length"),
        "n_layer": meta.integer("block_count"),
        "n_head": meta.integer("attention.head_count"),
        "n_inner": meta.integer("feed_forward_length"),
        "n_positions": meta.integer("context_length"),
        "layer_norm_epsilon": meta.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }


def gemma(meta: Metadata) -> Keys:
    return {**decoder(meta), "hidden_act": "gelu_pytorch_tanh"}


def olmo2(meta: Metadata) -> Keys:
    if meta.integer("attention.sliding_window", 0):
        raise BaseUnsupported("an olmo2 model with a sliding window (OLMo 3) is not supported")
    return {**decoder(meta), "attention_bias": meta.has_tensor("blk.0.attn_q.bias")}


def smollm3(meta: Metadata) -> Keys:
    return {**llama(meta), "no_rope_layer_interval": 4, "use_sliding_window": False}


def stablelm(meta: Metadata) -> Keys:
    return {
        **shape(meta),
        "layer_norm_eps": meta.number("attention.layer_norm_epsilon"),
        "use_qkv_bias": meta.has_tensor("blk.0.attn_q.bias"),
        "use_parallel_residual": not meta.has_tensor("blk.0.ffn_norm.weight"),
    }


def starcoder2(meta: Metadata) -> Keys:
    return {
        **shape(meta),
        "norm_epsilon": meta.number("attention.layer_norm_epsilon"),
        "use_bias": meta.has_tensor("blk.0.attn_q.bias"),
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "sliding_window": None,  # llama.cpp's graph knows none
    }
