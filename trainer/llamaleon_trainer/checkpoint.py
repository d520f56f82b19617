"""Checkpoints: written beside, renamed when complete, and found again after a crash."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct

from .errors import BadJob, JobFailed
from .job import JobSpec
from .lora import load_lora, save_lora

KEEP_NEWEST = 3
# What may change between two runs of a job without changing what it computes.
FREE_FIELDS = (
    *("base", "device", "threads", "precision", "tf32", "processes", "sharding"),
    *("micro_batch_size", "packing", "gradient_checkpointing", "max_base_kl", "report_to", "wandb"),
)
STATE = "trainer_state.pt"


class Progress(Struct):
    """Where a job stands: everything besides weights, optimizer and random numbers."""

    step: int = 0
    trained_tokens: int = 0
    micro_batch_size: int | None = None
    metrics: dict[str, float] = {}  # the newest train_loss, train_accuracy, valid_loss, valid_accuracy
    best_step: int | None = None  # of the lowest held-out loss at a checkpoint
    best_valid_loss: float | None = None
    lowest_valid_loss: float | None = None  # of all evaluations
    evaluations_without_gain: int = 0  # in a row, since the lowest
    learning_rate: float | None = None  # the highest one, where it was found rather than given


class Checkpoints:
    """The directory checkpoints/ of one job."""

    def __init__(self, directory: Path, spec: JobSpec) -> None:
        self._directory = directory
        self._spec = _fixed_fields(spec)

    def save(
        self,
        wrapped: Any,
        optimizer: torch.optim.Optimizer,
        objective: dict[str, torch.Tensor],
        progress: Progress,
    ) -> None:
        """Raises: JobFailed if it cannot be written; earlier ones stay."""
        state = {
            "optimizer": optimizer.state_dict(),
            "objective": objective,
            "progress": msgspec.to_builtins(progress),
            "spec": self._spec,
        }
        try:
            with whole_directory(self.path(progress.step)) as directory:
                save_lora(wrapped, directory)
                with (directory / STATE).open("wb") as file:
                    torch.save(state, file)
        except Exception as error:
            # torch has its own words for a write that failed; the system's are in the context.
            why = error.__context__ if isinstance(error.__context__, OSError) else error
            raise JobFailed(f"the checkpoint of step {progress.step} cannot be written: {why}") from error
        self._forget(progress)

    def restore_newest(
        self, wrapped: Any, optimizer: torch.optim.Optimizer
    ) -> tuple[Progress, dict[str, torch.Tensor]]:
        """Continue from the newest complete checkpoint: the progress, and the objective's state in it; fresh
        ones when there is none.

        Raises:
            BadJob: the checkpoint belongs to another spec.
        """
        for unfinished in self._directory.glob(".step-*.tmp"):
            shutil.rmtree(unfinished, ignore_errors=True)  # each of several ranks tries
        step = self.newest_step()
        if step is None:
            return Progress(), {}
        newest = self.path(step)
        # Through the CPU: what was trained on a GPU may go on without one, or on another rank's.
        state = torch.load(newest / STATE, weights_only=True, map_location="cpu")
        changed = [name for name, value in self._spec.items() if state["spec"].get(name) != value]
        if changed:
            raise BadJob(
                f"{newest.name} was made with another {', '.join(changed)} than spec.json says; "
                "delete checkpoints/ to start over, or restore spec.json"
            )
        load_lora(wrapped, newest)
        optimizer.load_state_dict(state["optimizer"])
        return msgspec.convert(state["progress"], Progress), state["objective"]

    def path(self, step: int) -> Path:
        return self._directory / f"step-{step}"

    def newest_step(self) -> int | None:
        """Of those that training can go on from."""
        steps = self._steps()
        return steps[-1] if steps else None

    def _steps(self) -> list[int]:
        states = self._directory.glob(f"step-*/{STATE}")
        return sorted(int(path.parent.name.removeprefix("step-")) for path in states)

    def _forget(self, progress: Progress) -> None:
        """Old checkpoints stay as adapters, which are small; nobody will go on from them."""
        for step in self._steps()[:-KEEP_NEWEST]:
            if step != progress.best_step:
                (self.path(step) / STATE).unlink()


def _fixed_fields(spec: JobSpec) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(spec)
    return {name: value for name, value in fields.items() if name not in FREE_FIELDS}


@contextmanager
def whole_directory(final: Path) -> Iterator[Path]:
    """A directory to fill, which takes the place of `final`, synced, when the block ends well.

    Else it is removed: on a full disk that makes room to say so.
    """
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            with path.open("r+b") as file:  # Windows syncs only what may be written
                os.fsync(file.fileno())
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
