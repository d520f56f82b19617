"""Families with a state, with experts, with latent attention: served right, in batches, under adapters.

docs/models-families.md has a row for each; the tests measure it again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
from tests.data import REPOSITORY
from tests.engine_process import EngineProcess
from tests.lora import random_lora
from tests.tiny import hybrids, kinds, mixtures
from tests.unit.server.engine.reference import Mix, ask_all, open_reference

from llamaleon_server.engine import protocol
from llamaleon_server.engine.protocol import AdapterUse, Sampling

Write = Callable[[Path], Path]

STATES: list[Write] = [
    kinds.mamba,
    hybrids.mamba2,
    hybrids.rwkv7,
    kinds.jamba,
    hybrids.granite_hybrid,
    hybrids.falcon_h1,
    hybrids.nemotron_h,
    hybrids.qwen3next,
    hybrids.qwen35,
    hybrids.lfm2,
]
MIXTURES: list[Write] = [
    mixtures.mixtral,
    kinds.mixture,
    mixtures.qwen2_moe,
    mixtures.olmoe,
    mixtures.granite_moe,
    mixtures.gpt_oss,
    mixtures.deepseek2,
]
TABLE = REPOSITORY / "docs" / "models-families.md"
NOT_LINEAR = ("norm", "conv1d", ".conv.", "lerp")  # weights that multiply no row by a matrix
EXACT: dict[str, Any] = {"threads": 1, "flash_attention": False, "kv_type": "f32", "context_tokens": 256}
PROMPTS = [random.Random(seed).choices(range(3, 300), k=4 + 9 * seed) for seed in range(3)]

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Served:
    model: Path
    engine: EngineProcess


@pytest.fixture(scope="module", params=STATES + MIXTURES, ids=lambda write: write.__name__)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = request.param(tmp_path_factory.mktemp("family") / "model.gguf")
    with EngineProcess(model, **EXACT, parallel_sequences=6) as engine:
        yield Served(model, engine)


def linear(model: Path) -> list[str]:
    """The kinds of weights that an adapter might change."""
    names = [tensor.name for tensor in gguf.GGUFReader(model).tensors if len(tensor.shape) > 1]
    inside = [name for name in names if name.startswith("blk.") and name.endswith(".weight")]
    return sorted({name.split(".")[-2] for name in inside if not any(word in name for word in NOT_LINEAR)})


def documented(architecture: str) -> list[str]:
    """The cells of an architecture's row, without its name and its examples."""
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    (row,) = [row for row in rows if row.startswith(f"| `{architecture}` |")]
    return [cell.strip() for cell in row.strip("|").split("|")][2:]


def test_alone_in_batches_and_under_adapters(tmp_path: Path, served: Served) -> None:
    """Every answer is stock llama.cpp's, and the documentation's row is what came out."""
    model, engine = served.model, served.engine
    with open_reference(model, engine.ready.end_token_ids) as reference:
        reachable, refused = [], []
        for kind in linear(model):
            file = random_lora(model, tmp_path / f"{kind}.gguf", seed=1, targets=(kind,))
            answer = engine.try_ask(protocol.LoadAdapter, key=kind, path=str(file))
            if isinstance(answer, protocol.Failed):
                assert answer.code == "adapter_refused"
                assert f".{kind}.weight" in answer.message
                refused.append(kind)
            else:
                reachable.append(kind)
                engine.generate(PROMPTS[0], adapters=(AdapterUse(kind),), max_tokens=1)
        half, other = reachable[::2], reachable[1::2]
        files = {
            "all": random_lora(model, tmp_path / "all.gguf", seed=1, rank=6, targets=reachable, scale=2.0),
            "half": random_lora(model, tmp_path / "half.gguf", seed=2, rank=3, targets=half),
            "other": random_lora(model, tmp_path / "other.gguf", seed=3, targets=other),
        }
        for key, path in files.items():
            engine.load(key, path)
        mixes: list[Mix] = [(), tuple((key, 0.6) for key in files), *(((key, 1.0),) for key in files)]
        asked = [(prompt, mix) for prompt in PROMPTS for mix in mixes]
        answers = ask_all(engine, reference, files, asked)
        said = {tuple((told.token_id, told.logprob) for told in answer.logprobs) for answer in answers}
        assert len(said) > len(answers) // 2, "adapters change something"
        bank = engine.status.bank
    architecture = gguf.GGUFReader(model).fields["general.architecture"].contents()
    alone = _list(sorted(bank.alone.keys() & set(reachable)))
    together = "in turns" if not bank.mixing else f"yes; alone: {alone}" if alone else "yes"
    assert documented(architecture) == [together, _list(refused) or "none"]


def _list(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def test_reuse_changes_nothing(served: Served) -> None:
    """Of a state only the whole can be taken over; of a cache any prefix."""
    engine, dice = served.engine, random.Random(1)
    known = [dice.randrange(3, 300) for _ in range(40)]
    prompts = [
        known[:keep] + [dice.randrange(3, 300) for _ in range(more)]
        for keep, more in ((40, 0), (40, 0), (40, 9), (30, 9), (10, 5), (39, 0), (40, 1))
    ]
    alone = [engine.generate(p, max_tokens=12, ignore_eos=True, cache_prompt=False).tokens for p in prompts]
    assert len({tuple(tokens) for tokens in alone}) > 3, "the model says different things"
    assert [engine.generate(prompt, max_tokens=12, ignore_eos=True).tokens for prompt in prompts] == alone
    numbers = [engine.start(prompt, max_tokens=12, ignore_eos=True) for prompt in prompts * 2]
    assert [answer.tokens for answer in engine.wait(numbers)] == alone * 2
    first = engine.generate(prompts[3], max_tokens=12, ignore_eos=True)
    conversation = prompts[3] + first.tokens + [5]
    continued = engine.generate(conversation, max_tokens=3)
    assert continued.done.cached_tokens >= len(conversation) - 3
    again = engine.generate(conversation, max_tokens=3, cache_prompt=False)
    assert continued.tokens == again.tokens


def test_constrained_answers(served: Served) -> None:
    """What a grammar forces is computed without logits, several tokens at once: with logprobs one by one."""
    grammar = 'start: ("{name: " /[a-z]{1,4}/ ", certain: true} ")+'
    engine = served.engine
    wanted: list[dict[str, Any]] = [
        {"prompt": prompt, "grammar": grammar, "max_tokens": 90, "sampling": Sampling(seed=seed)}
        for seed, prompt in enumerate(PROMPTS)
    ]
    together = engine.wait([engine.start(**request) for request in wanted])
    for request, answer in zip(wanted, together, strict=True):
        one_by_one = engine.generate(**request, logprobs=0)
        assert answer.tokens == one_by_one.tokens
        assert answer.text.startswith("{name: ")
        assert answer.deltas < one_by_one.deltas
