"""From an adapter file dropped into a watched folder to its first token, while other streams run."""

from __future__ import annotations

import os
import statistics
import threading
import time
from itertools import pairwise
from pathlib import Path

import openai
from tests.bench.figures import Figure
from tests.lora import random_lora
from tests.server import RunningServer
from tests.tiny.speed_model import speed_model

DROPS = 5


class Listener(threading.Thread):
    """A stream on the base that notes when each token came."""

    def __init__(self, client: openai.OpenAI, model: str) -> None:
        super().__init__(daemon=True)
        self.client, self.model = client, model
        self.heard: list[float] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            stream = self.client.completions.create(
                model=self.model, prompt="hola", max_tokens=200, stream=True, extra_body={"ignore_eos": True}
            )
            for _ in stream:
                self.heard.append(time.perf_counter())
                if self.stopped.is_set():
                    return

    def longest_pause_s(self, start: float, end: float) -> float:
        times = [t for t in self.heard if start <= t <= end]
        return max((b - a for a, b in pairwise(times)), default=0.0)


def first_token_s(client: openai.OpenAI, name: str, start: float) -> float:
    """Asks seldom: on two cores every question takes time from what is measured."""
    while True:
        time.sleep(0.025)
        try:
            stream = client.completions.create(model=name, prompt="hola", max_tokens=1, stream=True)
            next(iter(stream))
            return time.perf_counter() - start
        except openai.NotFoundError:
            continue


def drop_s(client: openai.OpenAI, base: Path, made: Path, watched: Path) -> float:
    start = time.perf_counter()
    made.rename(watched / made.name)
    return first_token_s(client, f"{base.stem}+{made.stem}", start)


def measure(scratch: Path) -> list[Figure]:
    base = speed_model(scratch / "half-b-q8_0.gguf")
    watched = scratch / "watched"
    watched.mkdir()
    made = [
        random_lora(base, scratch / f"drop{index}.gguf", seed=index, rank=8) for index in range(2 * DROPS)
    ]
    size = made[0].stat().st_size / 2**20
    os.sync()  # else the server's own sync of one file waits for all of these
    with RunningServer(scratch / "home", ["--model", str(base), "--watch", str(watched)]) as server:
        client = server.openai()
        client.completions.create(model=base.stem, prompt="hola", max_tokens=1)
        quiet = [drop_s(client, base, path, watched) for path in made[:DROPS]]
        listener = Listener(client, base.stem)
        listener.start()
        time.sleep(3)
        busy_from = time.perf_counter()
        usual = statistics.median(b - a for a, b in pairwise(listener.heard))
        busy = [drop_s(client, base, path, watched) for path in made[DROPS:]]
        pause = listener.longest_pause_s(busy_from, time.perf_counter())
        listener.stopped.set()
    quiet_s, busy_s = statistics.median(quiet), statistics.median(busy)
    return [
        Figure(
            f"adapter file of {size:.0f} MiB dropped in, to its first token, 0.5 B-shaped Q8_0",
            f"{quiet_s * 1e3:.0f} ms",
            "under 300 ms",
            {"drop_s": quiet_s},
        ),
        Figure("the same while another stream runs", f"{busy_s * 1e3:.0f} ms", None, {"drop_busy_s": busy_s}),
        Figure(
            f"longest pause of that stream meanwhile (usual step {usual * 1e3:.0f} ms)",
            f"{pause * 1e3:.0f} ms",
            "one step plus the load",
            {"pause_s": pause, "usual_s": usual},
        ),
    ]
