"""A model of 7 billion weights trained on its own Q4_K_M blocks, for real: what that occupies.

Random weights of Qwen2's shape, random tokens; the trainer as a server starts it, on a GPU if there is one.
Where there is none it runs twice: on the CPU, where the figure is the whole process's, with Python and torch
in it; and on a CUDA device of 8 GB that torch is only told of (`tests.pretended`), whose memory is given out
as torch's CUDA allocator does it. The speed of neither says anything about a GPU.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import NamedTuple

from tests.bench.card import train_on_card
from tests.bench.figures import Figure
from tests.bench.options import Options
from tests.bench.train import our_steps, run_process
from tests.bench.train_model import write_job
from tests.pretended.library import why_not
from tests.tiny.speed_model import SEVEN_BILLION, SMALL, speed_model

from llamaleon_trainer.events import read_events
from llamaleon_trainer.job import Event, Row

TOKENS, STEPS = 1024, 2
CARD = "8G"
GIB = 2**30


class Peak(NamedTuple):
    bytes: float
    what: str
    of_tensors: float


def measure(scratch: Path, options: Options) -> list[Figure]:
    shape, tokens = (SMALL, 64) if options.quick else (SEVEN_BILLION, TOKENS)
    base = speed_model(scratch / "base.gguf", shape)
    draw = random.Random(0)
    row = [draw.randrange(300, shape.vocabulary) for _ in range(tokens)]
    weights = [0.0] * (tokens // 2) + [1.0] * (tokens - tokens // 2)
    job = _job(scratch / "job", base, Row(row, weights))
    peak_mib, seconds = run_process([sys.executable, "-m", "llamaleon_trainer", str(job)], job / "said")
    if _started(job) != "cpu":
        peak = max(event.data["memory_bytes"] for event in _events(job) if event.type == "step")
        return [_figure(job, tokens, seconds, Peak(peak, "a GPU", peak))]
    whole = peak_mib * 2**20
    found = [_figure(job, tokens, seconds, Peak(whole, "a CPU, the whole process", whole))]
    if why_not() is None:
        job = _job(scratch / "pretended", base, Row(row, weights))
        found.append(_on_the_card(job, tokens))
    return found


def _job(directory: Path, base: Path, row: Row) -> Path:
    return write_job(
        directory,
        base,
        [row] * STEPS,
        batch_size=1,
        base_weights="gguf",
        gradient_checkpointing=True,
        precision="bfloat16",
        learning_rate=1e-3,
    )


def _events(job: Path) -> list[Event]:
    found, _ = read_events(job / "events.jsonl")
    return found


def _started(job: Path) -> str:
    return next(str(event.data["device"]) for event in _events(job) if event.type == "started")


def _on_the_card(job: Path, tokens: int) -> Figure:
    """All that is taken of the card, not by tensors alone."""
    taken, seconds = train_on_card(job, CARD)
    assert _started(job) == "cuda"
    peak = Peak(
        taken.most_reserved + taken.context,
        f"a CUDA device of {taken.capacity / 1e9:.0f} GB that torch is only told of: "
        f"{taken.most_allocated / GIB:.2f} GiB of tensors, what its allocator holds free beside them, and "
        f"{taken.context >> 20} MiB of context",
        of_tensors=taken.most_allocated,
    )
    return _figure(job, tokens, seconds, peak)


def _figure(job: Path, tokens: int, seconds: float, peak: Peak) -> Figure:
    steps = our_steps(job)
    foretold = next(event.data["memory_bytes"] for event in _events(job) if event.type == "estimate")
    speed = steps[-1].tokens / (steps[-1].end - steps[-2].end)
    raw = {"peak_bytes": peak.bytes, "tensor_bytes": peak.of_tensors, "estimated_bytes": foretold}
    raw |= {"seconds": seconds, "tokens": float(tokens), "tokens_per_s": speed}
    raw |= {"first_loss": steps[0].loss, "last_loss": steps[-1].loss}
    return Figure(
        f"7 B shape in Q4_K_M trained on its own blocks, {tokens} tokens, batch 1, r 16, bfloat16, "
        f"activations recomputed, {STEPS} steps on one row (loss {steps[0].loss:.2f}, then "
        f"{steps[-1].loss:.2f}): most memory of {peak.what}; in brackets, what was foretold "
        f"{'of tensors ' if peak.of_tensors < peak.bytes else ''}over it",
        f"{peak.bytes / GIB:.2f} GiB ({foretold / peak.of_tensors:.2f}); {speed:.1f} tokens/s, "
        f"{seconds / 60:.0f} minutes in all",
        "under 8 GB of a GPU",
        raw,
    )
