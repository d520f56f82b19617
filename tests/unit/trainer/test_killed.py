"""`kill -9` at any moment costs at most one checkpoint, and the job ends as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.trainer.jobs import adapter_weights, events, losses, run_here, write_job
from tests.unit.trainer.test_dpo import write_preferences

from llamaleon_trainer.__main__ import main
from llamaleon_trainer.job import LoraSettings

KILLS = 5
SAVE_EVERY = 3
TIMEOUT_S = 300
# A process of its own for each start, forked from one that has torch loaded: a start takes no 5 seconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["llamaleon_trainer.recipe", "peft", "bitsandbytes"])

SETTINGS: dict[str, dict[str, Any]] = {
    "packing, dropout, noise and 8-bit moments": {
        "packing": True,
        "optimizer": "adamw_8bit",
        "neftune_noise_alpha": 5.0,
        "lora": LoraSettings(r=64, lora_dropout=0.2),  # bitsandbytes rounds moments of 4,096 weights or more
    },
    "preferences": {"lora": LoraSettings(r=4, lora_dropout=0.2), "packing": True},
}


def start(job: Path) -> BaseProcess:
    process = PROCESSES.Process(target=main, args=([str(job)],))
    process.start()
    return process


def written(job: Path) -> int:
    path = job / "events.jsonl"
    return path.stat().st_size if path.exists() else 0


def kill_somewhere(job: Path, draw: random.Random) -> None:
    """Start the job and kill it after some bytes of events and a moment, wherever it then is."""
    process = start(job)
    enough = written(job) + draw.randrange(3000)
    deadline = time.monotonic() + TIMEOUT_S
    while process.is_alive() and written(job) < enough:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(draw.random() * 0.05)
    process.kill()
    process.join(TIMEOUT_S)
    assert process.exitcode in (-signal.SIGKILL, 0)


@pytest.mark.parametrize("name", SETTINGS)
def test_killed_at_random_equals_unbroken(tmp_path: Path, name: str) -> None:
    whole, broken = (_write(tmp_path / side, name) for side in "ab")
    run_here(whole)
    draw = random.Random(name)
    for _ in range(KILLS):
        kill_somewhere(broken, draw)
    last = start(broken)
    last.join(TIMEOUT_S)
    assert last.exitcode == 0
    assert events(broken)[-1].type == "finished"
    assert losses(broken) == pytest.approx(losses(whole), rel=1e-6)
    for weights, wanted in zip(
        adapter_weights(broken).values(), adapter_weights(whole).values(), strict=True
    ):
        np.testing.assert_allclose(weights, wanted, rtol=1e-5, atol=1e-7)
    _assert_little_was_lost(broken)


def _assert_little_was_lost(job: Path) -> None:
    reached, starts = 0, 0
    for event in events(job):
        if event.type == "started":
            starts += 1
            assert (event.data["resumed_from_step"] or 0) >= reached - SAVE_EVERY
        elif event.type == "step":
            reached = event.data["step"]
    assert starts > 2  # or the kills came before anything was begun


def _write(directory: Path, name: str) -> Path:
    common = {"epochs": 6, "batch_size": 4, "save_every_steps": SAVE_EVERY, "eval_every_steps": 4}
    make = write_preferences if name == "preferences" else write_job
    return make(directory, **common, **SETTINGS[name])
