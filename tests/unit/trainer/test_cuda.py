"""What only a GPU shows. Skipped without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.bench.qlora_memory import TOKENS, spec_of, step
from tests.tiny.speed_model import SEVEN_BILLION, speed_model
from tests.unit.trainer.jobs import events, losses, run_here, write_job
from tests.unit.trainer.test_base_blocks import random_rows

from llamaleon_trainer.base.blocks import TYPES, dequantize
from llamaleon_trainer.base.load import load_base

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_a_job_learns_on_a_gpu(tmp_path: Path, precision: str, limit: float) -> None:
    job = write_job(tmp_path, epochs=4, batch_size=4, device="cuda", precision=precision)
    run_here(job)
    assert events(job, "started")[0].data["device"] == "cuda"
    assert events(job, "base_checked")[0].data["mean_kl"] < limit
    assert losses(job)[16] < losses(job)[1] - 0.5
    assert events(job)[-1].type == "finished"


@pytest.mark.parametrize("weights", ["gguf", "nf4"])
def test_a_job_learns_on_quantised_weights(tmp_path: Path, weights: str) -> None:
    job = write_job(tmp_path, epochs=4, batch_size=4, device="cuda", base_weights=weights)
    run_here(job)
    assert losses(job)[16] < losses(job)[1] - 0.5
    assert events(job)[-1].type == "finished"


@pytest.mark.parametrize(
    "changes",
    [
        {"packing": True},
        {"gradient_checkpointing": True, "base_weights": "gguf"},
        {"optimizer": "paged_adamw_8bit"},
        {"optimizer": "paged_adamw"},
        {"micro_batch_size": 1, "label_smoothing": 0.1, "load_best": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_gpu_trains_as_a_cpu_does_paused_and_resumed(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "tf32": False, **changes}
    found = []
    for device in ("cpu", "cuda"):
        job = write_job(tmp_path / device, device=device, **settings)
        run_here(job, stop_after=3)
        run_here(job)
        assert events(job)[-1].type == "finished"
        found.append(losses(job))
    assert found[1] == pytest.approx(found[0], rel=1e-2)


def test_the_estimate_is_of_what_is_held_not_of_what_loading_took(tmp_path: Path) -> None:
    job = write_job(tmp_path, epochs=3, batch_size=4, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    peak = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    del peak
    run_here(job)
    assert events(job, "estimate")[0].data["memory_bytes"] < 1 << 30


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_blocks_are_undone_as_on_a_cpu(kind: str) -> None:
    rows = torch.from_numpy(random_rows(kind))
    ours = dequantize(rows.cuda(), kind, torch.float32).cpu().nan_to_num(0)
    torch.testing.assert_close(ours, dequantize(rows, kind, torch.float32).nan_to_num(0))


def test_seven_billion_parameters_train_in_eight_gigabytes(tmp_path: Path) -> None:
    base = speed_model(tmp_path / "base.gguf", SEVEN_BILLION)
    model = load_base(base, torch.device("cuda"), torch.bfloat16, "gguf")
    torch.cuda.reset_peak_memory_stats()
    step(model, spec_of(str(base)), TOKENS)
    assert torch.cuda.max_memory_reserved() < 8e9
