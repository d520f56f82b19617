"""Engine options reach llama.cpp: seen in the logits, in what `Ready` says, and in the memory taken."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import transformers
from numpy.typing import NDArray
from tests import tiny
from tests.engine_process import EngineDied, EngineProcess
from tests.tiny.speed_model import Shape, speed_model

from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.memory import need_of
from llamaleon_server.settings import EngineSettings

TRAINED, SEEN = 64, 160  # tokens
TOKENS = [int(token) for token in np.random.default_rng(0).integers(5, 200, SEEN)]
EXACT: dict[str, Any] = {
    "threads": 1,
    "context_tokens": 256,
    "flash_attention": False,
    "kv_type": "f32",
    "mixing": False,
    "parallel_sequences": 2,
}
Logprobs = NDArray[np.float64]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tiny.TinyModel:
    return tiny.make("llama", tmp_path_factory.mktemp("llama"), max_position_embeddings=TRAINED)


@pytest.fixture(scope="module")
def plain(model: tiny.TinyModel) -> Logprobs:
    return served(model)


def served(model: tiny.TinyModel, **options: Any) -> Logprobs:
    """Log-probabilities of TOKENS after the first, (SEEN - 1,), in nats."""
    with EngineProcess(model.gguf, **{**EXACT, **options}) as engine:
        prompt = engine.generate(TOKENS, max_tokens=0, prompt_logprobs=0).prompt
    assert prompt is not None
    return np.array([math.nan if token.logprob is None else token.logprob for token in prompt[1:]])


def reference(model: tiny.TinyModel, **rope: Any) -> Logprobs:
    """The same, by transformers."""
    config = transformers.AutoConfig.from_pretrained(model.hf_dir)
    config.rope_parameters = {**config.rope_parameters, **rope}
    config.max_position_embeddings = int(TRAINED * rope.get("factor", 1))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        model.hf_dir, config=config, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        rows = torch.log_softmax(loaded(torch.tensor([TOKENS])).logits[0], -1)
    return np.array([rows[at, token].item() for at, token in enumerate(TOKENS[1:])])


@pytest.mark.parametrize(
    ("options", "rope"),
    [
        (
            {"rope_scaling": "yarn", "rope_freq_scale": 0.25, "yarn_orig_ctx": TRAINED},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED},
        ),
        (
            {
                "rope_scaling": "yarn",
                "rope_freq_scale": 0.25,
                "yarn_orig_ctx": TRAINED,
                "yarn_beta_fast": 16.0,
                "yarn_beta_slow": 2.0,
            },
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": TRAINED,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
            },
        ),
        ({"rope_scaling": "linear", "rope_freq_scale": 0.5}, {"rope_type": "linear", "factor": 2.0}),
        ({"rope_freq_base": 50000.0}, {"rope_theta": 50000.0}),
    ],
    ids=["yarn", "yarn with its betas", "linear", "base frequency"],
)
def test_rope_is_what_transformers_computes(
    model: tiny.TinyModel, plain: Logprobs, options: dict[str, Any], rope: dict[str, Any]
) -> None:
    """Also beyond the context that was trained. (llama-server's logits agree to 7e-7, measured by hand.)"""
    found = served(model, **options)
    assert np.abs(found - reference(model, **rope)).max() < 1e-4
    assert np.abs(found - plain)[TRAINED:].max() > 0.1


def test_yarns_other_factors_change_the_logits(model: tiny.TinyModel) -> None:
    """llama.cpp takes the attention's factor only where nothing is extrapolated."""
    yarn = {"rope_scaling": "yarn", "rope_freq_scale": 0.25, "yarn_orig_ctx": TRAINED}
    plain, factor = served(model, **yarn), {**yarn, "yarn_ext_factor": 0.0}
    without = served(model, **factor)
    assert np.abs(without - plain).max() > 0.01
    assert np.abs(served(model, **factor, yarn_attn_factor=1.5) - without).max() > 0.01


def test_cache_types_of_keys_and_values(tmp_path: Path) -> None:
    """Each kind rounds differently: the fewer bits, the more."""
    model = tiny.make("llama", tmp_path, hidden_size=128)  # heads of 32, the blocks of quantised types
    plain = served(model)
    errors = {}
    for kinds in (("f16", "f16"), ("q8_0", "f32"), ("f32", "q8_0"), ("q4_0", "q4_0")):
        options = {"kv_type_k": kinds[0], "kv_type_v": kinds[1], "flash_attention": None}
        with EngineProcess(model.gguf, **{**EXACT, **options}) as engine:
            assert (engine.ready.kv_type_k, engine.ready.kv_type_v) == kinds
        errors[kinds] = np.abs(served(model, **options) - plain).max()
    assert 0 < errors["f16", "f16"] < errors["q8_0", "f32"] < errors["q4_0", "q4_0"]
    assert 0 < errors["f32", "q8_0"] < errors["q4_0", "q4_0"]
    with pytest.raises(EngineDied, match="kv_type_v q8_0 needs flash attention"):
        EngineProcess(model.gguf, **{**EXACT, "kv_type_v": "q8_0"})


def test_what_was_chosen_and_why_is_said(model: tiny.TinyModel) -> None:
    with EngineProcess(model.gguf, threads=1, mixing=False) as engine:
        ready = engine.ready
    assert ready.context_tokens == TRAINED, "all that the model was trained for fits"
    assert "GB are free" in ready.automatic["context_tokens"]
    assert ready.flash_attention is True
    with EngineProcess(model.gguf, threads=1, mixing=False, rope_freq_scale=0.25) as engine:
        assert engine.ready.context_tokens == 4 * TRAINED, "stretched, it is good for more"
        assert engine.ready.rope == {"rope_freq_scale": 0.25}
    with EngineProcess(model.gguf, threads=1, mixing=False, least_context_tokens=300) as engine:
        assert engine.ready.context_tokens == TRAINED, "nobody's wish makes it good for more"
    options: dict[str, Any] = {"context_tokens": 100, "kv_tokens": 700, "batch_tokens": 40}
    options["flash_attention"] = False
    with EngineProcess(model.gguf, threads=2, mixing=False, **options) as engine:
        ready = engine.ready
    assert (ready.context_tokens, ready.kv_tokens, ready.batch_tokens, ready.threads) == (100, 768, 40, 2)
    assert (ready.automatic, ready.flash_attention) == ({}, False)


def test_a_request_may_be_limited_to_less_context(model: tiny.TinyModel) -> None:
    with EngineProcess(model.gguf, **EXACT) as engine:
        whole = engine.generate(TOKENS[:20], max_tokens=None, ignore_eos=True, context_tokens=50)
        assert whole.done.reason == "length"
        assert whole.done.prompt_tokens + whole.done.completion_tokens == 50
        failed = engine.generate(TOKENS[:60], max_tokens=5, context_tokens=50).failed
    assert failed is not None
    assert failed.code == "context_length_exceeded"
    assert "holds 50 tokens" in failed.message


@pytest.mark.parametrize("kv_tokens", [4096, 65536])
def test_the_estimate_before_loading_is_near_what_is_taken(tmp_path: Path, kv_tokens: int) -> None:
    shape = Shape(hidden=512, layers=8, ffn=1024, heads=8, kv_heads=4, vocabulary=2048, context=4096)
    registry = Registry.open(tmp_path / "home")
    base = registry.add_base(speed_model(tmp_path / "medium.gguf", shape))
    registry.close()
    settings = EngineSettings(kv_tokens=kv_tokens, context_tokens=2048, parallel_sequences=4)
    need = need_of(base, settings)
    options = {"kv_tokens": kv_tokens, "context_tokens": 2048, "parallel_sequences": 4, "use_mmap": False}
    with EngineProcess(base.path, **options) as engine:
        engine.generate(TOKENS, max_tokens=2)
        taken = psutil.Process(engine.process.pid).memory_info().rss
        assert abs(engine.ready.kv_bytes - need.cache) < 0.02 * need.cache
    print(f"needed {need}, taken {taken / 1e6:.0f} MB")
    assert 0.75 < need.total / taken < 1.5
