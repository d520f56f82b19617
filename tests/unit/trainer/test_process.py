"""The trainer as a process: killed, cancelled, signalled, locked, and given nonsense."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.unit.trainer.jobs import events, losses, run_here, write_job, write_rows

from llamaleon_trainer.job import Row
from llamaleon_trainer.lock import JobLocked, job_lock

TIMEOUT_S = 300  # a busy machine imports torch in half a minute


@contextmanager
def trainer(job: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "llamaleon_trainer", str(job)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def run_process(job: Path) -> int:
    with trainer(job) as process:
        return process.wait(TIMEOUT_S)


def wait_for(job: Path, type: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not events(job, type):
        assert process.poll() is None, (job / "trainer.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_and_started_again_equals_unbroken(tmp_path: Path) -> None:
    whole, broken = (
        write_job(tmp_path / name, epochs=8, batch_size=4, save_every_steps=3, eval_every_steps=100)
        for name in "ab"
    )
    run_here(whole)
    with trainer(broken) as process:
        wait_for(broken, "checkpoint", process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL
    assert not events(broken, "finished")
    assert run_process(broken) == 0
    resumed = events(broken, "started")[1].data["resumed_from_step"]
    assert resumed >= 3
    assert events(broken)[-1].type == "finished"
    assert losses(broken) == pytest.approx(losses(whole), rel=1e-4)


def test_cancelled_paused_and_terminated(tmp_path: Path) -> None:
    """All ways to stop, on one job: each leaves a checkpoint, from which the job goes on."""
    job = write_job(tmp_path, epochs=1000, batch_size=4, save_every_steps=10**6, eval_every_steps=10**6)
    reached = 0
    for how, event in (("cancel", "cancelled"), ("pause", "paused"), ("SIGTERM", "paused")):
        with trainer(job) as process:
            _wait_for_step(job, reached + 1, process)
            if how == "SIGTERM":
                process.terminate()
            else:
                (job / how).touch()
            assert process.wait(TIMEOUT_S) == 0
        (job / how).unlink(missing_ok=True)
        resumed = events(job, "started")[-1].data["resumed_from_step"]
        assert resumed == (reached or None)
        reached = events(job, "step")[-1].data["step"]
        assert (events(job)[-1].type, events(job)[-1].data) == (event, {"step": reached})
        assert (job / "checkpoints" / f"step-{reached}" / "trainer_state.pt").exists()


def test_paused_before_it_began(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    (job / "pause").touch()
    assert run_process(job) == 0
    assert (events(job)[-1].type, events(job)[-1].data) == ("paused", {"step": 0})
    assert not (job / "checkpoints").exists()


def _wait_for_step(job: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not any(event.data["step"] >= step for event in events(job, "step")):
        assert process.poll() is None, (job / "trainer.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_failure_is_an_event_and_a_traceback(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    write_rows(job / "train.jsonl", [Row([1, 2, 3], [0, 1])])
    assert run_process(job) == 1
    failed = events(job)[-1]
    assert (failed.type, failed.data["code"]) == ("failed", "bad_job")
    assert failed.data["message"] == "train.jsonl, line 1: 3 tokens but 2 weights"
    assert "Traceback" in (job / "trainer.log").read_text()


def test_an_unforeseen_failure_is_internal(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    (job / "probe.json").unlink()
    (job / "probe.json").mkdir()
    assert run_process(job) == 1
    assert events(job)[-1].data["code"] == "internal"


def test_two_trainers_never_share_a_job(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with job_lock(job / "trainer.lock"), trainer(job) as process:
        _, said = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 2
    assert f"is being trained by process {os.getpid()}" in said
    assert not events(job)
    with job_lock(job / "trainer.lock"):
        pass  # free again


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "trainer.lock"
    with job_lock(path):
        assert path.read_text() == str(os.getpid())
        with pytest.raises(JobLocked), job_lock(path):
            pass


def test_no_such_directory(tmp_path: Path) -> None:
    with trainer(tmp_path / "nowhere") as process:
        _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert "usage" in said
