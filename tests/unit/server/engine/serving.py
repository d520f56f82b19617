"""Serve a model under many adapters at once, and judge every answer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.engine_process import EngineProcess
from tests.unit.server.engine.reference import Mix, ask_all, open_reference

from llamaleon_server.engine.status import EngineStatus

EXACT: dict[str, Any] = {"threads": 1, "flash_attention": False, "kv_type": "f32", "context_tokens": 256}
PROMPTS = [random.Random(seed).choices(range(3, 300), k=4 + 9 * seed) for seed in range(3)]
PROMPTS.append(PROMPTS[0] * 7)  # repeats itself: the next tokens may be guessed


def served(
    model: Path,
    adapters: dict[str, Path],
    *,
    rough: bool = False,
    process: type[EngineProcess] = EngineProcess,
    **options: Any,
) -> EngineStatus:
    """Ask under the base, each adapter, minus half of it, and a blend of all; the judge compares."""
    mixes: list[Mix] = [(), tuple((key, 0.6) for key in adapters)]
    mixes += [((key, weight),) for key in adapters for weight in (1.0, -0.5)]
    with (
        process(model, **EXACT, **options, parallel_sequences=8) as engine,
        open_reference(model, engine.ready.end_token_ids) as reference,
    ):
        reference.rough = rough
        for key, path in adapters.items():
            engine.load(key, path)
        asked = [(prompt, mix) for prompt in PROMPTS for mix in mixes]
        answers = ask_all(engine, reference, adapters, asked)
        said = {tuple((told.token_id, told.logprob) for told in answer.logprobs) for answer in answers}
        assert len(said) > len(answers) // 2, "adapters change something"
        return engine.status


def assert_mixed(status: EngineStatus) -> None:
    assert (status.bank.mixing, status.bank.reason, status.bank.alone) == (True, None, {})
    assert status.step.mixed_steps > 0
