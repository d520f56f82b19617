"""Tiny random mixtures of experts, each with what its family has beside them; shapes are (n_out, n_in)."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import vocabulary
from tests.tiny.hybrids import (
    DENSE,
    EXPERT_FFN,
    EXPERTS,
    FFN,
    HEAD,
    HEADS,
    KV_HEADS,
    WIDTH,
    experts,
    shared_expert,
)
from tests.tiny.kinds import Keys, Shapes, attention, feed_forward, write

BLOCKS = ("blk.0.", "blk.1.")
MIXTURE: Keys = DENSE | {
    "expert_count": EXPERTS,
    "expert_used_count": 2,
    "expert_feed_forward_length": EXPERT_FFN,
}
HEAD_ROWS: Shapes = {"output.weight": (vocabulary.SIZE, WIDTH)}


def _block(block: str) -> Shapes:
    shapes = attention(block, WIDTH, HEADS * HEAD, KV_HEADS * HEAD, HEADS * HEAD)
    return shapes | {f"{block}{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}


def _biases(block: str) -> Shapes:
    queries, keys = HEADS * HEAD, KV_HEADS * HEAD
    return {
        f"{block}attn_q.bias": (queries,),
        f"{block}attn_k.bias": (keys,),
        f"{block}attn_v.bias": (keys,),
    }


def mixtral(path: Path) -> Path:
    """Llama's architecture with experts."""
    keys = MIXTURE | {"feed_forward_length": EXPERT_FFN, "rope.dimension_count": HEAD}
    shapes: Shapes = {}
    for block in BLOCKS:
        shapes |= _block(block) | experts(block)
    return write(path, "llama", keys, shapes, width=WIDTH, layers=2)


def granite_moe(path: Path) -> Path:
    keys = MIXTURE | {
        "feed_forward_length": EXPERT_FFN,
        "attention.scale": 0.125,
        "embedding_scale": 6.0,
        "residual_scale": 0.5,
        "logit_scale": 4.0,
        "expert_shared_feed_forward_length": EXPERT_FFN,
    }
    shapes: Shapes = {}
    for block in BLOCKS:
        shapes |= _block(block) | experts(block) | shared_expert(block)
    return write(path, "granitemoe", keys, shapes, width=WIDTH, layers=2)


def qwen2_moe(path: Path) -> Path:
    keys = MIXTURE | {"expert_shared_feed_forward_length": FFN}
    shapes = dict(HEAD_ROWS)
    for block in BLOCKS:
        shapes |= _block(block) | _biases(block) | experts(block) | shared_expert(block, inner=FFN)
        shapes |= {f"{block}ffn_gate_inp_shexp.weight": (WIDTH,)}
    return write(path, "qwen2moe", keys, shapes, width=WIDTH, layers=2)


def olmoe(path: Path) -> Path:
    """Its norms of queries and keys span all heads."""
    keys = MIXTURE | {"feed_forward_length": EXPERT_FFN, "attention.head_count_kv": HEADS}
    shapes = dict(HEAD_ROWS)
    for block in BLOCKS:
        shapes |= _block(block) | experts(block)
        shapes |= {f"{block}attn_{part}.weight": (WIDTH, WIDTH) for part in ("k", "v")}
        shapes |= {f"{block}attn_{part}_norm.weight": (WIDTH,) for part in ("q", "k")}
    return write(path, "olmoe", keys, shapes, width=WIDTH, layers=2)


def gpt_oss(path: Path) -> Path:
    """Sinks, biases everywhere, a sliding window in every other layer."""
    keys = MIXTURE | {"attention.sliding_window": 16, "rope.dimension_count": HEAD}
    shapes = dict(HEAD_ROWS)
    for block in BLOCKS:
        shapes |= _block(block) | _biases(block) | experts(block)
        del shapes[f"{block}ffn_norm.weight"]
        shapes |= {
            f"{block}post_attention_norm.weight": (WIDTH,),
            f"{block}attn_output.bias": (WIDTH,),
            f"{block}attn_sinks.weight": (HEADS,),
            f"{block}ffn_gate_inp.bias": (EXPERTS,),
            f"{block}ffn_gate_exps.bias": (EXPERTS, EXPERT_FFN),
            f"{block}ffn_up_exps.bias": (EXPERTS, EXPERT_FFN),
            f"{block}ffn_down_exps.bias": (EXPERTS, WIDTH),
        }
    return write(path, "gpt-oss", keys, shapes, width=WIDTH, layers=2)


def deepseek2(path: Path) -> Path:
    """Multi-head latent attention: the cache holds one compressed row a token; the first layer is dense."""
    query_rank, rank, turned, plain, value = 16, 32, 8, 16, 16
    keys = MIXTURE | {
        "attention.head_count_kv": 1,
        "attention.key_length": rank + turned,
        "attention.value_length": rank,
        "attention.key_length_mla": plain + turned,
        "attention.value_length_mla": value,
        "attention.q_lora_rank": query_rank,
        "attention.kv_lora_rank": rank,
        "rope.dimension_count": turned,
        "leading_dense_block_count": 1,
        "expert_shared_count": 1,
        "expert_gating_func": 2,  # sigmoid
        "expert_weights_scale": 1.5,
        "expert_weights_norm": True,
    }
    shapes = dict(HEAD_ROWS)
    for block in BLOCKS:
        shapes |= {f"{block}{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {
            f"{block}attn_q_a.weight": (query_rank, WIDTH),
            f"{block}attn_q_a_norm.weight": (query_rank,),
            f"{block}attn_q_b.weight": (HEADS * (plain + turned), query_rank),
            f"{block}attn_kv_a_mqa.weight": (rank + turned, WIDTH),
            f"{block}attn_kv_a_norm.weight": (rank,),
            f"{block}attn_k_b.weight": (HEADS, rank, plain),
            f"{block}attn_v_b.weight": (HEADS, value, rank),
            f"{block}attn_output.weight": (WIDTH, HEADS * value),
        }
    shapes |= feed_forward("blk.0.", WIDTH, FFN)
    shapes |= experts("blk.1.") | shared_expert("blk.1.") | {"blk.1.exp_probs_b.bias": (EXPERTS,)}
    return write(path, "deepseek2", keys, shapes, width=WIDTH, layers=2)
