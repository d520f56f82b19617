"""What running streams notice of a long prompt, and what a prefix is worth that was moved out of the cache.

usage: python -m tests.bench flow
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench import models
from tests.bench.figures import Figure
from tests.bench.options import THREADS, Options
from tests.engine_process import EngineProcess

STREAMS, PROMPT, PREFIX = 4, 1500, 1000
SETTINGS: dict[str, Any] = {"threads": THREADS, "context_tokens": 2048, "speculation": False}
NO_TARGET = 1000.0


def measure(scratch: Path, options: Options) -> list[Figure]:
    base = models.shaped(options, "Q8_0")
    title = f"{models.shape_title(options)} Q8_0"
    return [*flow(base, title, options.quick), ram(base, title, options.quick)]


def flow(base: Path, title: str, quick: bool) -> list[Figure]:
    """Pauses between the tokens of four streams while a long prompt arrives, with a target and without."""
    figures = []
    for name, target in (("the default target of 0.25 s", 0.25), ("no target", NO_TARGET)):
        with EngineProcess(base, step_target_s=target, **SETTINGS) as engine:
            usual, pauses, first_s = long_prompt(engine, 300 if quick else PROMPT)
        longest = max(pauses)
        figures.append(
            Figure(
                f"longest pause of {STREAMS} streams while a prompt of {PROMPT:,} tokens arrives, {name}, "
                f"{title}",
                f"{longest * 1e3:.0f} ms, median {statistics.median(pauses) * 1e3:.0f} "
                f"(without it {usual * 1e3:.0f}); its first token after {first_s:.1f} s",
                raw={"longest_s": longest, "usual_s": usual, "first_token_s": first_s},
            )
        )
    return figures


def long_prompt(engine: EngineProcess, tokens: int) -> tuple[float, list[float], float]:
    """Seconds of a usual step, of each step while the prompt is read, and until its first token."""
    teach = engine.start([700 + place % 500 for place in range(400)], max_tokens=4, ignore_eos=True)
    engine.wait([teach])  # what prompts cost
    streams = [engine.start([300 + at] * 8, max_tokens=1500, ignore_eos=True) for at in range(STREAMS)]
    heard = listen(engine, streams[0], 30)
    usual = statistics.median(later - earlier for earlier, later in pairwise(heard[10:]))
    began = time.perf_counter()
    long = engine.start([1000 + place % 777 for place in range(tokens)], max_tokens=2, ignore_eos=True)
    times = [began]
    while engine.answers[long].deltas == 0:
        count = engine.answers[streams[0]].deltas
        engine.receive()
        if engine.answers[streams[0]].deltas > count:
            times.append(time.perf_counter())
    first_s = time.perf_counter() - began
    return usual, [later - earlier for earlier, later in pairwise(times)], first_s


def listen(engine: EngineProcess, stream: int, tokens: int) -> list[float]:
    times: list[float] = []
    while len(times) < tokens:
        count = engine.answers[stream].deltas
        engine.receive()
        if engine.answers[stream].deltas > count:
            times.append(time.perf_counter())
    return times


def ram(base: Path, title: str, quick: bool) -> Figure:
    """A prefix that had to leave the KV cache: restored from RAM against computed again."""
    prefix = 200 if quick else PREFIX
    # A cache in which one such prefix makes the other leave.
    options = SETTINGS | {"context_tokens": prefix + 100, "kv_tokens": prefix + 100}
    seconds: dict[str, list[float]] = {"restored": [], "computed": []}
    with EngineProcess(base, **options) as engine:
        texts = [[1000 + start + place % 777 for place in range(prefix)] for start in (0, 40_000)]
        for round_ in range(4):
            for text in texts:
                timings = engine.generate([*text, 5 + round_], max_tokens=1).done
                kind = "restored" if timings.cached_tokens > prefix / 2 else "computed"
                seconds[kind].append(timings.timings.prefill_s)
        restored = engine.status.prefix.restored
    ratio = statistics.median(seconds["restored"]) / statistics.median(seconds["computed"])
    return Figure(
        f"first token of a prefix of {prefix:,} tokens restored from RAM, over computing it, {title}",
        f"{ratio:.3f} ({statistics.median(seconds['restored']) * 1e3:.0f} against "
        f"{statistics.median(seconds['computed']) * 1e3:.0f} ms)",
        raw={"ratio": ratio, "restored": float(restored)},
    )
