"""Every setting of a job does what it says: schedules, optimizers, noise, smoothing, and when a job ends."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tests.tiny.families import random_model
from tests.unit.trainer.jobs import adapter_weights, events, losses, run_here, write_job, write_rows
from torch import nn

from llamaleon_trainer.batches import collate, epoch_batches
from llamaleon_trainer.errors import BadJob
from llamaleon_trainer.inputs import read_inputs
from llamaleon_trainer.items import Example, Item, text_pieces
from llamaleon_trainer.job import JobSpec, LoraSettings, Row, read_spec, write_spec
from llamaleon_trainer.optimizers import make_optimizer
from llamaleon_trainer.schedules import rate_share
from llamaleon_trainer.scoring import Scorer
from llamaleon_trainer.steps import Computation

CPU = torch.device("cpu")


def change(directory: Path, **changes: Any) -> None:
    write_spec(directory, msgspec.structs.replace(read_spec(directory), **changes))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_job(tmp_path / "job", epochs=2, batch_size=4)


def test_schedules() -> None:
    for scheduler, wanted in {
        "cosine": [0.5, 1, 1, 0.853553, 0.5, 0.146447],
        "linear": [0.5, 1, 1, 0.75, 0.5, 0.25],
        "constant": [0.5, 1, 1, 1, 1, 1],
    }.items():
        found = [rate_share(scheduler, 0.2, step, 10) for step in (1, 2, 3, 5, 7, 9)]
        assert found == pytest.approx(wanted, abs=1e-6), scheduler


def test_a_job_follows_its_schedule(job: Path) -> None:
    change(job, lr_scheduler="linear", warmup_fraction=0.0, learning_rate=0.001)
    run_here(job)
    rates = [event.data["learning_rate"] for event in events(job, "step")]
    assert rates == pytest.approx([0.001 * (1 - step / 8) for step in range(8)])


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_optimizers_learn_as_adamw_does(tmp_path: Path, name: str) -> None:
    plain, other = (
        write_job(tmp_path / side, epochs=3, batch_size=4, lora=LoraSettings(r=64)) for side in "ab"
    )
    change(other, optimizer=name)
    run_here(plain)
    run_here(other)
    # 8-bit moments are rounded, paged ones are AdamW's own.
    assert losses(other)[12] == pytest.approx(losses(plain)[12], rel=0.05 if "8bit" in name else 1e-4)
    assert losses(other)[12] < losses(other)[1] - 0.5


def test_8_bit_moments_take_a_byte_each() -> None:
    weight = nn.Parameter(torch.randn(64, 64))
    optimizer = make_optimizer([weight], JobSpec(job_id="a", base="b", optimizer="adamw_8bit"))
    weight.grad = torch.randn(64, 64)
    optimizer.step()
    moments = [value for name, value in optimizer.state[weight].items() if name in ("state1", "state2")]
    assert [(moment.dtype, moment.shape) for moment in moments] == [(torch.uint8, weight.shape)] * 2


def test_noise_has_the_size_of_its_paper_and_only_in_training() -> None:
    """Uniform within alpha / sqrt(length * n_hidden), with the length of the token's own row."""
    model = random_model("llama")
    scorer = Scorer(model, CPU, autocast=False)
    rows = [Example([5] * length, [0], [7], [1.0]) for length in (200, 50)]
    for packed in (False, True):
        batch = collate(rows, CPU, packed=packed)
        plain = model.get_input_embeddings()(batch.tokens)
        with scorer.noisy(4.0):
            model.train()
            scorer._noise_scale = _scale(scorer, batch)
            noise = (model.get_input_embeddings()(batch.tokens) - plain).detach()
            model.eval()
            assert torch.equal(model.get_input_embeddings()(batch.tokens), plain)
        first, second = (noise[0, :200], noise[1, :50] if not packed else noise[0, 200:250])
        for found, length in ((first, 200), (second, 50)):
            limit = 4.0 / math.sqrt(length * 64)
            assert 0.95 * limit < float(found.abs().max()) <= limit * (1 + 1e-5)
            assert float(found.std()) == pytest.approx(limit / math.sqrt(3), rel=0.1)
    model.train()
    assert torch.equal(model.get_input_embeddings()(batch.tokens), plain)  # the hook is gone


def _scale(scorer: Scorer, batch: Any) -> Any:
    from llamaleon_trainer.scoring import _noise_scale

    return _noise_scale(batch, scorer._noise_alpha)


def test_noise_changes_training_and_not_the_evaluation_before_it(tmp_path: Path) -> None:
    plain, noisy = (write_job(tmp_path / name, epochs=1, batch_size=4) for name in "ab")
    change(noisy, neftune_noise_alpha=20.0)
    run_here(plain)
    run_here(noisy)
    assert events(noisy, "eval")[0].data["valid_loss"] == events(plain, "eval")[0].data["valid_loss"]
    assert abs(losses(noisy)[1] - losses(plain)[1]) > 1e-3


def test_smoothing_is_in_the_gradient_and_not_in_the_report(tmp_path: Path) -> None:
    plain, smooth = (write_job(tmp_path / name, epochs=2, batch_size=4) for name in "ab")
    change(smooth, label_smoothing=0.3)
    run_here(plain)
    run_here(smooth)
    assert losses(smooth)[1] == pytest.approx(losses(plain)[1], rel=1e-6)
    norms = [events(job, "step")[0].data["grad_norm"] for job in (plain, smooth)]
    assert abs(norms[1] / norms[0] - 1) > 0.01
    assert losses(smooth)[8] > losses(plain)[8]


def test_recomputing_from_the_start_changes_nothing(tmp_path: Path) -> None:
    plain, recomputed = (write_job(tmp_path / name, epochs=1, batch_size=4) for name in "ab")
    change(recomputed, gradient_checkpointing=True, packing=True)
    run_here(plain)
    run_here(recomputed)
    assert not [event for event in events(recomputed, "warning") if "memory" in event.data["message"]]
    assert losses(recomputed) == pytest.approx(losses(plain), rel=1e-4)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_packing_changes_no_step(tmp_path: Path, micro_batch_size: int | None) -> None:
    plain, packed = (write_job(tmp_path / name, epochs=2, batch_size=8) for name in "ab")
    change(packed, packing=True, micro_batch_size=micro_batch_size)
    run_here(plain)
    run_here(packed)
    assert losses(packed) == pytest.approx(losses(plain), rel=1e-4)
    norms = [[event.data["grad_norm"] for event in events(job, "step")] for job in (plain, packed)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    held_out = [[event.data["valid_loss"] for event in events(job, "eval")] for job in (plain, packed)]
    assert held_out[1] == pytest.approx(held_out[0], rel=1e-4)


def test_a_base_that_cannot_pack_trains_padded_and_says_so(tmp_path: Path) -> None:
    from tests import tiny

    job = write_job(tmp_path / "job", epochs=1, batch_size=4, packing=True)
    (job / "probe.base.npz").unlink()
    rows = [Row([(7 * place + row) % 200 + 3 for place in range(20)], [1.0] * 20) for row in range(8)]
    write_rows(job / "train.jsonl", rows)
    write_rows(job / "valid.jsonl", rows[:2])
    (job / "probe.json").unlink()
    change(job, base=str(tiny.make("lfm2", tmp_path / "lfm2").hf_dir))
    run_here(job)
    assert "`packing` is off: lfm2 carries a state" in " ".join(
        event.data["message"] for event in events(job, "warning")
    )
    assert len(losses(job)) == 2


def test_length_grouping_can_be_switched_off() -> None:
    items: list[Item] = [Example([1] * length, [0], [1], [1.0]) for length in range(1, 65)]

    def spread(by_length: bool) -> int:
        batches = epoch_batches(items, 4, seed=3, epoch=1, by_length=by_length)
        assert sorted(id(item) for batch in batches for item in batch) == sorted(map(id, items))
        lengths = [[len(example.tokens) for item in batch for example in item.sequences] for batch in batches]
        return sum(max(batch) - min(batch) for batch in lengths)

    assert spread(by_length=True) == 16 * 3
    assert spread(by_length=False) > 16 * 20


def test_max_steps_ends_the_job_and_its_schedule(job: Path) -> None:
    change(job, epochs=3, max_steps=5)
    run_here(job)
    steps = events(job, "step")
    assert [step.data["step"] for step in steps] == [1, 2, 3, 4, 5]
    assert events(job, "started")[0].data["steps"] == 5
    assert steps[-1].data["learning_rate"] < 0.2 * steps[0].data["learning_rate"]
    assert events(job, "checkpoint")[-1].data["step"] == 5
    assert events(job, "finished")[0].data["steps"] == 5


def held_out_losses(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Of the evaluations in turn, the one before the first step included."""
    left = iter(values)
    monkeypatch.setattr(Computation, "held_out", lambda *_: {"loss": next(left), "accuracy": 0.5})


def test_a_job_stops_when_its_patience_ends(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out_losses(monkeypatch, [5, 4, 4.5, 3, 3.1, 3.0, 2.0])
    change(job, eval_every_steps=1, early_stopping_patience=2)
    run_here(job)
    assert [step.data["step"] for step in events(job, "step")] == [1, 2, 3, 4, 5]
    assert "stopped early at step 5 of 8" in events(job, "warning")[-1].data["message"]
    assert events(job, "checkpoint")[-1].data["step"] == 5
    assert events(job, "finished")[0].data["steps"] == 5


def test_load_best_keeps_the_lowest_held_out_loss(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out_losses(monkeypatch, [5, 4, 3, 3.5, 3.2, 3.6, 3.7, 3.8, 3.9])
    change(job, eval_every_steps=1, load_best=True)
    run_here(job)
    best = job / "checkpoints" / "step-2" / "adapter_model.safetensors"
    from safetensors.numpy import load_file

    for name, weights in load_file(best).items():
        np.testing.assert_array_equal(adapter_weights(job)[name], weights)
    assert not [event for event in events(job, "warning") if "rose" in event.data["message"]]


@pytest.mark.parametrize("setting", [{"load_best": True}, {"early_stopping_patience": 2}])
def test_without_held_out_rows_there_is_no_best(job: Path, setting: dict[str, Any]) -> None:
    (job / "valid.jsonl").unlink()
    change(job, **setting)
    with pytest.raises(BadJob, match=r"need rows in valid\.jsonl"):
        read_inputs(job)


def test_raw_text_is_trained_whole(job: Path) -> None:
    """A text longer than a sequence becomes pieces in which every token but the first is predicted once."""
    tokens = list(range(3, 303))
    change(job, max_sequence_tokens=64)
    write_rows(job / "train.jsonl", [Row(tokens, [1.0] * 300), Row([1, 2, 3], [1.0] * 3)])
    train = read_inputs(job).train
    sequences = [example for item in train.examples for example in item.sequences]
    assert [target for example in sequences for target in example.targets] == [*tokens[1:], 2, 3]
    assert max(len(example.tokens) for example in sequences) <= 64
    assert train.warnings == ["train.jsonl: 1 texts are longer than 64 tokens and are trained in 5 pieces"]
    change(job, packing=True, epochs=4)
    run_here(job)
    assert losses(job)[8] < losses(job)[1]


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 7, 65, 66])
def test_pieces_lose_and_repeat_nothing(length: int) -> None:
    row = Row(list(range(length)), [1.0] * length)
    pieces = list(text_pieces(row, 3))
    assert [token for piece in pieces for token in piece.tokens[1:]] == row.tokens[1:]
    assert all(2 <= len(piece.tokens) <= 3 for piece in pieces)
    assert all(one.tokens[-1] == other.tokens[0] for one, other in pairwise(pieces))
