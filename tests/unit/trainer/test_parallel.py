"""Several processes train the adapter that one would: on two CPU processes, which meet through gloo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.unit.trainer.jobs import adapter_weights, events, losses, run_here, write_job, write_rows
from tests.unit.trainer.test_dpo import write_preferences

from llamaleon_trainer.errors import BadJob
from llamaleon_trainer.inputs import read_inputs
from llamaleon_trainer.job import Row

TIMEOUT_S = 300  # a busy machine imports torch in half a minute


def start(job: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "llamaleon_trainer", str(job)], start_new_session=True)


def finish(job: Path) -> int:
    process = start(job)
    try:
        return process.wait(TIMEOUT_S)
    finally:
        process.kill()


def job_for(directory: Path, **changes: Any) -> Path:
    # 5 rows a step for 2 processes, and a last step of one row, which only one of them has.
    return write_job(directory, epochs=2, batch_size=5, device="cpu", save_every_steps=2, **changes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same job, trained by one process."""
    job = job_for(tmp_path_factory.mktemp("alone") / "job")
    run_here(job)
    return job


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_train_what_one_does(tmp_path: Path, alone: Path, sharding: str) -> None:
    weights = {"base_weights": "full"} if sharding == "fsdp" else {}
    job = job_for(tmp_path / "job", processes=2, sharding=sharding, **weights)
    assert finish(job) == 0, (job / "trainer.log").read_text()
    assert losses(job) == pytest.approx(losses(alone), rel=1e-4)
    for type in ("started", "base_checked", "finished"):
        assert len(events(job, type)) == 1
    evaluated = [[event.data["valid_loss"] for event in events(one, "eval")] for one in (job, alone)]
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-4)
    theirs = adapter_weights(alone)
    for name, ours in adapter_weights(job).items():
        # AdamW divides by the gradient's own size: of one that is nearly zero it enlarges the rounding.
        assert np.linalg.norm(ours - theirs[name]) < 2e-3 * np.linalg.norm(theirs[name]), name


def test_preferences_with_weights_split_over_processes(tmp_path: Path) -> None:
    """The ranks gather each other's weights: one that asks for one more reference waits for ever."""
    settings: dict[str, Any] = {"pairs": 7, "held_out": 3, "epochs": 2, "batch_size": 3, "device": "cpu"}
    settings["precision"] = "bfloat16"
    single = write_preferences(tmp_path / "single", **settings)
    run_here(single)
    job = write_preferences(
        tmp_path / "job", processes=2, sharding="fsdp", base_weights="full", micro_batch_size=1, **settings
    )
    assert finish(job) == 0, (job / "trainer.log").read_text()
    assert losses(job) == pytest.approx(losses(single), abs=0.02)


def test_a_killed_rank_ends_the_job_by_a_signal_and_it_resumes(tmp_path: Path, alone: Path) -> None:
    job = job_for(tmp_path / "job", processes=2)
    process = start(job)
    try:
        wait_for(job, "checkpoint", process)
        ranks = psutil.Process(process.pid).children()
        assert len(ranks) == 2
        ranks[1].kill()
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL, "as one process that is killed"
    finally:
        process.kill()
    assert not [rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE]
    assert not events(job, "failed")
    assert finish(job) == 0
    assert events(job, "started")[1].data["resumed_from_step"] >= 2
    assert losses(job) == pytest.approx(losses(alone), rel=1e-4)


def test_no_rank_outlives_its_parent(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", epochs=1000, batch_size=4, device="cpu", processes=2)
    process = start(job)
    try:
        wait_for(job, "step", process)
        ranks = psutil.Process(process.pid).children()
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
    gone, alive = psutil.wait_procs(ranks, timeout=60)
    assert (len(gone), alive) == (2, [])


def test_cancelling_stops_all_ranks_at_the_same_step(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", epochs=1000, batch_size=4, device="cpu", processes=2)
    process = start(job)
    try:
        wait_for(job, "step", process)
        (job / "cancel").touch()
        assert process.wait(TIMEOUT_S) == 0
    finally:
        process.kill()
    step = events(job, "step")[-1].data["step"]
    assert events(job)[-1].type == "cancelled"
    assert (job / "checkpoints" / f"step-{step}" / "trainer_state.pt").exists()


def test_a_rank_that_fails_says_why(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", processes=2, device="cpu")
    write_rows(job / "train.jsonl", [Row([1, 2, 10**6], [0.0, 1.0, 1.0])] * 8)
    assert finish(job) == 1
    failed = events(job)[-1]
    assert (failed.type, failed.data["code"]) == ("failed", "bad_job")
    assert "token id 1000000 is not in the base's vocabulary" in failed.data["message"]
    assert not list(job.glob(".rank*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processes": 2, "sharding": "deepspeed"}, "`sharding` must be none or fsdp: DeepSpeed"),
        ({"sharding": "fsdp", "base_weights": "full"}, "`sharding` must be none with one process"),
        ({"processes": 2, "sharding": "fsdp"}, "`base_weights` must be full where"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(BadJob, match=message):
        read_inputs(write_job(tmp_path / "job", **changes))


def wait_for(job: Path, type: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not events(job, type):
        assert process.poll() is None, (job / "trainer.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_interface_that_leads_home_is_found() -> None:
    from llamaleon_trainer.parallel import loopback

    assert loopback() in psutil.net_if_addrs()
    assert os.name == "nt" or any(
        address.address == "127.0.0.1" for address in psutil.net_if_addrs()[loopback()]
    )
