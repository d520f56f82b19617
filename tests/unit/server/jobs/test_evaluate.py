"""Loss, exact match and valid JSON on held-out rows, through the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.server.registry.small import write_base

from llamaleon_server.engine.protocol import Generate
from llamaleon_server.jobs.evaluate import evaluate, is_json
from llamaleon_server.jobs.prepare import EvaluationRow
from llamaleon_server.registry.records import Target
from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.residents import Residents
from llamaleon_server.settings import Settings
from llamaleon_server.testing import FIRST_LOGPROB, FakeEngines

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


async def test_the_loss_is_per_answer_token(setting: Setting) -> None:
    residents, target, _ = setting
    result = await evaluate(residents, target, [row("abc", "de"), row("a", "b", [1.0, 0.0, 0.5])])
    # The first token of a sequence has no prediction, whatever its weight.
    assert result["loss"] == pytest.approx(-FIRST_LOGPROB)
    assert result["rows"] == 2


async def test_exact_match_and_valid_json_are_shares(setting: Setting) -> None:
    residents, target, engines = setting

    def answer(message: Generate) -> str:
        assert isinstance(message.prompt, list)
        return {"a": '{"x": 1}', "b": '{"x": 3}', "c": "{no"}.get(chr(message.prompt[1]), "")

    engines.answer = answer
    rows = [row("a", '{"x": 1}\n'), row("b", '{"x": 2}'), row("c", "[]")]
    result = await evaluate(residents, target, rows)
    assert result["generated"] == 3
    assert result["exact_match"] == pytest.approx(1 / 3)
    assert result["valid_json"] == pytest.approx(2 / 3)
    asked = [m for m in engines.last.received if isinstance(m, Generate) and m.prompt_logprobs is None]
    assert {m.sampling.temperature for m in asked} == {0}
    assert [len(m.prompt) for m in asked] == [2, 2, 2], "the answer is not shown"


async def test_plain_text_rows_are_only_scored(setting: Setting) -> None:
    residents, target, _ = setting
    result = await evaluate(residents, target, [EvaluationRow(1, [1, 65, 66], [1.0] * 3, 0, None)])
    assert set(result) == {"loss", "rows"}
    prose = await evaluate(residents, target, [row("a", "no es JSON")])
    assert "valid_json" not in prose


@pytest.mark.parametrize(
    ("text", "valid"),
    [('{"ñ": "€"}', True), ("[1]", True), ("3", False), ("{", False), ("", False), ("[" * 100_000, False)],
)
def test_what_counts_as_json(text: str, valid: bool) -> None:
    assert is_json(text) is valid
