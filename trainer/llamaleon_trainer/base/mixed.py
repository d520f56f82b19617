"""transformers configurations of mixtures of experts, and of hybrids with layers of two kinds."""

from __future__ import annotations

from ..errors import BaseUnsupported
from .dense import decoder, granite, llama, qwen3
from .metadata import Keys, Metadata


def mixtral(meta: Metadata) -> Keys:
    keys = llama(meta)
    if keys.pop("attention_bias") or keys.pop("mlp_bias"):
        raise BaseUnsupported("a mixture of the llama architecture with biases is not supported")
    return {**keys, **_experts(meta)}


def qwen3moe(meta: Metadata) -> Keys:
    keys = {**qwen3(meta), **_experts(meta, "num_experts"), "norm_topk_prob": True}
    width = keys["intermediate_size"] // keys["num_experts_per_tok"]
    return {**keys, "moe_intermediate_size": meta.integer("expert_feed_forward_length", width)}


def granitemoe(meta: Metadata) -> Keys:
    keys = {**granite(meta), **_experts(meta)}
    del keys["mlp_bias"]
    if meta.has_tensor("blk.0.ffn_up_shexp.weight"):
        keys["shared_intermediate_size"] = meta.integer("expert_shared_feed_forward_length")
    return keys


def gpt_oss(meta: Metadata) -> Keys:
    keys = {**decoder(meta), **_experts(meta)}
    return {
        **keys,
        "intermediate_size": meta.integer("expert_feed_forward_length"),
        "sliding_window": meta.integer("attention.sliding_window"),
        "layer_types": [
            "full_attention" if block % 2 else "sliding_attention"
            for block in range(keys["num_hidden_layers"])
        ],
    }


def granitehybrid(meta: Metadata) -> Keys:
    """Granite 4: Mamba 2 where there are no heads of keys, attention elsewhere, perhaps without positions."""
    heads = meta.layers("attention.head_count_kv")
    keys = granite(Metadata(meta.header, {"attention.head_count_kv": max(heads)}))
    del keys["mlp_bias"]
    shared = meta.integer("expert_shared_feed_forward_length", 0) or keys["intermediate_size"]
    mixture = meta.integer("expert_count", 0) > 0
    return {
        **keys,
        **(_experts(meta) if mixture else {"num_local_experts": 0, "num_experts_per_tok": 0}),
        "shared_intermediate_size": shared,
        "layer_types": ["full_attention" if one else "linear_attention" for one in heads],
        "position_embedding_type": "rope" if meta.flag("rope.scaling.finetuned", default=True) else None,
        "mamba_n_heads": meta.integer("ssm.time_step_rank"),
        "mamba_n_groups": meta.integer("ssm.group_count"),
        "mamba_d_state": meta.integer("ssm.state_size"),
        "mamba_d_conv": meta.integer("ssm.conv_kernel"),
        "mamba_expand": meta.integer("ssm.inner_size") // meta.integer("embedding_length"),
        "mamba_conv_bias": any(name.endswith("ssm_conv1d.bias") for name in meta.header.tensors),
    }


def lfm2(meta: Metadata) -> Keys:
    """Short convolutions where there are no heads of keys, attention elsewhere."""
    heads = meta.layers("attention.head_count_kv")
    if meta.integer("attention.sliding_window", 0):
        raise BaseUnsupported("an lfm2 model with a sliding window is not supported")
    keys = decoder(Metadata(meta.header, {"attention.head_count_kv": max(heads)}))
    return {
        **keys,
        "norm_eps": keys["rms_norm_eps"],
        "conv_L_cache": meta.integer("shortconv.l_cache"),
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["full_attention" if one else "conv" for one in heads],
    }


def qwen35(meta: Metadata) -> Keys:
    """Gated delta nets, and every so often attention with gates."""
    keys = decoder(meta)
    every = meta.integer("full_attention_interval", 4)
    values = meta.integer("ssm.time_step_rank")
    return {
        **keys,
        "layer_types": [
            "linear_attention" if (block + 1) % every else "full_attention"
            for block in range(keys["num_hidden_layers"])
        ],
        "linear_num_key_heads": meta.integer("ssm.group_count"),
        "linear_num_value_heads": values,
        "linear_key_head_dim": meta.integer("ssm.state_size"),
        "linear_value_head_dim": meta.integer("ssm.inner_size") // values,
        "linear_conv_kernel_dim": meta.integer("ssm.conv_kernel"),
    }


def _experts(meta: Metadata, count: str = "num_local_experts") -> Keys:
    return {
        count: meta.integer("expert_count"),
        "num_experts_per_tok": meta.integer("expert_used_count"),
    }
