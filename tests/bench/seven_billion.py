"""A model of 7 billion weights trained on its own Q4_K_M blocks, for real: what that occupies.

Random weights of Qwen2's shape, random tokens; the trainer as a server starts it, on a GPU if there is one.
On a CPU the figure is the whole process's, with Python and torch in it and more in float32 than a GPU holds;
the speed then says nothing about one.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.options import Options
from tests.bench.train import our_steps, run_process
from tests.bench.train_model import write_job
from tests.tiny.speed_model import SEVEN_BILLION, SMALL, speed_model

from llamaleon_trainer.events import read_events
from llamaleon_trainer.job import Row

TOKENS, STEPS = 1024, 2
GIB = 2**30


def measure(scratch: Path, options: Options) -> list[Figure]:
    shape, tokens = (SMALL, 64) if options.quick else (SEVEN_BILLION, TOKENS)
    base = speed_model(scratch / "base.gguf", shape)
    draw = random.Random(0)
    row = [draw.randrange(300, shape.vocabulary) for _ in range(tokens)]
    weights = [0.0] * (tokens // 2) + [1.0] * (tokens - tokens // 2)
    job = write_job(
        scratch / "job",
        base,
        [Row(row, weights)] * STEPS,
        batch_size=1,
        base_weights="gguf",
        gradient_checkpointing=True,
        precision="bfloat16",
        learning_rate=1e-3,
    )
    peak_mib, seconds = run_process([sys.executable, "-m", "llamaleon_trainer", str(job)], job / "said")
    steps = our_steps(job)
    events, _ = read_events(job / "events.jsonl")
    foretold = next(event.data["memory_bytes"] for event in events if event.type == "estimate")
    device = next(str(event.data["device"]) for event in events if event.type == "started")
    peak, what = peak_mib * 2**20, "a CPU, the whole process"
    if device != "cpu":
        peak, what = max(event.data["memory_bytes"] for event in events if event.type == "step"), "a GPU"
    raw = {"peak_bytes": peak, "estimated_bytes": foretold, "seconds": seconds, "tokens": float(tokens)}
    raw |= {"first_loss": steps[0].loss, "last_loss": steps[-1].loss}
    raw["tokens_per_s"] = steps[-1].tokens / (steps[-1].end - steps[-2].end)
    return [
        Figure(
            f"7 B shape in Q4_K_M trained on its own blocks, {tokens} tokens, batch 1, r 16, bfloat16, "
            f"activations recomputed, {STEPS} steps on one row (loss {raw['first_loss']:.2f}, then "
            f"{raw['last_loss']:.2f}): most memory of {what}; in brackets, what was foretold over it",
            f"{peak / GIB:.2f} GiB ({foretold / peak:.2f}); {raw['tokens_per_s']:.1f} tokens/s, "
            f"{seconds / 60:.0f} minutes in all",
            "under 8 GB of a GPU",
            raw,
        )
    ]
