"""Scheduling in a real engine: what is shared, what flows, who waits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.engine_process import EngineProcess

from llamaleon_server.engine.protocol import AdapterUse

EXACT = {"flash_attention": False, "kv_type": "f32"}
LONG = 400


def test_a_common_beginning_is_computed_once(stories: Path) -> None:
    dice = random.Random(1)
    system = [dice.randrange(300, 500) for _ in range(200)]
    prompts = [[*system, 300 + number, 310, 320] for number in range(12)]
    with EngineProcess(stories, threads=1, **EXACT) as engine:
        alone = [engine.generate(prompt, max_tokens=6, cache_prompt=False) for prompt in prompts]
        before = engine.status
        answers = engine.wait([engine.start(prompt, max_tokens=6) for prompt in prompts])
        status = engine.status
    cached = sorted(answer.done.cached_tokens for answer in answers)
    assert cached == [0] + [200] * 11
    assert status.step.tokens_in - before.step.tokens_in == 203 + 11 * 3
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in alone]
    assert (status.prefix.hits, status.prefix.misses) == (11, 1)


def test_answers_to_one_prompt_share_it_under_an_adapter(engine: EngineProcess) -> None:
    """As `n` of them arrive: one message each."""
    prompt = [300 + number % 150 for number in range(140)]
    for uses in ((AdapterUse("a"),), (AdapterUse("a", 0.5), AdapterUse("b", 0.5))):
        before = engine.status.step.tokens_in
        numbers = [engine.start(prompt, max_tokens=5, adapters=uses) for _ in range(4)]
        answers = engine.wait(numbers)
        assert sorted(answer.done.cached_tokens for answer in answers) == [0, 139, 139, 139]
        assert engine.status.step.tokens_in - before == 140 + 3
        assert len({tuple(answer.tokens) for answer in answers}) == 1


@pytest.mark.parametrize(("target_s", "least", "most"), [(1e-6, LONG // 16, 2 * LONG), (1e6, 1, 10)])
def test_streams_flow_while_a_long_prompt_arrives(
    stories: Path, target_s: float, least: int, most: int
) -> None:
    """Tokens of a running stream between the arrival of a long prompt and its first token."""
    options = {"batch_tokens": 256, "step_target_s": target_s, "speculation": False}
    with EngineProcess(stories, threads=1, **options) as engine:
        streams = [engine.start([300 + n, 7], max_tokens=500, ignore_eos=True) for n in range(2)]
        while min(engine.answers[number].deltas for number in streams) < 10:
            engine.receive()
        before = engine.status.step.steps
        late = engine.start([300 + n % 100 for n in range(LONG)], max_tokens=1)
        begin = [engine.answers[number].deltas for number in streams]
        while engine.answers[late].deltas == 0:
            engine.receive()
        flowed = [engine.answers[number].deltas - start for number, start in zip(streams, begin, strict=True)]
        assert engine.status.step.steps - before >= min(flowed)
    assert min(flowed) >= least
    assert max(flowed) <= most


def test_one_adapters_request_does_not_wait_for_anothers_hundred(engine: EngineProcess) -> None:
    busy = [engine.start([300 + n, 301], adapters=(AdapterUse("a"),), max_tokens=20) for n in range(100)]
    quiet = engine.start([400, 401], adapters=(AdapterUse("b"),), max_tokens=5)
    while engine.answers[quiet].finish is None:
        engine.receive()
    done = sum(engine.answers[number].finish is not None for number in busy)
    engine.wait(busy)
    assert done < 20, "four run at once"
