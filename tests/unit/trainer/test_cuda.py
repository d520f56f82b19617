"""What only a GPU shows. Skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.trainer.jobs import events, losses, run_here, write_job

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_a_job_learns_on_a_gpu(tmp_path: Path, precision: str, limit: float) -> None:
    job = write_job(tmp_path, epochs=4, batch_size=4, device="cuda", precision=precision)
    run_here(job)
    assert events(job, "started")[0].data["device"] == "cuda"
    assert events(job, "base_checked")[0].data["mean_kl"] < limit
    assert losses(job)[16] < losses(job)[1] - 0.5
    assert events(job)[-1].type == "finished"
