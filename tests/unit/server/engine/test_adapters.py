"""Adapters through a real engine: nobody's answer depends on who else is being served."""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.engine_process import EngineProcess
from tests.lora import random_lora

from llamaleon_server.engine.protocol import (
    AdapterUse,
    Failed,
    LoadAdapter,
    Reply,
    UnloadAdapter,
)

PROMPTS = (
    "Once upon a time",
    "Lily and Tom went to the park. They",
    "The big red ball was",
    "One day, a little dog",
)
MIXES: tuple[tuple[AdapterUse, ...], ...] = (
    (),
    (AdapterUse("a"),),
    (AdapterUse("b"),),
    (AdapterUse("c", 0.5),),
    (AdapterUse("a", 0.7), AdapterUse("b", 0.3)),
)


def alone(engine: EngineProcess, prompt: str, uses: tuple[AdapterUse, ...]) -> list[int]:
    answer = engine.generate(prompt, adapters=uses, max_tokens=24, cache_prompt=False)
    assert answer.done.cached_tokens == 0
    return answer.tokens


@pytest.fixture(scope="module")
def expected(engine: EngineProcess) -> dict[tuple[str, tuple[AdapterUse, ...]], list[int]]:
    """What each prompt gives under each set of adapters with nobody else there and nothing cached."""
    return {(prompt, uses): alone(engine, prompt, uses) for prompt in PROMPTS for uses in MIXES}


def test_adapters_differ_from_the_base_and_from_each_other(
    expected: dict[tuple[str, tuple[AdapterUse, ...]], list[int]],
) -> None:
    answers = [tuple(expected[PROMPTS[0], uses]) for uses in MIXES]
    assert len(set(answers)) == len(MIXES)


def test_a_b_a_equals_a_alone(
    engine: EngineProcess, expected: dict[tuple[str, tuple[AdapterUse, ...]], list[int]]
) -> None:
    for uses in (MIXES[1], MIXES[2], MIXES[1], MIXES[0], MIXES[1]):
        answer = engine.generate(PROMPTS[0], adapters=uses, max_tokens=24)
        assert answer.tokens == expected[PROMPTS[0], uses]


@pytest.mark.parametrize("seed", range(3))
def test_random_interleavings_change_nothing(
    engine: EngineProcess, expected: dict[tuple[str, tuple[AdapterUse, ...]], list[int]], seed: int
) -> None:
    dice = random.Random(seed)
    jobs = [(dice.choice(PROMPTS), dice.choice(MIXES)) for _ in range(24)]
    open_requests: list[tuple[int, tuple[str, tuple[AdapterUse, ...]]]] = []
    for prompt, uses in jobs:
        for _ in range(dice.randrange(3)):
            if open_requests:
                engine.receive() if engine.answers[open_requests[-1][0]].finish is None else None
        number = engine.start(prompt, adapters=uses, max_tokens=24, cache_prompt=dice.random() < 0.7)
        open_requests.append((number, (prompt, uses)))
    engine.wait([number for number, _ in open_requests])
    for number, job in open_requests:
        assert engine.answers[number].tokens == expected[job], job


def test_a_cached_prefix_is_not_shared_across_adapters_or_weights(engine: EngineProcess) -> None:
    prompt = [7, 400, 301, 302, 303, 304, 305, 306]  # begins like no other prompt here
    engine.generate(prompt, adapters=(AdapterUse("a"),), max_tokens=2)
    again = engine.generate(prompt, adapters=(AdapterUse("a"),), max_tokens=2)
    assert again.done.cached_tokens == again.done.prompt_tokens - 1
    for uses in ((), (AdapterUse("a", 0.9),), (AdapterUse("b"),)):
        assert engine.generate(prompt, adapters=uses, max_tokens=2).done.cached_tokens == 0


def test_weight_zero_is_the_base_and_order_does_not_matter(
    engine: EngineProcess, expected: dict[tuple[str, tuple[AdapterUse, ...]], list[int]]
) -> None:
    assert alone(engine, PROMPTS[1], (AdapterUse("a", 0.0),)) == expected[PROMPTS[1], ()]
    assert alone(engine, PROMPTS[1], tuple(reversed(MIXES[4]))) == expected[PROMPTS[1], MIXES[4]]


def test_an_unknown_adapter_fails_only_its_request(engine: EngineProcess) -> None:
    answer = engine.generate("x", adapters=(AdapterUse("nobody"),), max_tokens=2)
    assert answer.failed is not None
    assert answer.failed.code == "adapter_unknown"


def test_loading_twice_is_one_adapter(engine: EngineProcess, adapter_files: dict[str, Path]) -> None:
    loaded = engine.load("a", adapter_files["a"])
    assert (loaded.rank, loaded.tensors) == (4, 70)
    assert sorted(engine.status.adapters) == ["a", "b", "c"]


def test_an_adapter_is_unloaded_once_nobody_uses_it(
    engine: EngineProcess, stories: Path, tmp_path: Path
) -> None:
    path = random_lora(stories, tmp_path / "d.gguf", seed=9)
    engine.load("d", path)
    want = alone(engine, PROMPTS[0], (AdapterUse("d"),))
    number = engine.start(PROMPTS[0], adapters=(AdapterUse("d"),), max_tokens=300, ignore_eos=True)
    while engine.answers[number].deltas == 0:
        engine.receive()
    unload = engine.new_id()
    engine.send(UnloadAdapter(id=unload, key="d"))
    refused = engine.generate(PROMPTS[0], adapters=(AdapterUse("d"),), max_tokens=1)
    assert refused.failed is not None
    assert refused.failed.code == "adapter_unknown"
    assert unload not in engine.replies, "it is still in use"
    answer = engine.wait([number])[0]
    assert answer.done.completion_tokens == 300
    assert answer.tokens[:24] == want
    assert engine.wait_reply(unload) == Reply(id=unload)
    assert "d" not in engine.status.adapters
    engine.load("d", path)
    assert engine.generate(PROMPTS[0], adapters=(AdapterUse("d"),), max_tokens=24).tokens == want
    engine.ask(UnloadAdapter, key="d")


def test_unloading_what_is_not_loaded_is_no_error(engine: EngineProcess) -> None:
    assert isinstance(engine.try_ask(UnloadAdapter, key="never"), Reply)


def write_lora(path: Path, tensors: dict[str, np.ndarray], *, architecture: str = "llama") -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for name, values in tensors.items():
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def pair(target: str, n_in: int, n_out: int, rank: int = 4) -> dict[str, np.ndarray]:
    return {f"{target}.lora_a": np.ones((rank, n_in)), f"{target}.lora_b": np.ones((n_out, rank))}


REFUSED = {
    "ignored": (pair("blk.0.attn_norm.weight", 64, 1), "blk.0.attn_norm.weight.lora_a"),
    "norm": ({"blk.0.attn_norm.weight": np.ones(64)}, "blk.0.attn_norm.weight"),
    "shape": (pair("blk.1.attn_q.weight", 32, 64), "blk.1.attn_q.weight.lora_a"),
    "half": ({"blk.1.attn_q.weight.lora_a": np.ones((4, 64))}, "blk.1.attn_q.weight.lora_b"),
    "absent": (pair("blk.77.attn_q.weight", 64, 64), "blk.77.attn_q.weight"),
    "empty": ({}, "no tensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_does_not_fit_is_refused_by_name(
    engine: EngineProcess, tmp_path: Path, case: str
) -> None:
    tensors, named = REFUSED[case]
    path = write_lora(tmp_path / "bad.gguf", tensors)
    reply = engine.try_ask(LoadAdapter, key=case, path=str(path))
    assert isinstance(reply, Failed)
    assert reply.code == "adapter_refused"
    assert named in reply.message
    assert case not in engine.status.adapters


def test_another_architecture_is_refused(engine: EngineProcess, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "q.gguf", pair("blk.0.attn_q.weight", 64, 64), architecture="qwen2")
    reply = engine.try_ask(LoadAdapter, key="q", path=str(path))
    assert isinstance(reply, Failed)
    assert "qwen2" in reply.message


@pytest.mark.parametrize("content", [b"", b"GGUF\x03\x00", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_gguf_is_refused(engine: EngineProcess, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "junk.gguf"
    path.write_bytes(content)
    reply = engine.try_ask(LoadAdapter, key="junk", path=str(path))
    assert isinstance(reply, Failed)
    assert str(path) in reply.message
