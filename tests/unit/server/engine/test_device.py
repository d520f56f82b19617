"""What a GPU asks of the engine, on a device that every machine has: see tests/device_engine.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import tiny
from tests.device_engine import DEVICES, rpc_library
from tests.engine_process import EngineProcess
from tests.lora import EMBEDDING, EXPERTS, HEAD, LINEARS, random_lora
from tests.tiny import hybrids, kinds, mixtures
from tests.tiny.speed_model import SMALL, speed_model
from tests.unit.server.engine.serving import EXACT, assert_mixed, served

from llamaleon_server.engine.protocol import Failed, LoadAdapter

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(rpc_library() is None, reason="needs a llama.cpp that was built with GGML_RPC"),
]


class OnDevice(EngineProcess):
    module = "tests.device_engine"


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    return tiny.make("qwen2", tmp_path).gguf


def two_adapters(model: Path, directory: Path) -> dict[str, Path]:
    return {
        "all": random_lora(model, directory / "all.gguf", seed=1, rank=6, targets=LINEARS, scale=2.0),
        "two": random_lora(model, directory / "two.gguf", seed=2, rank=3, targets=("attn_q", "ffn_down")),
    }


def test_all_layers_go_there(qwen: Path) -> None:
    with OnDevice(qwen, **EXACT) as engine:
        ready = engine.ready
        assert (ready.gpu_layers, len(ready.gpus)) == (3, 1)
        assert ready.device == ready.gpus[0].name != "CPU"


@pytest.mark.parametrize("layers", [None, 1], ids=["whole", "a part"])
def test_many_adapters_in_one_pass(qwen: Path, tmp_path: Path, layers: int | None) -> None:
    """Products are multiplied where they lie, on the device or in the host's memory."""
    assert_mixed(served(qwen, two_adapters(qwen, tmp_path), process=OnDevice, gpu_layers=layers))


def test_embeddings_and_heads(tmp_path: Path) -> None:
    """The embedding stays with the processor, all else is on the device."""
    model = tiny.make("llama", tmp_path, tie_word_embeddings=False).gguf
    adapters = {
        "plain": random_lora(model, tmp_path / "plain.gguf", seed=1),
        "embedding": random_lora(model, tmp_path / "embedding.gguf", seed=3, targets=(EMBEDDING,), rank=2),
        "everything": random_lora(
            model, tmp_path / "all.gguf", seed=4, targets=(*LINEARS, EMBEDDING, HEAD), uneven=True
        ),
    }
    assert_mixed(served(model, adapters, process=OnDevice))


def test_adapters_of_the_last_matrix_before_the_device(tmp_path: Path) -> None:
    """llama.cpp would copy them there in every pass, and does not show where it has them."""
    model = tiny.make("qwen2", tmp_path, num_hidden_layers=1).gguf
    adapters = {
        name: random_lora(model, tmp_path / f"{name}.gguf", seed=seed, targets=("ffn_down",), scale=4.0)
        for seed, name in enumerate(("one", "other"))
    }
    assert_mixed(served(model, adapters, process=OnDevice, gpu_layers=1))


@pytest.mark.parametrize("write", [kinds.mamba, hybrids.lfm2])
def test_a_blend_where_passes_are_split_by_sequence(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    """How many rows a product has is then known only when it is computed."""
    model = write(tmp_path / "model.gguf")
    status = served(model, two_adapters_of_a_state(model, tmp_path), process=OnDevice)
    assert not status.bank.mixing


def two_adapters_of_a_state(model: Path, directory: Path) -> dict[str, Path]:
    targets = (*LINEARS, "ssm_in", "ssm_out")
    return {
        name: random_lora(model, directory / f"{name}.gguf", seed=seed, targets=targets)
        for seed, name in enumerate(("one", "other"))
    }


def test_adapters_of_experts_run_alone(tmp_path: Path) -> None:
    model = kinds.mixture(tmp_path / "model.gguf")
    adapters = {
        "attention": random_lora(model, tmp_path / "attention.gguf", seed=1),
        "experts": random_lora(model, tmp_path / "experts.gguf", seed=3, targets=(*EXPERTS, "attn_q")),
    }
    assert served(model, adapters, process=OnDevice).bank.alone.keys() == {"experts"}


def test_a_model_split_over_two(qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICES, "2")
    assert_mixed(served(qwen, two_adapters(qwen, tmp_path), process=OnDevice))


def test_a_state_split_over_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICES, "2")
    model = kinds.mamba(tmp_path / "model.gguf")
    assert not served(model, two_adapters_of_a_state(model, tmp_path), process=OnDevice).bank.mixing


def test_one_of_two(qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test runs where the model will."""
    monkeypatch.setenv(DEVICES, "2")
    options: dict[str, Any] = {"split_mode": "none", "main_gpu": 1}
    assert_mixed(served(qwen, two_adapters(qwen, tmp_path), process=OnDevice, **options))


def test_what_the_graph_ignores_is_refused(tmp_path: Path) -> None:
    """And only that: the graph runs in parts, whose nodes are shown one part after the other."""
    model = mixtures.deepseek2(tmp_path / "model.gguf")
    ignored = random_lora(model, tmp_path / "ignored.gguf", seed=1, targets=("attn_q_a",))
    with OnDevice(model, **EXACT) as engine:
        answer = engine.try_ask(LoadAdapter, key="ignored", path=str(ignored))
        assert isinstance(answer, Failed)
        assert (answer.code, "attn_q_a" in answer.message) == ("adapter_refused", True)


def test_prefixes_move_to_ram_and_back(tmp_path: Path) -> None:
    model = speed_model(tmp_path / "small.gguf", SMALL)
    dice = random.Random(5)
    prompts = [[dice.randrange(300, 8000) for _ in range(300)] for _ in range(3)]
    options: dict[str, Any] = {**EXACT, "context_tokens": 512, "speculation": False}
    with OnDevice(model, **options, parallel_sequences=4) as engine:
        engine.generate(prompts[0], max_tokens=1, ignore_eos=True)
        there = engine.generate(prompts[0], max_tokens=16, ignore_eos=True)
        for prompt in prompts[1:]:
            engine.generate(prompt, max_tokens=1, ignore_eos=True)
        back = engine.generate(prompts[0], max_tokens=16, ignore_eos=True)
        assert (engine.status.prefix.restored, back.done.cached_tokens) == (1, 299)
        assert back.tokens == there.tokens
