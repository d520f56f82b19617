"""Preferences: the loss of the paper, a reference that costs no second model, and a model that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tests.unit.trainer.jobs import adapter_weights, events, losses, run_here, write_job, write_rows

from llamaleon_trainer.base.load import load_base
from llamaleon_trainer.dpo import DirectPreference
from llamaleon_trainer.errors import BadJob
from llamaleon_trainer.estimate import CPU_PASS_TOKENS
from llamaleon_trainer.inputs import read_inputs
from llamaleon_trainer.items import Item
from llamaleon_trainer.job import JobSpec, LoraSettings, PreferenceRow, Row, read_spec
from llamaleon_trainer.lora import add_lora
from llamaleon_trainer.packing import packed_attention
from llamaleon_trainer.scoring import Scorer

CPU = torch.device("cpu")


def write_preferences(directory: Path, pairs: int = 16, held_out: int = 4, **changes: Any) -> Path:
    """Prompts of numbers, after which one continuation is liked and another is not."""
    job = write_job(directory, **{"method": "dpo", "batch_size": 4, "learning_rate": 0.003, **changes})
    rows = [_pair(number) for number in range(pairs + held_out)]
    write_rows(job / "train.jsonl", rows[:pairs])
    write_rows(job / "valid.jsonl", rows[pairs:])
    return job


def _pair(number: int) -> PreferenceRow:
    prompt = [1, *((13 * number + 7 * place) % 200 + 100 for place in range(4 + number % 5))]
    return PreferenceRow(_answer(prompt, [300, 301, 302]), _answer(prompt, [400, 401, 402, 403]))


def _answer(prompt: list[int], answer: list[int]) -> Row:
    return Row(prompt + answer, [0.0] * len(prompt) + [1.0] * len(answer))


@pytest.fixture
def loaded(tmp_path: Path) -> tuple[JobSpec, Any, Scorer, list[Item]]:
    """A job with its model, whose LoRA layers have been moved away from the base."""
    job = write_preferences(tmp_path / "job", lora=LoraSettings(r=4))
    spec = read_spec(job)
    model = load_base(Path(spec.base), CPU, torch.float32)
    wrapped = add_lora(model, spec)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    return spec, wrapped, Scorer(model, CPU, autocast=False), list(read_inputs(job).train.examples)


def log_probability(wrapped: Any, row: Row) -> torch.Tensor:
    """Of the answer, from all logits, one row at a time."""
    logits = wrapped(input_ids=torch.tensor([row.tokens])).logits[0].log_softmax(-1)
    tokens, weights = torch.tensor(row.tokens[1:]), torch.tensor(row.weights[1:])
    total: torch.Tensor = (logits[:-1].gather(1, tokens[:, None])[:, 0] * weights).sum()
    return total


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_is_the_papers_formula(loaded: Any, packed: bool, smoothing: float) -> None:
    spec, wrapped, scorer, items = loaded
    rows = [_pair(number) for number in range(6)]
    wanted = []
    for row in rows:
        policy = log_probability(wrapped, row.chosen) - log_probability(wrapped, row.rejected)
        with torch.no_grad(), wrapped.disable_adapter():
            reference = log_probability(wrapped, row.chosen) - log_probability(wrapped, row.rejected)
        wanted.append(spec.dpo_beta * (policy - reference))
    margins = torch.stack(wanted)
    expected = -(1 - smoothing) * margins.sigmoid().log() - smoothing * (-margins).sigmoid().log()
    weights = [weight for weight in wrapped.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(expected.sum(), weights)

    changed = msgspec.structs.replace(spec, label_smoothing=smoothing)
    objective = DirectPreference(wrapped, scorer, changed, len(items), packed=packed)
    if packed:
        with packed_attention(scorer.model):
            loss, sums = objective.score(items[:6])
            found = torch.autograd.grad(loss, weights)
    else:
        loss, sums = objective.score(items[:6])
        found = torch.autograd.grad(loss, weights)
    assert loss.item() == pytest.approx(expected.sum().item(), rel=1e-4)
    assert sums.margin == pytest.approx(margins.sum().item(), rel=1e-3, abs=1e-5)
    assert sums.correct == int((margins > 0).sum())
    assert margins.abs().max().item() > 1e-3  # the adapter does something, or this test would say nothing
    torch.testing.assert_close(found, gradients, rtol=1e-3, atol=1e-5)


def test_the_reference_is_asked_once_a_row(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, wrapped, scorer, items = loaded
    objective = DirectPreference(wrapped, scorer, spec, len(items), packed=False)
    asked = []
    predict = Scorer.predict

    def counting(self: Scorer, batch: Any, **options: Any) -> Any:
        asked.append(len(batch.tokens))
        return predict(self, batch, **options)

    monkeypatch.setattr(Scorer, "predict", counting)
    objective.score(items[:2])
    objective.score(items[:3])
    objective.score(items[:3])
    assert asked == [4, 4, 2, 6, 6]


def test_a_model_learns_to_prefer(tmp_path: Path) -> None:
    job = write_preferences(tmp_path, epochs=6, dpo_beta=0.3)
    run_here(job)
    first, last = events(job, "eval")[0].data, events(job, "eval")[-1].data
    assert first["valid_loss"] == pytest.approx(0.6931, abs=1e-4)  # log 2: the model is its own reference
    assert first["reward_margin"] == pytest.approx(0, abs=1e-5)
    assert last["valid_loss"] < 0.5
    assert last["valid_accuracy"] == 1
    assert last["reward_margin"] > 0.4
    assert {"train_loss", "train_accuracy", "reward_margin"} <= set(events(job, "step")[-1].data)


def test_it_goes_on_from_an_adapter_that_is_then_its_reference(tmp_path: Path) -> None:
    first = write_preferences(tmp_path / "first", epochs=2)
    run_here(first)
    second = write_preferences(tmp_path / "second", epochs=2, init_adapter=str(first / "adapter"))
    run_here(second)
    start = events(second, "eval")[0].data
    assert start["valid_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert losses(second)[8] < losses(second)[1]
    assert set(adapter_weights(second)) == set(adapter_weights(first))


def test_looking_for_a_rate_does_not_move_the_reference(tmp_path: Path) -> None:
    """The sweep changes the model that is the reference: it is asked before."""
    first = write_preferences(tmp_path / "first", epochs=1)
    run_here(first)
    goes_on: dict[str, Any] = {"epochs": 3, "init_adapter": str(first / "adapter")}
    searching, given = tmp_path / "searching", tmp_path / "given"
    write_preferences(searching, learning_rate=1.0, find_learning_rate=True, **goes_on)
    run_here(searching)
    (found,) = events(searching, "lr_found")
    write_preferences(given, learning_rate=found.data["learning_rate"], **goes_on)
    run_here(given)
    assert losses(given) == pytest.approx(losses(searching), rel=1e-5)


def test_a_pass_has_room_for_both_answers(tmp_path: Path) -> None:
    job = write_preferences(tmp_path, pairs=8, held_out=2, batch_size=8, epochs=1)
    row = Row([1 + place % 400 for place in range(100)], [1.0] * 100)
    other = Row([2 + place % 400 for place in range(100)], [1.0] * 100)
    write_rows(job / "train.jsonl", [PreferenceRow(row, other)] * 8)
    run_here(job)
    rows = events(job, "estimate")[0].data["rows_per_pass"]
    assert rows * 2 * 100 <= CPU_PASS_TOKENS < (rows + 1) * 2 * 128


def test_rows_of_the_other_method_are_refused(tmp_path: Path) -> None:
    job = write_preferences(tmp_path)
    write_rows(job / "train.jsonl", [_pair(0).chosen])
    with pytest.raises(BadJob, match=r"train.jsonl, line 1: Object missing required field `chosen`"):
        read_inputs(job)


def test_a_pair_is_checked_on_both_sides(tmp_path: Path) -> None:
    job = write_preferences(tmp_path)
    write_rows(job / "train.jsonl", [PreferenceRow(_pair(0).chosen, Row([1, 2, 3], [0, 1]))])
    with pytest.raises(BadJob, match=r"train.jsonl, line 1, rejected: 3 tokens but 2 weights"):
        read_inputs(job)
