"""Jobs on a device of another kind: nothing is left on the processor, and they learn the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.trainer.jobs import events, losses, run_here, write_job, write_rows

from llamaleon_trainer.job import LoraSettings, PreferenceRow, Row

JOBS: dict[str, dict[str, Any]] = {
    "full": {"find_learning_rate": True, "load_best": True, "neftune_noise_alpha": 5.0},
    "blocks": {"base_weights": "gguf", "label_smoothing": 0.1, "gradient_checkpointing": True},
    "packed": {"packing": True, "lora": LoraSettings(r=4, lora_dropout=0.1)},
    "preferences": {"method": "dpo", "learning_rate": 1e-3, "packing": True},
}


@pytest.mark.timeout(300)
def test_jobs_learn_there_as_on_the_processor(tmp_path: Path) -> None:
    for name, settings in JOBS.items():
        for where in ("here", "there"):
            job = write_job(tmp_path / where / name, epochs=2, batch_size=4, **settings)
            if settings.get("method") == "dpo":
                _as_preferences(job)
        run_here(tmp_path / "here" / name)
    jobs = [str(tmp_path / "there" / name) for name in JOBS]
    command = [sys.executable, "-m", "tests.unit.trainer.pretended_gpu", *jobs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in JOBS:
        here, there = tmp_path / "here" / name, tmp_path / "there" / name
        assert events(there)[-1].type == "finished"
        assert events(there, "started")[0].data["device"] == "pretended:0"
        assert losses(there) == pytest.approx(losses(here), abs=1e-3)


def _as_preferences(job: Path) -> None:
    """Each row's answer is better than the next one's."""
    for part in ("train", "valid"):
        path = job / f"{part}.jsonl"
        rows = [msgspec.json.decode(line, type=Row) for line in path.read_bytes().splitlines()]
        write_rows(path, [PreferenceRow(*pair) for pair in zip(rows, rows[1:] + rows[:1], strict=True)])
