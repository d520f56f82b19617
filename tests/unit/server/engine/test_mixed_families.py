"""Every supported architecture: two adapters, a blend and the base at once are what each is alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import tiny
from tests.lora import EMBEDDING, EXPERTS, FUSED, HEAD, LINEARS, random_lora
from tests.tiny import kinds
from tests.unit.server.engine.serving import assert_mixed, served

pytestmark = pytest.mark.timeout(120)  # an engine that goes round in circles
DENSE = (*LINEARS, *FUSED)
STATE = ("ssm_in", "ssm_x", "ssm_dt", "ssm_out")


@pytest.mark.parametrize("family", tiny.FAMILIES + tiny.MORE_FAMILIES)
def test_a_family(family: str, tmp_path: Path) -> None:
    model = tiny.make(family, tmp_path).gguf
    adapters = {
        "all": random_lora(model, tmp_path / "all.gguf", seed=1, rank=6, targets=DENSE, scale=2.0),
        "two": random_lora(model, tmp_path / "two.gguf", seed=2, rank=3, targets=("attn_output", "ffn_down")),
    }
    assert_mixed(served(model, adapters))


def test_a_sliding_window(tmp_path: Path) -> None:
    model = kinds.gemma2(tmp_path / "model.gguf")
    adapters = {
        "all": random_lora(model, tmp_path / "all.gguf", seed=1, rank=6),
        "two": random_lora(model, tmp_path / "two.gguf", seed=2, rank=3, targets=("attn_k", "ffn_up")),
    }
    assert_mixed(served(model, adapters))


@pytest.mark.parametrize("file_type", ["F16", "Q8_0", "Q4_K_M"])
def test_a_quantised_base(file_type: str, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512}
    model = tiny.make("qwen2", tmp_path, file_type=file_type, **sizes).gguf
    adapters = {
        key: random_lora(model, tmp_path / f"{key}.gguf", seed=rank, rank=rank, dtype=dtype)
        for key, rank, dtype in (("plain", 8, "F32"), ("half", 16, "F16"), ("eighth", 32, "Q8_0"))
    }
    assert_mixed(served(model, adapters, rough=file_type != "F16"))


def test_embeddings_and_heads(tmp_path: Path) -> None:
    model = tiny.make("llama", tmp_path, tie_word_embeddings=False).gguf
    everything = (*LINEARS, EMBEDDING, HEAD)
    adapters = {
        "plain": random_lora(model, tmp_path / "plain.gguf", seed=1),
        "head": random_lora(model, tmp_path / "head.gguf", seed=2, targets=(HEAD,)),
        "embedding": random_lora(model, tmp_path / "embedding.gguf", seed=3, targets=(EMBEDDING,), rank=2),
        "everything": random_lora(model, tmp_path / "all.gguf", seed=4, targets=everything, uneven=True),
    }
    assert_mixed(served(model, adapters))


def test_adapters_of_experts_run_alone(tmp_path: Path) -> None:
    model = kinds.mixture(tmp_path / "model.gguf")
    adapters = {
        "attention": random_lora(model, tmp_path / "attention.gguf", seed=1),
        "router": random_lora(model, tmp_path / "router.gguf", seed=2, targets=("ffn_gate_inp", "attn_v")),
        "experts": random_lora(model, tmp_path / "experts.gguf", seed=3, targets=(*EXPERTS, "attn_q")),
    }
    status = served(model, adapters)
    assert status.bank.alone.keys() == {"experts"}
    assert "_exps.weight" in status.bank.alone["experts"]
    assert {hot.key for hot in status.bank.hot} == {"attention", "router"}
    assert status.step.mixed_steps > 0


@pytest.mark.parametrize("write", [kinds.mamba, kinds.jamba])
def test_models_that_keep_a_state_are_served_in_turns(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    model = write(tmp_path / "model.gguf")
    adapters = {
        "all": random_lora(model, tmp_path / "all.gguf", seed=1, targets=(*LINEARS, *STATE)),
        "out": random_lora(model, tmp_path / "out.gguf", seed=2, targets=("ssm_out",), rank=3),
    }
    status = served(model, adapters)
    assert (status.bank.mixing, status.step.mixed_steps) == (False, 0)
    assert "state" in (status.bank.reason or "")
