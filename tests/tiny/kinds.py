"""Tiny random models whose memory or layers are not those of a plain transformer, written without torch.

mamba(path)     a recurrent state instead of a cache
jamba(path)     both: a recurrent layer, then attention
mixture(path)   Qwen3 with experts
gemma2(path)    a sliding window

More families are in `hybrids` and `mixtures`.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests.tiny import vocabulary

WIDTH, INNER, STATE, TAPS, STEP_RANK, HEADS, LAYERS, WINDOW, EXPERTS = 32, 64, 8, 4, 2, 2, 2, 16, 4
Shapes = dict[str, tuple[int, ...]]
Keys = dict[str, bool | int | float | list[int]]  # of a header, without the architecture before them


def mamba(path: Path) -> Path:
    writer = _writer(path, "mamba")
    _add_state_sizes(writer)
    writer.add_head_count(0)
    writer.add_feed_forward_length(0)
    shapes: Shapes = {}
    for layer in range(LAYERS):
        shapes |= _recurrent(f"blk.{layer}.")
    return _finish(writer, path, {"output_norm.weight": (WIDTH,)} | shapes)


def jamba(path: Path) -> Path:
    writer = _writer(path, "jamba")
    _add_state_sizes(writer)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([0, HEADS])
    writer.add_feed_forward_length(INNER)
    shapes = _recurrent("blk.0.") | _square_attention("blk.1.")
    shapes |= {"blk.0.ssm_dt_norm.weight": (STEP_RANK,)}
    shapes |= {f"blk.0.ssm_{part}_norm.weight": (STATE,) for part in ("b", "c")}
    for layer in range(LAYERS):
        shapes |= feed_forward(f"blk.{layer}.") | {f"blk.{layer}.ffn_norm.weight": (WIDTH,)}
    return _finish(writer, path, {"output_norm.weight": (WIDTH,)} | shapes)


def mixture(path: Path) -> Path:
    writer = _writer(path, "qwen3moe")
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_feed_forward_length(INNER)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_expert_feed_forward_length(WIDTH)
    shapes: Shapes = {}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= _square_attention(block) | {block + "ffn_norm.weight": (WIDTH,)}
        shapes |= {f"{block}attn_{part}_norm.weight": (WIDTH // HEADS,) for part in ("q", "k")}
        shapes |= {block + "ffn_gate_inp.weight": (EXPERTS, WIDTH)}
        shapes |= {
            f"{block}ffn_{part}_exps.weight": (EXPERTS, WIDTH, WIDTH) for part in ("gate", "up", "down")
        }
    return _finish(writer, path, {"output_norm.weight": (WIDTH,)} | shapes)


def gemma2(path: Path) -> Path:
    writer = _writer(path, "gemma2")
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_sliding_window(WINDOW)
    shapes: Shapes = {}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= _square_attention(block) | feed_forward(block)
        shapes |= {
            f"{block}{name}.weight": (WIDTH,) for name in ("post_attention_norm", "ffn_norm", "post_ffw_norm")
        }
    return _finish(writer, path, {"output_norm.weight": (WIDTH,)} | shapes)


def _writer(path: Path, architecture: str, width: int = WIDTH, layers: int = LAYERS) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    tokens = vocabulary.tokens()
    control = [vocabulary.is_control(token) for token in tokens]
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if c else gguf.TokenType.NORMAL for c in control])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges()])
    writer.add_eos_token_id(vocabulary.END_OF_TURN)
    return writer


def _add_state_sizes(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(TAPS)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(STEP_RANK)


def _recurrent(block: str) -> Shapes:
    return {
        block + "attn_norm.weight": (WIDTH,),
        block + "ssm_in.weight": (2 * INNER, WIDTH),
        block + "ssm_conv1d.weight": (INNER, TAPS),
        block + "ssm_conv1d.bias": (INNER,),
        block + "ssm_x.weight": (STEP_RANK + 2 * STATE, INNER),
        block + "ssm_dt.weight": (INNER, STEP_RANK),
        block + "ssm_dt.bias": (INNER,),
        block + "ssm_a": (INNER, STATE),
        block + "ssm_d": (INNER,),
        block + "ssm_out.weight": (WIDTH, INNER),
    }


def _square_attention(block: str) -> Shapes:
    return attention(block, WIDTH, WIDTH, WIDTH, WIDTH) | {block + "attn_norm.weight": (WIDTH,)}


def attention(block: str, width: int, queries: int, keys: int, values: int) -> Shapes:
    """Projections from `width`, and back from `values`."""
    return {
        f"{block}attn_q.weight": (queries, width),
        f"{block}attn_k.weight": (keys, width),
        f"{block}attn_v.weight": (keys, width),
        f"{block}attn_output.weight": (width, values),
    }


def feed_forward(block: str, width: int = WIDTH, inner: int = INNER, suffix: str = "") -> Shapes:
    shapes: Shapes = {f"{block}ffn_{part}{suffix}.weight": (inner, width) for part in ("gate", "up")}
    return shapes | {f"{block}ffn_down{suffix}.weight": (width, inner)}


def write(
    path: Path,
    architecture: str,
    keys: Keys,
    shapes: Shapes,
    *,
    width: int,
    layers: int,
    final_norm: str | None = "output_norm.weight",
) -> Path:
    """A model of any architecture, with the vocabulary of all of these."""
    writer = _writer(path, architecture, width, layers)
    for key, value in keys.items():
        name = f"{architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_array(name, value)
    return _finish(writer, path, shapes if final_norm is None else {final_norm: (width,)} | shapes, width)


def _finish(writer: gguf.GGUFWriter, path: Path, shapes: Shapes, width: int = WIDTH) -> Path:
    """Random weights; shapes are (n_out, n_in)."""
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (vocabulary.SIZE, width)} | shapes
    for name, shape in shapes.items():
        values = rng.standard_normal(shape) * 2 * shape[-1] ** -0.5
        if name.endswith("norm.weight"):
            values = np.ones(shape)
        elif name.endswith("ssm_a"):
            values = -np.abs(values) - 0.1
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
