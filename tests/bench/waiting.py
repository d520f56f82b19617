"""How llama.cpp's threads wait for each other, by OpenMP's settings: what each is worth on this machine.

What the engine chooses is in binding/cores.py, with the reasons. llama-server runs with OpenMP's default,
which spins for a while.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from tests.bench import models
from tests.bench.figures import Figure
from tests.bench.options import THREADS, Options
from tests.engine_process import EngineProcess

ROUNDS, TOKENS = 3, 32
POLICY, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"  # the second overrules the first
SETTINGS: dict[str, dict[str, str]] = {
    "as the engine chooses": {},
    "sleeping (passive)": {POLICY: "passive"},
    "spinning 1,000 times on any core": {SPINS: "1000"},
    "spinning 300,000 times on any core (OpenMP's default)": {SPINS: "300000"},
}


def measure(scratch: Path, options: Options) -> list[Figure]:
    """One engine at a time, since threads that spin disturb each other."""
    base = models.shaped(options, "Q8_0")
    values: dict[str, list[tuple[float, float, float]]] = {name: [] for name in SETTINGS}
    for _ in range(1 if options.quick else ROUNDS):
        for name, variables in SETTINGS.items():
            values[name].append(measured(base, variables))
    first = values[next(iter(SETTINGS))]
    figures = []
    for name, found in values.items():
        one, eight, cores = (statistics.median(column) for column in zip(*found, strict=True))
        ratio = statistics.median(a[0] / b[0] for a, b in zip(found, first, strict=True))
        figures.append(
            Figure(
                f"threads wait: {name}: tokens/s of 1 stream, of 8, {models.shape_title(options)} Q8_0",
                f"{one:.0f}, {eight:.0f} ({ratio:.2f} of the first; {cores:.1f} cores used by 1 stream)",
                raw={"one_tokens_per_s": one, "eight_tokens_per_s": eight, "cores": cores, "ratio": ratio},
            )
        )
    return figures


def measured(base: Path, variables: dict[str, str]) -> tuple[float, float, float]:
    """Tokens per second of one stream and of eight; cores that the one kept busy."""
    with (
        environment(variables),
        EngineProcess(
            base, threads=THREADS, context_tokens=512, parallel_sequences=8, speculation=False
        ) as engine,
    ):
        engine.generate([300] * 8, max_tokens=2, ignore_eos=True)
        process = psutil.Process(engine.process.pid)
        busy = cpu_s(process)
        timings = engine.generate([301] * 4, max_tokens=TOKENS, ignore_eos=True).done.timings
        busy = cpu_s(process) - busy
        numbers = [engine.start([310 + at] * 4, max_tokens=TOKENS, ignore_eos=True) for at in range(8)]
        slowest = max(answer.done.timings.decode_s for answer in engine.wait(numbers))
    seconds = timings.prefill_s + timings.decode_s
    return (TOKENS - 1) / timings.decode_s, 8 * (TOKENS - 1) / slowest, busy / seconds


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """`variables` and none of the others that decide it, while an engine starts."""
    kept = {name: os.environ.pop(name) for name in (POLICY, SPINS) if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(kept)
