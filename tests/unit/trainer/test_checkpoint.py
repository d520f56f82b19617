"""Checkpoints where something is in the way: a full disk, another rank, another device."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.trainer.jobs import events, losses, run_here, write_job
from tests.unit.trainer.test_settings import change, held_out_losses

from llamaleon_trainer.checkpoint import Checkpoints
from llamaleon_trainer.errors import BadJob, JobFailed
from llamaleon_trainer.inputs import read_inputs
from llamaleon_trainer.job import JobSpec, LoraSettings, write_atomic
from llamaleon_trainer.parallel import Ranks
from llamaleon_trainer.recipe import run
from llamaleon_trainer.train import Trainer

resource = pytest.importorskip("resource", reason="limits of a process are POSIX's")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_job(tmp_path / "job", epochs=2, batch_size=4, device="cpu")


@pytest.mark.parametrize("part", ["adapter_model.safetensors", "trainer_state.pt"])
def test_a_full_disk_leaves_the_earlier_checkpoints_and_says_so(
    job: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """No file may grow beyond what `part` needs: the system's answer is that of a full disk."""
    save = Checkpoints.save

    def limited(self: Checkpoints, *rest: Any) -> None:
        if not self.path(4).exists():
            return save(self, *rest)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((self.path(4) / part).stat().st_size - 1, hard))
        try:
            return save(self, *rest)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(Checkpoints, "save", limited)
    with pytest.raises(JobFailed, match=r"the checkpoint of step 8 cannot be written: .*File too large"):
        run_here(job)
    assert [path.name for path in (job / "checkpoints").iterdir()] == ["step-4"]
    monkeypatch.setattr(Checkpoints, "save", save)
    run_here(job)
    assert events(job, "started")[-1].data["resumed_from_step"] == 4
    assert events(job)[-1].type == "finished"


def test_a_checkpoint_that_nobody_heard_of_is_told(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after it was written and before its event was: it is a model that may be called, too."""
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_tell_checkpoint", _die)
        with pytest.raises(KeyboardInterrupt):
            run_here(job)
    assert not events(job, "checkpoint")
    run_here(job)
    assert [event.data["step"] for event in events(job, "checkpoint")] == [4, 8]
    assert events(job, "checkpoint")[0].data["train_loss"] == losses(job)[4]


def _die(_: Trainer) -> None:
    raise KeyboardInterrupt


def test_what_a_gpu_trained_goes_on_without_one(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`device` is one of the fields that may change between two runs."""
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        run_here(job, stop_after=3)
    run_here(job)
    assert events(job, "started")[-1].data["resumed_from_step"] == 3
    assert events(job)[-1].type == "finished"
    assert len(losses(job)) == 8


def test_what_another_rank_tidies_up_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(self: Path, pattern: str) -> Iterator[Path]:
        return iter([self / ".step-3.tmp"] if pattern.endswith(".tmp") else [])

    monkeypatch.setattr(Path, "glob", seen)  # the directory was there a moment ago
    checkpoints = Checkpoints(tmp_path, JobSpec(job_id="job", base="base"))
    assert checkpoints.restore_newest(None, torch.optim.SGD([torch.zeros(1)]))[0].step == 0


class _Second(Ranks):
    """Rank 1 of two, whose work is what one process would do."""

    rank = 1

    def __init__(self) -> None:
        self.waits = 0

    def share(self, items: Any) -> Any:
        return items

    def barrier(self) -> None:
        self.waits += 1


def test_a_rank_waits_for_the_last_checkpoint_also_when_it_is_written_already(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rank 0 was quicker, the checkpoint of the early stop is there when the others come to it."""
    held_out_losses(monkeypatch, [5, 4, 4.5, 3, 3.1, 3.0, 2.0])
    change(job, eval_every_steps=1, early_stopping_patience=2)
    looked: list[int] = []

    def newest(_: Checkpoints) -> int | None:
        looked.append(1)
        return None if len(looked) <= 2 else 5  # when it starts, there is none

    monkeypatch.setattr(Checkpoints, "newest_step", newest)
    ranks, quiet = _Second(), _Quiet()
    run(job, read_inputs(job), quiet, lambda: None, ranks)  # type: ignore[arg-type]  # writes nothing
    assert "finished" in quiet.heard
    assert ranks.waits == 3  # after step 4, after step 5, at the end


class _Quiet:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def write(self, type: str, **_: Any) -> None:
        self.heard.append(type)


def test_an_adapter_of_another_rank_is_no_beginning(tmp_path: Path) -> None:
    first = write_job(tmp_path / "first", epochs=1, batch_size=8)
    run_here(first)
    lora = LoraSettings(r=8, lora_alpha=8)
    second = write_job(tmp_path / "second", init_adapter=str(first / "adapter"), lora=lora)
    with pytest.raises(BadJob, match=r"lora_A.* is \(4, 64\), not \(8, 64\): of another rank"):
        run_here(second)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "name", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    shutil.rmtree(tmp_path / "name")
    write_atomic(tmp_path / "name", b"data")
    assert (tmp_path / "name").read_bytes() == b"data"
