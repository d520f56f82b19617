"""Tiny random models of the families that keep a state, alone or beside attention, written without torch.

Each function writes one architecture of llama.cpp's with all of its parts. Shapes are (n_out, n_in).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.tiny.kinds import Keys, Shapes, attention, feed_forward, write

WIDTH, HEADS, KV_HEADS, HEAD, FFN = 64, 2, 1, 32, 96
STATE, TAPS, GROUPS, STEPS = 16, 4, 2, 4  # of Mamba 2; STEPS is the number of its heads
INNER = 2 * WIDTH
EXPERTS, EXPERT_FFN = 4, 32

SSM: Keys = {
    "ssm.conv_kernel": TAPS,
    "ssm.inner_size": INNER,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": STEPS,
    "ssm.group_count": GROUPS,
}
DENSE: Keys = {
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "feed_forward_length": FFN,
}


def _norms(block: str, *names: str, width: int = WIDTH) -> Shapes:
    return {f"{block}{name}.weight": (width,) for name in names}


def _attention(block: str, queries: int = HEADS * HEAD) -> Shapes:
    return attention(block, WIDTH, queries, KV_HEADS * HEAD, HEADS * HEAD)


def _mamba2(block: str) -> Shapes:
    mixed = INNER + 2 * GROUPS * STATE
    return {
        f"{block}ssm_in.weight": (INNER + mixed + STEPS, WIDTH),
        f"{block}ssm_conv1d.weight": (mixed, TAPS),
        f"{block}ssm_conv1d.bias": (mixed,),
        f"{block}ssm_dt.bias": (STEPS,),
        f"{block}ssm_a": (STEPS, 1),
        f"{block}ssm_d": (STEPS, 1),
        f"{block}ssm_norm.weight": (GROUPS, INNER // GROUPS),
        f"{block}ssm_out.weight": (WIDTH, INNER),
    }


def experts(block: str, width: int = WIDTH, inner: int = EXPERT_FFN) -> Shapes:
    """The router and the experts' gates, ups and downs."""
    return {
        f"{block}ffn_gate_inp.weight": (EXPERTS, width),
        f"{block}ffn_gate_exps.weight": (EXPERTS, inner, width),
        f"{block}ffn_up_exps.weight": (EXPERTS, inner, width),
        f"{block}ffn_down_exps.weight": (EXPERTS, width, inner),
    }


def shared_expert(block: str, width: int = WIDTH, inner: int = EXPERT_FFN) -> Shapes:
    return feed_forward(block, width, inner, suffix="_shexp")


def mamba2(path: Path) -> Path:
    shapes: Shapes = {}
    for block in ("blk.0.", "blk.1."):
        shapes |= _norms(block, "attn_norm") | _mamba2(block)
    return write(
        path,
        "mamba2",
        SSM | {"attention.head_count": 0, "feed_forward_length": 0},
        shapes,
        width=WIDTH,
        layers=2,
    )


def granite_hybrid(path: Path) -> Path:
    """Granite 4 H: Mamba 2 and attention without positions, a mixture and a shared expert after each."""
    attends = (False, True, False)
    keys = SSM | {
        "attention.head_count": HEADS,
        "attention.head_count_kv": [KV_HEADS * one for one in attends],
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "attention.scale": 0.125,
        "embedding_scale": 6.0,
        "residual_scale": 0.5,
        "logit_scale": 4.0,
        "rope.scaling.finetuned": False,
        "feed_forward_length": EXPERT_FFN,
        "expert_count": EXPERTS,
        "expert_used_count": 2,
        "expert_shared_feed_forward_length": EXPERT_FFN,
    }
    shapes: Shapes = {}
    for number, attending in enumerate(attends):
        block = f"blk.{number}."
        shapes |= _norms(block, "attn_norm", "ffn_norm")
        shapes |= _attention(block) if attending else _mamba2(block)
        shapes |= experts(block) | shared_expert(block)
    return write(path, "granitehybrid", keys, shapes, width=WIDTH, layers=len(attends))


def falcon_h1(path: Path) -> Path:
    """Attention and Mamba 2 side by side in every layer."""
    shapes: Shapes = {}
    for block in ("blk.0.", "blk.1."):
        shapes |= _norms(block, "attn_norm") | {f"{block}ffn_norm": (WIDTH,)}
        shapes |= _mamba2(block) | _attention(block) | feed_forward(block, WIDTH, FFN)
    return write(path, "falcon-h1", SSM | DENSE, shapes, width=WIDTH, layers=2)


def nemotron_h(path: Path) -> Path:
    """One thing a layer: a state, attention, or a feed-forward net."""
    keys = SSM | {
        "attention.head_count": HEADS,
        "attention.head_count_kv": [0, KV_HEADS, 0],
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "attention.layer_norm_epsilon": 1e-5,
        "feed_forward_length": [0, 0, FFN],
    }
    shapes: Shapes = {}
    for number in range(3):
        shapes |= _norms(f"blk.{number}.", "attn_norm")
    shapes |= _mamba2("blk.0.") | _attention("blk.1.")
    shapes |= {"blk.2.ffn_up.weight": (FFN, WIDTH), "blk.2.ffn_down.weight": (WIDTH, FFN)}
    return write(path, "nemotron_h", keys, shapes, width=WIDTH, layers=3)


def _delta_net(block: str) -> Shapes:
    """Gated delta net: GROUPS heads of keys, STEPS of values, HEAD wide each."""
    keys, values = GROUPS * HEAD, STEPS * HEAD
    return {
        f"{block}attn_qkv.weight": (2 * keys + values, WIDTH),
        f"{block}attn_gate.weight": (values, WIDTH),
        f"{block}ssm_conv1d.weight": (2 * keys + values, TAPS),
        f"{block}ssm_dt.bias": (STEPS,),
        f"{block}ssm_a": (STEPS,),
        f"{block}ssm_norm.weight": (HEAD,),
        f"{block}ssm_out.weight": (WIDTH, values),
    }


def _delta_hybrid(path: Path, architecture: str, keys: Keys, more: Callable[[str, bool], Shapes]) -> Path:
    keys = DENSE | SSM | {"ssm.state_size": HEAD, "ssm.inner_size": STEPS * HEAD} | keys
    keys |= {"full_attention_interval": 2, "rope.dimension_count": HEAD // 2}
    shapes: Shapes = {}
    for number in range(2):
        block, recurrent = f"blk.{number}.", number == 0
        shapes |= _norms(block, "attn_norm", "post_attention_norm") | more(block, recurrent)
        if recurrent:
            shapes |= _delta_net(block)
        else:
            shapes |= _attention(block, 2 * HEADS * HEAD)  # the queries' gates too
            shapes |= _norms(block, "attn_q_norm", "attn_k_norm", width=HEAD)
    return write(path, architecture, keys, shapes, width=WIDTH, layers=2)


def qwen3next(path: Path) -> Path:
    def more(block: str, recurrent: bool) -> Shapes:
        shapes = experts(block) | shared_expert(block) | {f"{block}ffn_gate_inp_shexp.weight": (WIDTH,)}
        return shapes | ({f"{block}ssm_ba.weight": (2 * STEPS, WIDTH)} if recurrent else {})

    keys: Keys = {
        "expert_count": EXPERTS,
        "expert_used_count": 2,
        "expert_feed_forward_length": EXPERT_FFN,
        "expert_shared_feed_forward_length": EXPERT_FFN,
    }
    return _delta_hybrid(path, "qwen3next", keys, more)


def qwen35(path: Path) -> Path:
    def more(block: str, recurrent: bool) -> Shapes:
        gates = {f"{block}ssm_{name}.weight": (STEPS, WIDTH) for name in ("alpha", "beta")}
        return feed_forward(block, WIDTH, FFN) | (gates if recurrent else {})

    return _delta_hybrid(path, "qwen35", {"rope.dimension_sections": [4, 2, 2, 0]}, more)


def lfm2(path: Path) -> Path:
    """Short convolutions, then attention."""
    keys = DENSE | {"shortconv.l_cache": 3, "attention.head_count_kv": [0, KV_HEADS, 0]}
    shapes: Shapes = {"token_embd_norm.weight": (WIDTH,)}
    for number in range(3):
        block = f"blk.{number}."
        shapes |= _norms(block, "attn_norm", "ffn_norm") | feed_forward(block, WIDTH, FFN)
        if number == 1:
            shapes |= _attention(block) | _norms(block, "attn_q_norm", "attn_k_norm", width=HEAD)
        else:
            shapes |= {
                f"{block}shortconv.conv.weight": (WIDTH, 3),
                f"{block}shortconv.in_proj.weight": (3 * WIDTH, WIDTH),
                f"{block}shortconv.out_proj.weight": (WIDTH, WIDTH),
            }
    return write(path, "lfm2", keys, shapes, width=WIDTH, layers=3, final_norm=None)


def rwkv7(path: Path) -> Path:
    rank = 8
    keys: Keys = {
        "wkv.head_size": WIDTH,  # as all have it: llama.cpp computes 64 at a time
        "token_shift_count": 2,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.head_count": 0,
        "feed_forward_length": FFN,
    }
    keys |= {f"attention.{name}_lora_rank": rank for name in ("decay", "iclr", "value_residual_mix", "gate")}
    shapes: Shapes = {"output.weight": (336, WIDTH), "output_norm.bias": (WIDTH,)}
    shapes |= {f"token_embd_norm.{part}": (WIDTH,) for part in ("weight", "bias")}
    for block in ("blk.0.", "blk.1."):
        shapes |= {
            f"{block}{name}.{part}": (WIDTH,)
            for name in ("attn_norm", "attn_norm_2", "time_mix_ln")
            for part in ("weight", "bias")
        }
        for name in ("w", "a", "v", "g"):
            shapes |= {f"{block}time_mix_{name}0.weight": (WIDTH,)} if name != "g" else {}
            shapes |= {f"{block}time_mix_{name}1.weight": (rank, WIDTH)}
            shapes |= {f"{block}time_mix_{name}2.weight": (WIDTH, rank)}
        shapes |= _norms(block, "time_mix_k_k", "time_mix_k_a", "time_mix_r_k")
        shapes |= {
            f"{block}time_mix_{name}.weight": (WIDTH, WIDTH)
            for name in ("key", "value", "receptance", "output")
        }
        shapes |= {
            f"{block}time_mix_lerp_fused.weight": (6, 1, 1, WIDTH),
            f"{block}channel_mix_lerp_k.weight": (1, 1, WIDTH),
            f"{block}channel_mix_key.weight": (FFN, WIDTH),
            f"{block}channel_mix_value.weight": (WIDTH, FFN),
        }
    return write(path, "rwkv7", keys, shapes, width=WIDTH, layers=2)
