"""Checkpoints: written beside, renamed when complete, and found again after a crash."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct

from .errors import BadJob
from .job import JobSpec
from .lora import load_lora, save_lora

KEEP_NEWEST = 3
# What may change between two runs of a job without changing what it computes.
FREE_FIELDS = ("device", "threads", "precision", "micro_batch_size", "base", "max_base_kl")


class Progress(Struct):
    """Where a job stands: everything besides weights, optimizer and random numbers."""

    step: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    micro_batch_size: int | None = None
    metrics: dict[str, float] = {}  # the newest train_loss, train_accuracy, valid_loss, valid_accuracy
    best_step: int | None = None  # of the lowest held-out loss at a checkpoint
    best_valid_loss: float | None = None


class Checkpoints:
    """The directory checkpoints/ of one job."""

    def __init__(self, directory: Path, spec: JobSpec) -> None:
        self._directory = directory
        self._spec = _fixed_fields(spec)

    def save(self, wrapped: Any, optimizer: torch.optim.Optimizer, progress: Progress) -> Path:
        final = self._directory / f"step-{progress.step}"
        temporary = self._directory / f".step-{progress.step}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        save_lora(wrapped, temporary)
        state = {
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "progress": msgspec.to_builtins(progress),
            "spec": self._spec,
        }
        torch.save(state, temporary / "trainer_state.pt")
        _sync(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        self._forget(progress)
        return final

    def restore_newest(self, wrapped: Any, optimizer: torch.optim.Optimizer) -> Progress:
        """Continue from the newest complete checkpoint; a fresh Progress when there is none.

        Raises:
            BadJob: the checkpoint belongs to another spec.
        """
        step = self.newest_step()
        if step is None:
            return Progress()
        newest = self._directory / f"step-{step}"
        state = torch.load(newest / "trainer_state.pt", weights_only=True)
        changed = [name for name, value in self._spec.items() if state["spec"].get(name) != value]
        if changed:
            raise BadJob(
                f"{newest.name} was made with another {', '.join(changed)} than spec.json says; "
                "delete checkpoints/ to start over, or restore spec.json"
            )
        load_lora(wrapped, newest)
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return msgspec.convert(state["progress"], Progress)

    def newest_step(self) -> int | None:
        steps = self._steps()
        return steps[-1] if steps else None

    def _steps(self) -> list[int]:
        if not self._directory.exists():
            return []
        names = (path.name for path in self._directory.glob("step-*"))
        return sorted(int(name.removeprefix("step-")) for name in names)

    def _forget(self, progress: Progress) -> None:
        for step in self._steps()[:-KEEP_NEWEST]:
            if step != progress.best_step:
                shutil.rmtree(self._directory / f"step-{step}")


def _fixed_fields(spec: JobSpec) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(spec)
    return {name: value for name, value in fields.items() if name not in FREE_FIELDS}


def _sync(directory: Path) -> None:
    for path in directory.iterdir():
        with path.open("r+b") as file:  # Windows syncs only what may be written
            os.fsync(file.fileno())
