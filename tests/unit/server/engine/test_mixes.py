"""Random mixes of requests, adapters, arrivals, cancellations and replacements against the reference.

`LLAMALEON_MIXES=500` draws that many new random mixes for each engine, and looks for the smallest that
fails; without it the same few are drawn every time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.engine_process import EngineProcess
from tests.lora import poison
from tests.unit.server.engine import mixes
from tests.unit.server.engine.mixes import MIXES, Event, File, Play
from tests.unit.server.engine.reference import (
    MARGIN,
    OF_THE_SPREAD,
    Mix,
    Reference,
    Ties,
    ask_all,
    open_reference,
)

from llamaleon_server.engine.protocol import AdapterUse, DumpLogits, Reply, Sampling

EXAMPLES = int(os.environ.get("LLAMALEON_MIXES", "0"))
pytestmark = pytest.mark.timeout(120 + 5 * EXAMPLES)  # an engine that goes round in circles
EXACT: dict[str, Any] = {"threads": 1, "flash_attention": False, "kv_type": "f32"}
ENGINES: dict[str, dict[str, Any]] = {
    "roomy": {"parallel_sequences": 8, "kv_tokens": 2048},
    # One long request takes the whole cache, prompts come in pieces, and no two of the larger adapters fit.
    "tight": {"parallel_sequences": 5, "kv_tokens": 512, "batch_tokens": 24, "bank_ranks": 20}
    | {"adapter_ram_bytes": 300_000, "prefix_ram_bytes": 100_000},
}

BAD = "single"

thoroughly = settings(
    max_examples=EXAMPLES or 12,
    derandomize=not EXAMPLES,
    database=None,  # an example depends on the engine's earlier ones
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink) if EXAMPLES else (Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def files(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], File]:
    return mixes.make_files(stories, tmp_path_factory.mktemp("mixes"))


@pytest.fixture(scope="module")
def bad_files(
    files: dict[tuple[str, int], File], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int], File]:
    folder = tmp_path_factory.mktemp("bad")
    return files | {
        (BAD, version): File(
            poison(files[BAD, version].path, folder / f"{version}.gguf", 3e38), f"bad {version}"
        )
        for version in (0, 1)
    }


@pytest.fixture(scope="module")
def reference(stories: Path) -> Iterator[Reference]:
    with open_reference(stories, end_tokens=[2], context_tokens=1024) as opened:
        yield opened


@pytest.fixture(scope="module")
def engine_of(stories: Path) -> Iterator[Callable[..., EngineProcess]]:
    """One engine per kind for all examples; a new one if the last example failed."""
    running: dict[str, EngineProcess] = {}
    with ExitStack() as stack:

        def start(kind: str, *, fresh: bool = False) -> EngineProcess:
            if fresh or kind not in running:
                running[kind] = stack.enter_context(EngineProcess(stories, **EXACT, **ENGINES[kind]))
            return running[kind]

        yield start


@settings(thoroughly, max_examples=EXAMPLES or 10)
@given(MIXES)
def test_numbers_that_are_not_finite_change_nobodys_answer(
    engine_of: Callable[..., EngineProcess],
    bad_files: dict[tuple[str, int], File],
    reference: Reference,
    events: list[Event],
) -> None:
    Play(engine_of("tight"), bad_files, reference, bad=frozenset({BAD})).run(events)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_mix_changes_nobodys_answer_and_leaves_nothing(
    kind: str,
    engine_of: Callable[..., EngineProcess],
    files: dict[tuple[str, int], File],
    reference: Reference,
) -> None:
    reference.seen = Ties()
    broken = [False]

    @thoroughly
    @given(MIXES)
    def play(events: list[Event]) -> None:
        engine = engine_of(kind, fresh=broken[0])
        broken[0] = True
        Play(engine, files, reference).run(events)
        broken[0] = False

    play()
    reference.seen.assert_rare()
    status = engine_of(kind).status
    assert status.step.mixed_steps > 8 * thoroughly.max_examples
    assert status.prefix.hits > thoroughly.max_examples
    print(kind, reference.seen, status.step, status.prefix)


def test_the_judge_reads_what_generating_gives(
    files: dict[tuple[str, int], File], reference: Reference
) -> None:
    """Agreeing at every place of one pass is generating the same, and a wrong adapter does not agree."""
    from tests.engine_process import Answer

    uses = ((files["plain", 0].path, 1.0),)
    prompt = [1, 300, 301, 302, 303]
    answer = Answer(tokens=reference.greedy(prompt, uses, 24))
    assert len(answer.tokens) == 24
    reference.judge(prompt, uses, answer)
    for other in ((), ((files["plain", 1].path, 1.0),), ((files["plain", 0].path, 0.8),)):
        with pytest.raises(AssertionError, match="likelier"):
            reference.judge(prompt, other, answer)


def test_those_put_back_go_on_where_they_were(
    stories: Path, files: dict[tuple[str, int], File], reference: Reference
) -> None:
    """Two endless answers outgrow the cache: one gives way with what it has said, and says the rest later."""
    uses = (AdapterUse("quiet"),), ()
    paths = ((files["quiet", 0].path, 1.0),), ()
    options = {"kv_tokens": 1280, "context_tokens": 1024, "parallel_sequences": 2}
    with EngineProcess(stories, **EXACT, **options) as engine:
        engine.load("quiet", files["quiet", 0].path)
        numbers = [engine.start([1, 300 + i], adapters=uses[i], ignore_eos=True) for i in range(2)]
        answers = [engine.answers[number] for number in numbers]
        while not any(answer.finish for answer in answers):
            engine.receive()
        unfinished = min(len(answer.tokens) for answer in answers)
        assert unfinished > 1280 - 1024, "both had grown to more than there is room for"
        engine.wait(numbers)
        for i, answer in enumerate(answers):
            assert answer.done.completion_tokens == 1022
            reference.judge([1, 300 + i], paths[i], answer, ignore_eos=True, about=i)


ADAPTER_SETS: tuple[Mix, ...] = (
    (),
    (("plain", 1.0),),
    (("single", 0.8),),
    (("attention", 0.6), ("quiet", 1.0)),
    (("uneven", -0.5),),
)


def load_all(engine: EngineProcess, files: dict[tuple[str, int], File]) -> dict[str, Path]:
    for name in mixes.NAMES:
        engine.load(name, files[name, 0].path)
    return {name: files[name, 0].path for name in mixes.NAMES}


def test_a_seed_decides_in_any_company(stories: Path, files: dict[tuple[str, int], File]) -> None:
    requests: list[dict[str, Any]] = [
        {
            "prompt": [1, 300 + seed, 310, 320],
            "adapters": tuple(AdapterUse(*use) for use in ADAPTER_SETS[seed % len(ADAPTER_SETS)]),
            "sampling": Sampling(temperature=1.5, top_p=0.9, seed=seed, frequency_penalty=0.3),
            "max_tokens": 24,
        }
        for seed in range(15)
    ]
    with EngineProcess(stories, **EXACT, **ENGINES["roomy"]) as engine:
        load_all(engine, files)
        alone = [engine.generate(**request).tokens for request in requests]
        together = engine.wait([engine.start(**request) for request in reversed(requests)])
        assert [answer.tokens for answer in reversed(together)] == alone
        assert len({tuple(tokens) for tokens in alone}) == len(alone)


def test_logits_are_dumped_between_mixed_passes(
    stories: Path, files: dict[tuple[str, int], File], reference: Reference, tmp_path: Path
) -> None:
    sequence = [1, *range(300, 400)]
    prompts = [[1, 300 + number] for number in range(8)]
    with EngineProcess(stories, **EXACT, **ENGINES["roomy"]) as engine:
        paths = load_all(engine, files)
        mixed = [(prompt, ADAPTER_SETS[n % len(ADAPTER_SETS)]) for n, prompt in enumerate(prompts)]
        dumps = {engine.new_id(): mix for mix in ADAPTER_SETS}
        for number, mix in dumps.items():
            uses = tuple(AdapterUse(*use) for use in mix)
            target = str(tmp_path / f"{number}.npz")
            engine.send(DumpLogits(id=number, sequences=[sequence], adapters=uses, path=target))
        reference.seen = Ties()
        ask_all(engine, reference, paths, mixed, max_tokens=60, ignore_eos=True)
        for number, mix in dumps.items():
            assert isinstance(engine.wait_reply(number), Reply), engine.replies[number]
            with np.load(tmp_path / f"{number}.npz") as dumped:
                got = dumped["0"].astype(np.float64)
            got -= got.max(axis=1, keepdims=True)
            got -= np.log(np.exp(got).sum(axis=1, keepdims=True))
            by_file = tuple((paths[key], weight) for key, weight in mix)
            gap = np.abs(got - reference.logprobs(sequence, by_file)).max()
            assert gap < max(MARGIN, OF_THE_SPREAD * reference.spread(sequence, by_file)), mix
