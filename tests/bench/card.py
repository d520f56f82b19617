"""Trainings on a CUDA device that torch is only told of: what they take of its memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tests.bench.train import run_process


@dataclass(frozen=True)
class Taken:
    """Bytes, of `tests.pretended`."""

    most_allocated: int  # by tensors
    most_reserved: int  # with what the allocator holds free beside them
    context: int  # CUDA's own, as it is assumed
    capacity: int


def train_on_card(job: Path, capacity: str) -> tuple[Taken, float]:
    """What was taken and the seconds; the job fails where that is more than the card has."""
    command = [sys.executable, "-m", "tests.pretended", capacity, "llamaleon_trainer", str(job)]
    _, seconds = run_process(command, job / "said")
    words = (job / "said").read_text().split("pretended card: ")[1]
    return msgspec.json.decode(words.splitlines()[0], type=Taken), seconds
