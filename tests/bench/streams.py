"""Tokens per second of 1 and of 8 streams on the same base, through HTTP."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.figures import Figure
from tests.data import NANO
from tests.server import RunningServer
from tests.tiny.speed_model import Shape, speed_model

TOKENS = 48


def tokens_per_s(server: RunningServer, model: str, streams: int) -> float:
    """Decoded tokens of all streams over the wall time of the slowest, median of three."""
    client = server.openai()

    def one(index: int) -> int:
        done = client.completions.create(
            model=model,
            prompt=f"{index} Érase una vez",
            max_tokens=TOKENS,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
        return int(done.usage.completion_tokens)

    rates = []
    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(one, range(streams)))
        for _ in range(3):
            start = time.perf_counter()
            tokens = sum(pool.map(one, range(streams)))
            rates.append(tokens / (time.perf_counter() - start))
    return statistics.median(rates)


def measure(scratch: Path) -> list[Figure]:
    shaped = {
        kind: speed_model(scratch / f"half-b-{kind.lower()}.gguf", Shape(quantization=kind))
        for kind in ("Q4_0", "Q8_0")
    }
    models = {NANO.stem: "nano"} | {path.stem: f"0.5 B-shaped {kind}" for kind, path in shaped.items()}
    figures = []
    # Random weights fall into loops, which are guessed right: that would be the speed of guessing.
    arguments = ["--no-speculation", *(part for path in shaped.values() for part in ("--model", str(path)))]
    with RunningServer(scratch / "home", arguments) as server:
        for model, what in models.items():
            one, eight = tokens_per_s(server, model, 1), tokens_per_s(server, model, 8)
            figures.append(
                Figure(
                    f"8 streams over 1, {what} ({eight:.0f} against {one:.0f} tokens/s)",
                    f"{eight / one:.1f} x",
                    "at least 2 x",
                    {"one_tokens_per_s": one, "eight_tokens_per_s": eight},
                )
            )
    return figures
