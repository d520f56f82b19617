"""What our Python costs in a step of eight streams: schedule, batch, post-process, messages.

The figure is the engine's own, of an engine process. The profile is of an engine in a process of its own
under cProfile, which makes small functions look slower than they are; its shares are what counts.
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import subprocess
import sys
from pathlib import Path

import msgspec
from tests.bench import models
from tests.bench.figures import Figure
from tests.bench.options import THREADS, Options
from tests.data import NANO
from tests.engine_process import EngineProcess
from tests.lora import random_lora

from llamaleon_server.binding.cores import SPINS
from llamaleon_server.engine.options import EngineOptions
from llamaleon_server.engine.protocol import (
    AdapterUse,
    Failed,
    FromEngine,
    Generate,
    LoadAdapter,
    Reply,
    Sampling,
    Step,
)

STREAMS, PROMPT_TOKENS = 8, 8
TOKENS = 256  # of nano's streams
BIG_TOKENS = 48
ROWS = 16  # of the profile
WAITING = (
    "context.decode",
    "method 'acquire' of '_thread.lock' objects",
)  # for llama.cpp, for sampler threads


def measure(scratch: Path, options: Options) -> list[Figure]:
    shaped = models.shaped(options, "Q8_0")
    return [
        figure
        for base, title, tokens in (
            (NANO, "nano", TOKENS),
            (shaped, f"{models.shape_title(options)} Q8_0", BIG_TOKENS),
        )
        for figure in host_figures(scratch, base, title, tokens)
    ] + [profile_figure(scratch)]


def host_figures(scratch: Path, base: Path, title: str, tokens: int) -> list[Figure]:
    """Bare, and each stream under an adapter of its own."""
    adapters = adapter_files(scratch, base)
    figures = []
    for kind, used in (("base", 0), (f"{STREAMS} adapters", STREAMS)):
        with EngineProcess(
            base, threads=THREADS, context_tokens=512, parallel_sequences=STREAMS, speculation=False
        ) as engine:
            for key, path in list(adapters.items())[:used]:
                engine.load(key, path)
            requests = [request(number, list(adapters)[:used], tokens) for number in range(STREAMS)]
            for _ in range(2):  # the first round loads, compiles and fills caches
                engine.wait([start(engine, one) for one in requests])
            step = engine.status.step
        figures.append(
            Figure(
                f"our Python per step, {STREAMS} streams, {kind}, {title}",
                f"{step.host_mean_s * 1e3:.2f} ms of {step.mean_s * 1e3:.1f} ms",
                "under 0.5 ms",
                {
                    "host_mean_s": step.host_mean_s,
                    "step_mean_s": step.mean_s,
                    "step_p99_s": step.p99_s,
                    "sequences_mean": step.sequences_mean,
                    "adapters_mean": step.adapters_mean,
                },
            )
        )
    return figures


def adapter_files(scratch: Path, base: Path) -> dict[str, Path]:
    """Key to file."""
    folder = scratch / base.stem
    folder.mkdir(exist_ok=True)
    return {
        f"{number:064x}": random_lora(base, folder / f"{number}.gguf", seed=number, rank=8)
        for number in range(STREAMS)
    }


def request(number: int, adapters: list[str], tokens: int) -> Generate:
    return Generate(
        id=number + 1,
        prompt=[300 + 7 * number + place for place in range(PROMPT_TOKENS)],
        adapters=(AdapterUse(adapters[number % len(adapters)]),) if adapters else (),
        sampling=Sampling(temperature=0.0),
        max_tokens=tokens,
        ignore_eos=True,
        cache_prompt=False,
    )


def start(engine: EngineProcess, one: Generate) -> int:
    return engine.start(
        one.prompt,
        adapters=one.adapters,
        max_tokens=one.max_tokens,
        ignore_eos=one.ignore_eos,
        cache_prompt=one.cache_prompt,
    )


# ---------------------------------------------------------------- the profile, in a process of its own


def profile_figure(scratch: Path) -> Figure:
    adapters = [str(path) for path in adapter_files(scratch, NANO).values()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.overhead", str(NANO), *adapters],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, **SPINS},
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    steps, total = found["steps"], found["total_s"]
    lines = [
        f"Profile of {steps} steps of {STREAMS} streams under {STREAMS} adapters of nano, time within each "
        "function itself. The first rows wait: for llama.cpp, for the threads that sample.",
        "",
        "| function | calls a step | us a step | share |",
        "|---|--:|--:|--:|",
    ]
    for name, calls, seconds in found["rows"]:
        per_step = f"{seconds / steps * 1e6:.0f}"
        lines.append(f"| `{name}` | {calls / steps:.1f} | {per_step} | {seconds / total:.1%} |")
    return Figure(
        "the same under cProfile, which slows Python down (table below)",
        f"{found['python_s'] / steps * 1e3:.2f} ms",
        raw={"steps": float(steps), "total_s": total, "python_s": found["python_s"]},
        detail="\n".join(lines),
    )


class Driven:
    """An engine without its process: this thread steps it, and what it says is encoded and dropped."""

    def __init__(self, base: Path, adapters: list[Path]) -> None:
        # Here, since the rest of the benchmarks must not load llama.cpp.
        from llamaleon_server.binding import library
        from llamaleon_server.binding.loading import open_model
        from llamaleon_server.engine.engine import Engine
        from llamaleon_server.engine.process import _load_options

        options = EngineOptions(
            model_path=str(base),
            threads=THREADS,
            context_tokens=512,
            parallel_sequences=STREAMS,
            speculation=False,
        )
        self._encode = msgspec.msgpack.Encoder().encode
        self._finished = self._replies = 0
        library.start()
        self._engine = Engine(open_model(_load_options(options)), options, self._take)
        self._keys = [f"{number:064x}" for number in range(len(adapters))]
        for number, (key, path) in enumerate(zip(self._keys, adapters, strict=True)):
            self._engine.load_adapter(LoadAdapter(id=1000 + number, key=key, path=str(path)))
        while self._replies < len(adapters):
            self._engine.step()

    def _take(self, message: FromEngine) -> None:
        self._encode(message)  # as the channel does
        assert not isinstance(message, Failed), message
        self._replies += isinstance(message, Reply)
        if isinstance(message, Step):
            self._finished += sum(delta.finish is not None for delta in message.deltas)

    def run(self, tokens: int) -> int:
        """Eight streams of so many tokens. Returns: the steps that it took."""
        self._finished = steps = 0
        for number in range(STREAMS):
            one = request(number, self._keys, tokens)
            assert isinstance(one.prompt, list)
            self._engine.generate(one, one.prompt)
        while self._finished < STREAMS:
            self._engine.step()
            steps += 1
        return steps


def profiled(base: Path, adapters: list[Path]) -> dict[str, object]:
    engine = Driven(base, adapters)
    engine.run(16)  # loads, compiles and fills caches
    profile = cProfile.Profile()
    profile.enable()
    steps = engine.run(TOKENS)
    profile.disable()
    return _rows(pstats.Stats(profile), steps)


def _rows(stats: pstats.Stats, steps: int) -> dict[str, object]:
    rows = []
    for (file, _, function), (_, calls, own_s, _, _) in stats.stats.items():  # type: ignore[attr-defined]
        name = f"{Path(file).stem}.{function}" if file != "~" else function.strip("<>")
        rows.append((name.replace("|", ""), calls, own_s))
    rows.sort(key=lambda row: -row[2])
    waiting_s = sum(own_s for name, _, own_s in rows if name in WAITING)
    total_s = sum(own_s for _, _, own_s in rows)
    return {"steps": steps, "total_s": total_s, "python_s": total_s - waiting_s, "rows": rows[:ROWS]}


if __name__ == "__main__":
    print(json.dumps(profiled(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])))
