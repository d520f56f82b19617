"""What rows cost a model and what it answers, through the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.server.registry.small import write_base

from llamaleon_server.engine.protocol import Generate
from llamaleon_server.errors import LlamaleonError
from llamaleon_server.evaluation.measure import Limits, measure, steps
from llamaleon_server.evaluation.rows import (
    Answered,
    EvaluationRow,
    Scored,
    read_answers,
    read_evaluation_rows,
    write_answers,
    write_evaluation_rows,
)
from llamaleon_server.registry.records import Target
from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.residents import Residents
from llamaleon_server.settings import Settings
from llamaleon_server.testing import FIRST_LOGPROB, FakeEngines, Refusal

Setting = tuple[Residents, Target, FakeEngines]


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    registry = Registry.open(tmp_path / "home")
    base = registry.add_base(write_base(tmp_path / "tiny.gguf"))
    engines = FakeEngines()
    residents = Residents(Settings(home=tmp_path), open_channel=engines.open)
    yield residents, Target(requested="tiny", base=base), engines
    await residents.close()
    registry.close()


def row(prompt: str, reference: str | None, weights: list[float] | None = None) -> EvaluationRow:
    tokens = [1, *map(ord, prompt), *map(ord, reference or "")]
    answer = len(tokens) - len(prompt) - 1
    weights = weights or [0.0] * (len(prompt) + 1) + [1.0] * answer
    return EvaluationRow(1, tokens, weights, len(prompt) + 1, reference)


def generated(engines: FakeEngines) -> list[Generate]:
    return [m for m in engines.last.received if isinstance(m, Generate) and m.prompt_logprobs is None]


async def test_the_cost_is_of_the_weighted_tokens(setting: Setting) -> None:
    residents, target, _ = setting
    found = await measure(residents, target, [row("abc", "de"), row("a", "b", [1.0, 0.0, 0.5])])
    # The first token of a sequence has no prediction, whatever its weight.
    assert [cost.weight for cost in found.costs.values()] == [2.0, 0.5]
    assert found.costs[0].loss == pytest.approx(-FIRST_LOGPROB)
    assert sum(cost.nats for cost in found.costs.values()) == pytest.approx(-2.5 * FIRST_LOGPROB)


async def test_answers_are_greedy_and_not_shown_the_reference(setting: Setting) -> None:
    residents, target, engines = setting

    def answer(message: Generate) -> str:
        assert isinstance(message.prompt, list)
        return chr(message.prompt[1]) * 3

    engines.answer = answer
    found = await measure(residents, target, [row("a", "xyz"), row("b", None), row("c", "x")])
    assert found.answers == {0: "aaa", 2: "ccc"}, "plain text is only scored"
    asked = generated(engines)
    assert {m.sampling.temperature for m in asked} == {0}
    assert [len(m.prompt) for m in asked] == [2, 2]
    assert [m.max_tokens for m in asked] == [3 + 32, 1 + 32]


async def test_rows_behind_examples_are_asked_behind_them_and_stop_at_what_separates(
    setting: Setting,
) -> None:
    residents, target, engines = setting
    behind = Scored([1, 70, 71, 72, 73], [0.0, 0.0, 0.0, 0.0, 1.0], 4)
    rows = [
        EvaluationRow(1, [1, 72, 73], [0, 0, 1], 2, "I", few_shot=behind, shots=1, few_shot_stop=["\n\n"]),
        row("a", "b"),  # there was no room
    ]
    found = await measure(residents, target, rows, few_shot=True)
    assert found.shots == 1
    assert (list(found.costs), list(found.answers)) == ([], [0])
    (asked,) = generated(engines)
    assert asked.prompt == [1, 70, 71, 72]
    assert asked.stop == ("\n\n",)


async def test_answers_liked_less_are_scored_beside_the_others(setting: Setting) -> None:
    residents, target, _ = setting
    rejected = Scored([1, 72, 73, 74], [0.0, 0.0, 1.0, 1.0], 2)
    found = await measure(
        residents, target, [EvaluationRow(1, [1, 72, 75], [0, 0, 1], 2, "K", rejected=rejected)]
    )
    assert found.rejected[0].weight == 2


async def test_no_more_rows_than_the_limits_and_every_one_is_told(setting: Setting) -> None:
    residents, target, _ = setting
    rows, limits, done = [row(letter, "x") for letter in "abcdef"], Limits(4, 2), []
    found = await measure(residents, target, rows, limits=limits, on_row=lambda: done.append(1))
    assert (list(found.costs), list(found.answers)) == ([0, 1, 2, 3], [0, 1])
    assert len(done) == steps(rows, limits) == 6


async def test_a_row_that_fails_ends_the_others(setting: Setting) -> None:
    residents, target, engines = setting

    def answer(message: Generate) -> str:
        raise Refusal("bad_request", "not this one")

    engines.answer = answer
    with pytest.raises(LlamaleonError, match="not this one"):
        await asyncio.wait_for(measure(residents, target, [row("a", "b"), row("c", "d")]), 30)


def test_rows_and_answers_are_kept_whole(tmp_path: Path) -> None:
    rows = [row("¿qué?", "ñ"), EvaluationRow(2, [1], [1.0], 0, None, few_shot=Scored([1, 2], [0, 1], 1))]
    write_evaluation_rows(tmp_path, rows)
    assert read_evaluation_rows(tmp_path) == rows
    assert read_answers(tmp_path) == []
    answers = [Answered(line=3, prompt="¿qué?", reference="ñ", losses={"base": 1.5}, answers={"base": "n"})]
    write_answers(tmp_path, answers)
    assert read_answers(tmp_path) == answers


def test_rows_that_an_older_version_wrote_are_read(tmp_path: Path) -> None:
    old = b'[{"line":4,"tokens":[1,2],"weights":[0,1],"prompt_tokens":1,"reference":"b"}]'
    (tmp_path / "evaluation_rows.json").write_bytes(old)
    (found,) = read_evaluation_rows(tmp_path)
    assert (found.plain, found.few_shot, found.prompt) == (Scored([1, 2], [0, 1], 1), None, "")
