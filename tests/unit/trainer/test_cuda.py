"""What only a GPU shows. Skipped without one, but for what `test_pretended.py` runs of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.bench.qlora_memory import TOKENS, spec_of, step
from tests.bench.train_model import LlamaShape, rows, write_model
from tests.bench.train_model import write_job as write_model_job
from tests.tiny.speed_model import SEVEN_BILLION, speed_model
from tests.unit.trainer.jobs import as_preferences, events, losses, run_here, write_job
from tests.unit.trainer.test_base_blocks import random_rows

from llamaleon_convert.header import read_header
from llamaleon_trainer.base.blocks import TYPES, dequantize
from llamaleon_trainer.base.load import load_base
from llamaleon_trainer.estimate import estimate
from llamaleon_trainer.job import read_spec
from llamaleon_trainer.process import why_failed

SMALL = LlamaShape(hidden=192, layers=6, ffn=512, heads=4, kv_heads=2, vocabulary=16_000)
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
        {"find_learning_rate": True, "neftune_noise_alpha": 5.0},
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


def test_preferences_are_learnt_on_a_gpu_as_on_a_cpu(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "method": "dpo",
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "tf32": False,
    }
    found = []
    for device in ("cpu", "cuda"):
        job = write_job(tmp_path / device, device=device, **settings)
        as_preferences(job)
        run_here(job)
        assert events(job)[-1].type == "finished"
        found.append(losses(job))
    assert found[1] == pytest.approx(found[0], abs=1e-3)


@contextmanager
def memory_of(mebibytes: int) -> Iterator[None]:
    torch.cuda.empty_cache()
    _, card = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((mebibytes << 20) / card)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_base_that_does_not_fit_is_not_tried_again(tmp_path: Path) -> None:
    job = write_job(tmp_path, device="cuda")
    with memory_of(1), pytest.raises(torch.OutOfMemoryError) as caught:
        run_here(job)
    code, message = why_failed(caught.value)
    assert code == "out_of_memory"
    assert message.startswith("the base does not fit into memory (CUDA out of memory.")
    assert message.endswith("; use `base_weights` gguf, a smaller base, or a device with more memory")


def test_what_does_not_fit_goes_through_in_halves(tmp_path: Path) -> None:
    job = write_job(tmp_path, rows=66, epochs=1, batch_size=64, micro_batch_size=64, device="cuda")
    with memory_of(140):  # 64 rows take 170 and cuBLAS's own
        run_here(job)
    said = [event.data["message"] for event in events(job, "warning")]
    assert said[0] == "out of memory with 64 rows a pass: going on with 32"
    assert events(job)[-1].type == "finished"


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_estimate_is_near_what_a_gpu_holds(tmp_path: Path, precision: str, recomputed: bool) -> None:
    settings: dict[str, Any] = {"precision": precision, "gradient_checkpointing": recomputed, "batch_size": 8}
    base, _ = write_model(tmp_path / "base", SMALL)
    made = rows(SMALL, 24, longest=256)
    job = write_model_job(tmp_path / "job", base, made, device="cuda", epochs=4, **settings)
    header, spec = read_header(base), read_spec(job)
    before = estimate(header, spec, [len(row.tokens) for row in made], device="cuda").memory_bytes
    torch.cuda.reset_peak_memory_stats()
    run_here(job)
    peak = torch.cuda.max_memory_allocated()  # cuBLAS's workspace in it
    assert events(job, "estimate")[0].data["memory_bytes"] == pytest.approx(peak, rel=0.2)
    assert before == pytest.approx(peak, rel=0.2)


def test_the_estimate_is_of_what_is_held_not_of_what_loading_took(tmp_path: Path) -> None:
    job = write_job(tmp_path, epochs=3, batch_size=4, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    peak = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    del peak
    run_here(job)
    assert events(job, "estimate")[0].data["memory_bytes"] < 1 << 30


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_blocks_are_undone_as_on_a_cpu(kind: str) -> None:
    packed = torch.from_numpy(random_rows(kind))
    ours = dequantize(packed.cuda(), kind, torch.float32).cpu().nan_to_num(0)
    torch.testing.assert_close(ours, dequantize(packed, kind, torch.float32).nan_to_num(0))


def test_seven_billion_parameters_train_in_eight_gigabytes(tmp_path: Path) -> None:
    base = speed_model(tmp_path / "base.gguf", SEVEN_BILLION)
    model = load_base(base, torch.device("cuda"), torch.bfloat16, "gguf")
    torch.cuda.reset_peak_memory_stats()
    step(model, spec_of(str(base)), TOKENS)
    assert torch.cuda.max_memory_reserved() < 8e9
