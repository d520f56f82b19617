"""Prefix reuse under a sliding window; `test_families` has the models that keep a state."""

from __future__ import annotations

import random
from pathlib import Path

from tests.engine_process import EngineProcess
from tests.tiny import kinds


def test_reuse_changes_nothing(tmp_path: Path) -> None:
    path = kinds.gemma2(tmp_path / "model.gguf")
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
