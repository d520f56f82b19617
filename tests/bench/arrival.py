"""An adapter enters the bank while eight streams run: what it adds to one step of theirs.

Warm: LoadAdapter has been answered, no request has used it yet. Beside it the same request under an adapter
that is in the bank already, since its prompt, too, makes a step longer. And cold: the load itself.
"""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.bench import models
from tests.bench.figures import Figure
from tests.bench.options import THREADS, Options
from tests.engine_process import EngineProcess
from tests.lora import random_lora

from llamaleon_server.engine.protocol import AdapterUse, LoadAdapter, Reply, Step
from llamaleon_server.engine.status import BankStatus

STREAMS, HOT, ARRIVALS = 8, 4, 12
RANK = 8  # 17 MB on every linear layer of the 0.5 B-shaped model, in F32
PROMPT = list(range(300, 308))
USUAL_STEPS = 12  # between two events, to tell the usual step from


@dataclass
class Watch:
    """The engine, and when each of its steps was heard of."""

    engine: EngineProcess
    steps: list[float]

    def hear(self) -> None:
        message = self.engine.receive()
        assert message is not None, "the engine has gone"
        if isinstance(message, Step):
            self.steps.append(time.perf_counter())

    def usual_steps(self) -> None:
        until = len(self.steps) + USUAL_STEPS
        while len(self.steps) < until:
            self.hear()

    def worst_ms(self, begun: int) -> float:
        """The longest time between two steps from step `begun` on."""
        return max(b - a for a, b in pairwise(self.steps[begun - 1 :])) * 1e3

    def request_ms(self, key: str) -> float:
        """The worst step of the others around a request under `key`, until two steps after its end."""
        self.usual_steps()
        begun = len(self.steps)
        number = self.engine.start(
            PROMPT, adapters=(AdapterUse(key),), max_tokens=3, ignore_eos=True, cache_prompt=False
        )
        while self.engine.answers[number].finish is None:
            assert self.engine.answers[number].failed is None, self.engine.answers[number].failed
            self.hear()
        self.hear()
        self.hear()
        return self.worst_ms(begun)

    def load_ms(self, key: str, path: Path) -> float:
        """The worst step of the others while an adapter is loaded from disk."""
        self.usual_steps()
        begun = len(self.steps)
        number = self.engine.new_id()
        self.engine.send(LoadAdapter(id=number, key=key, path=str(path)))
        while number not in self.engine.replies:
            self.hear()
        assert isinstance(self.engine.replies[number], Reply), self.engine.replies[number]
        self.hear()
        self.hear()
        return self.worst_ms(begun)


def measure(scratch: Path, options: Options) -> list[Figure]:
    return arrival(scratch, models.shaped(options, "Q8_0"), goal_ms=20)


def arrival(scratch: Path, base: Path, goal_ms: int) -> list[Figure]:
    paths = copies(base, scratch, 2 * ARRIVALS + HOT)
    size = paths[0].stat().st_size / 1e6
    with EngineProcess(
        base, threads=THREADS, context_tokens=1024, parallel_sequences=2 * STREAMS, speculation=False
    ) as engine:
        keys = [f"{number:064x}" for number in range(len(paths))]
        hot, warm, cold = keys[:HOT], keys[HOT:-ARRIVALS], keys[-ARRIVALS:]
        for key, path in zip(keys[:-ARRIVALS], paths, strict=False):
            engine.load(key, path)
        for key in hot:
            engine.generate(PROMPT, adapters=(AdapterUse(key),), max_tokens=2)
        before = engine.status.bank
        watch = Watch(engine, [])
        streams = start_streams(engine, hot)
        watch.usual_steps()
        known, arrived, copying_s = [], [], []
        for number, key in enumerate(warm):
            known.append(watch.request_ms(hot[number % HOT]))
            arrived.append(watch.request_ms(key))
            copying_s.append(engine.status.bank.last_copy_s)
        after = engine.status.bank
        loaded = [watch.load_ms(key, path) for key, path in zip(cold, paths[-ARRIVALS:], strict=True)]
        for number in streams:
            assert engine.answers[number].finish is None, "a stream ended while it was listened to"
    return [
        arrival_figure(
            size,
            known=known,
            arrived=arrived,
            copying_s=copying_s,
            banks=(before, after),
            goal_ms=goal_ms,
        ),
        load_figure(size, known, loaded),
    ]


def copies(base: Path, folder: Path, count: int) -> list[Path]:
    """The same file under other names: the engine goes by the key."""
    first = random_lora(base, folder / "0.gguf", seed=1, rank=RANK)
    return [first, *(Path(shutil.copy(first, folder / f"{number}.gguf")) for number in range(1, count))]


def start_streams(engine: EngineProcess, keys: list[str]) -> list[int]:
    """Half of them on the bare base, the others under adapters: what a running server looks like."""
    numbers = []
    for stream in range(STREAMS):
        uses = (AdapterUse(keys[stream % len(keys)]),) if stream % 2 else ()
        prompt = [400 + 7 * stream + place for place in range(8)]
        numbers.append(
            engine.start(prompt, adapters=uses, max_tokens=1000, ignore_eos=True, cache_prompt=False)
        )
    return numbers


def arrival_figure(
    size: float,
    *,
    known: list[float],
    arrived: list[float],
    copying_s: list[float],
    banks: tuple[BankStatus, BankStatus],
    goal_ms: int,
) -> Figure:
    """`banks`: before and after. The worst of the requests that copied nothing says what is the machine's."""
    usual, (before, after) = statistics.median(known), banks
    added, most = statistics.median(arrived) - usual, max(arrived) - usual
    rebuilds, copied = after.rebuilds - before.rebuilds, after.copies - before.copies
    return Figure(
        f"a warm adapter of {size:.0f} MB enters the bank while {STREAMS} streams run: added to the worst "
        f"step beside the same request under an adapter that is there ({usual:.0f} ms)",
        f"{added:.0f} ms, {most:.0f} ms in the worst of {len(arrived)} (where nothing arrived "
        f"{max(known) - usual:.0f} in the worst of as many); {copied} copied in, each in "
        f"{min(copying_s) * 1e3:.0f} to {max(copying_s) * 1e3:.0f} ms, {rebuilds} re-reserves",
        f"at most {goal_ms} ms, no re-reserve",
        {
            "added_ms": added,
            "added_most_ms": most,
            "known_most_ms": max(known) - usual,
            "worst_step_known_ms": usual,
            "copies": float(copied),
            "rebuilds": float(rebuilds),
            "longest_copy_s": max(copying_s),
        },
    )


def load_figure(size: float, known: list[float], loaded: list[float]) -> Figure:
    return Figure(
        f"longest pause of these streams while an adapter of {size:.0f} MB is loaded from disk",
        f"{statistics.median(loaded):.0f} ms, {max(loaded):.0f} ms in the worst of {len(loaded)}",
        None,
        {
            "pause_ms": statistics.median(loaded),
            "pause_most_ms": max(loaded),
            "known_ms": statistics.median(known),
        },
    )
