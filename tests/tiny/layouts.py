"""How llama.cpp keeps mixtures of experts and hybrid layers: keys and tensors beside the plain ones.

Written from llama.cpp's `conversion/`, not from our converter, which is tested against it.
"""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Tensors = list[tuple[str, Array]]


def add_keys(writer: gguf.GGUFWriter, architecture: str, config: Any) -> None:
    if architecture == "gpt-oss":
        writer.add_sliding_window(config.sliding_window)
        writer.add_expert_feed_forward_length(config.intermediate_size)
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    if architecture == "granitehybrid":
        _add_mamba(writer, config)
        writer.add_rope_scaling_finetuned(config.position_embedding_type == "rope")
        writer.add_expert_shared_feed_forward_length(config.shared_intermediate_size)
    if architecture == "lfm2":
        writer.add_shortconv_l_cache(config.conv_L_cache)
        writer.add_layer_norm_rms_eps(config.norm_eps)
    if architecture == "qwen35":
        writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
        writer.add_ssm_state_size(config.linear_key_head_dim)
        writer.add_ssm_group_count(config.linear_num_key_heads)
        writer.add_ssm_time_step_rank(config.linear_num_value_heads)
        writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
        writer.add_full_attention_interval(config.layer_types.index("full_attention") + 1)
        writer.add_rope_dimension_sections([2, 1, 1, 0])


def _add_mamba(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_ssm_conv_kernel(config.mamba_d_conv)
    writer.add_ssm_state_size(config.mamba_d_state)
    writer.add_ssm_group_count(config.mamba_n_groups)
    writer.add_ssm_inner_size(config.mamba_expand * config.hidden_size)
    writer.add_ssm_time_step_rank(config.mamba_n_heads)


def key_value_heads(config: Any) -> int | list[int]:
    """Of every layer, where some have no attention: 0 there."""
    heads = int(getattr(config, "num_key_value_heads", config.num_attention_heads))
    types = getattr(config, "layer_types", None) or []
    if {"conv", "linear_attention"} & set(types) and config.model_type != "qwen3_5_text":
        return [heads if kind == "full_attention" else 0 for kind in types]
    return heads


def tensors(name: str, value: Array, architecture: str, config: Any) -> Tensors | None:
    """None: an ordinary tensor. `name` is transformers'."""
    block = f"blk.{name.split('.')[2]}" if ".layers." in name else ""
    if ".experts." in name or ".router." in name:
        return _mixture(name, block, value, architecture)
    if ".shared_mlp." in name:
        return _shared(name, block, value, experts=config.num_local_experts > 0)
    if architecture == "granitehybrid" and ".mamba." in name:
        return _mamba(name, block, value, config)
    if architecture == "lfm2" and name.endswith("conv.conv.weight"):
        return [(f"{block}.shortconv.conv.weight", value.squeeze(1))]
    if architecture == "qwen35" and ".linear_attn." in name:
        return _delta_net(name, block, value, config)
    if architecture == "gpt-oss" and name.endswith("sinks"):
        return [(f"{block}.attn_sinks.weight", value)]
    return None


def _mixture(name: str, block: str, value: Array, architecture: str) -> Tensors:
    """Stacked experts, (n_experts, n_out, n_in); gate and up are one array in transformers."""
    if ".router." in name:
        return [(f"{block}.ffn_gate_inp.{name.rpartition('.')[2]}", value)]
    bias, swapped = name.endswith("_bias"), architecture == "gpt-oss"
    suffix = "bias" if bias else "weight"
    if swapped and not bias:
        value = value.swapaxes(1, 2)  # gpt-oss keeps (n_in, n_out)
    if "gate_up_proj" in name:
        if swapped:
            gate, up = value[:, 0::2], value[:, 1::2]
        else:
            gate, up = np.split(value, 2, axis=1)
        return [(f"{block}.ffn_gate_exps.{suffix}", gate), (f"{block}.ffn_up_exps.{suffix}", up)]
    return [(f"{block}.ffn_down_exps.{suffix}", value)]


def _shared(name: str, block: str, value: Array, *, experts: bool) -> Tensors:
    ending = "_shexp" if experts else ""
    if "output_linear" in name:
        return [(f"{block}.ffn_down{ending}.weight", value)]
    gate, up = np.split(value, 2)
    return [(f"{block}.ffn_gate{ending}.weight", gate), (f"{block}.ffn_up{ending}.weight", up)]


def _mamba(name: str, block: str, value: Array, config: Any) -> Tensors:
    part = name.split(".mamba.")[1]
    groups, heads = config.mamba_n_groups, config.mamba_n_heads
    match part:
        case "A_log":
            return [(f"{block}.ssm_a", -np.exp(value).reshape(heads, 1))]
        case "D":
            return [(f"{block}.ssm_d", value.reshape(heads, 1))]
        case "dt_bias":
            return [(f"{block}.ssm_dt.bias", value)]
        case "conv1d.weight":
            return [(f"{block}.ssm_conv1d.weight", value.squeeze(1))]
        case "norm.weight":
            return [(f"{block}.ssm_norm.weight", value.reshape(groups, -1))]
    names = {"in_proj.weight": "ssm_in.weight", "out_proj.weight": "ssm_out.weight"}
    return [(f"{block}.{names.get(part, 'ssm_conv1d.bias')}", value)]


def _delta_net(name: str, block: str, value: Array, config: Any) -> Tensors:
    """Heads of the values go from grouped by their key to taking turns."""
    part = name.split(".linear_attn.")[1].removesuffix(".weight")
    before = 2 * config.linear_num_key_heads * config.linear_key_head_dim

    def turned(rows: Array) -> Array:
        keys, values = config.linear_num_key_heads, config.linear_num_value_heads
        grouped = rows.reshape(keys, values // keys, rows.shape[0] // values, *rows.shape[1:])
        return grouped.swapaxes(0, 1).reshape(rows.shape)

    match part:
        case "A_log":
            return [(f"{block}.ssm_a", turned(-np.exp(value)))]
        case "dt_bias":
            return [(f"{block}.ssm_dt.bias", turned(value))]
        case "norm":
            return [(f"{block}.ssm_norm.weight", value)]
        case "out_proj":
            return [(f"{block}.ssm_out.weight", turned(value.T).T)]
        case "in_proj_qkv" | "conv1d":
            value = value.squeeze(1) if part == "conv1d" else value
            kind = "ssm_conv1d" if part == "conv1d" else "attn_qkv"
            return [(f"{block}.{kind}.weight", np.concatenate([value[:before], turned(value[before:])]))]
    kinds = {"in_proj_z": "attn_gate", "in_proj_a": "ssm_alpha", "in_proj_b": "ssm_beta"}
    return [(f"{block}.{kinds[part]}.weight", turned(value))]
