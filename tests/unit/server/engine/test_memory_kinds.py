"""Prefix reuse where the cache is not one cell per token: a recurrent state, a sliding window."""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.engine_process import EngineProcess
from tests.tiny import vocabulary

WIDTH, INNER, STATE, TAPS, STEP_RANK, HEADS, LAYERS, WINDOW = 32, 64, 8, 4, 2, 2, 2, 16


def writer_of(path: Path, architecture: str) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
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


def finish(writer: gguf.GGUFWriter, shapes: dict[str, tuple[int, ...]]) -> None:
    """Random weights; shapes are (n_out, n_in)."""
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (vocabulary.SIZE, WIDTH), "output_norm.weight": (WIDTH,)} | shapes
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


def mamba(path: Path) -> Path:
    writer = writer_of(path, "mamba")
    writer.add_ssm_conv_kernel(TAPS)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(STEP_RANK)
    writer.add_head_count(0)
    writer.add_feed_forward_length(0)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {
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
    finish(writer, shapes)
    return path


def gemma2(path: Path) -> Path:
    writer = writer_of(path, "gemma2")
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_sliding_window(WINDOW)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        shapes |= {f"{block}{name}.weight": (WIDTH,) for name in norms}
        shapes |= {f"{block}attn_{name}.weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        shapes |= {f"{block}ffn_{name}.weight": (INNER, WIDTH) for name in ("gate", "up")}
        shapes[f"{block}ffn_down.weight"] = (WIDTH, INNER)
    finish(writer, shapes)
    return path


@pytest.mark.parametrize("write", [mamba, gemma2])
def test_reuse_changes_nothing(tmp_path: Path, write: object) -> None:
    assert callable(write)
    path = write(tmp_path / "model.gguf")
    dice = random.Random(1)
    known = [dice.randrange(3, 300) for _ in range(40)]
    prompts = [
        known[:keep] + [dice.randrange(3, 300) for _ in range(more)]
        for keep, more in ((40, 0), (40, 0), (40, 9), (30, 9), (10, 5), (39, 0), (40, 1))
    ]
    exact = {"flash_attention": False, "kv_type": "f32"}
    with EngineProcess(path, threads=1, parallel_sequences=3, context_tokens=128, **exact) as engine:
        alone = [
            engine.generate(p, max_tokens=12, ignore_eos=True, cache_prompt=False).tokens for p in prompts
        ]
        reused = [engine.generate(prompt, max_tokens=12, ignore_eos=True).tokens for prompt in prompts]
        assert reused == alone
        numbers = [engine.start(prompt, max_tokens=12, ignore_eos=True) for prompt in prompts * 3]
        assert [answer.tokens for answer in engine.wait(numbers)] == alone * 3
        first = engine.generate(prompts[3], max_tokens=12, ignore_eos=True)
        conversation = prompts[3] + first.tokens + [5]
        continued = engine.generate(conversation, max_tokens=3)
        assert continued.done.cached_tokens >= len(conversation) - 3, (
            "a conversation is continued, not repeated"
        )
        again = engine.generate(conversation, max_tokens=3, cache_prompt=False)
        assert continued.tokens == again.tokens
