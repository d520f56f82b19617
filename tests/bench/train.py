"""Our trainer beside TRL's SFTTrainer: the same model, rows, batch, precision and LoRA settings, in turns.

Each contestant is a process of its own that reads the same job directory. Speed is that of the steps after
the first two, in which kernels are compiled; memory is the most that the whole process ever occupied.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.options import Options
from tests.bench.train_model import QUICK, TWENTY_MILLION, rows, write_job, write_model

from llamaleon_trainer.__main__ import OPENMP_WAITING
from llamaleon_trainer.events import read_events

ROUNDS = 3
ROWS, BATCH = 96, 8
WARM_STEPS = 2
OURS, TRL, TRL_AS_IT_COMES = "ours", "trl", "trl_as_it_comes"
PEER = Path(__file__).with_name("train_trl.py")


@dataclass(frozen=True)
class Step:
    end: float  # seconds since the epoch
    tokens: int
    loss: float


@dataclass(frozen=True)
class Run:
    """One process: what its steps did, the most memory that it occupied, and its whole time."""

    steps: list[Step]
    peak_mib: float
    whole_s: float

    @property
    def tokens_per_s(self) -> float:
        counted = self.steps[WARM_STEPS:]
        return sum(step.tokens for step in counted) / (counted[-1].end - self.steps[WARM_STEPS - 1].end)

    @property
    def loss(self) -> float:
        """Of the last half, over its tokens' steps."""
        return statistics.fmean(step.loss for step in self.steps[len(self.steps) // 2 :])


@dataclass(frozen=True)
class Value:
    name: str
    unit: str
    of: Callable[[Run], float]


SPEED = Value("tokens_per_s", "tokens/s", lambda run: run.tokens_per_s)
MEMORY = Value("peak_mib", "MiB", lambda run: run.peak_mib)
WHOLE = Value("whole_s", "s", lambda run: run.whole_s)


def measure(scratch: Path, options: Options) -> list[Figure]:
    figures = []
    for precision in ("float32", "bfloat16"):
        contest = Contest(scratch / precision, precision, quick=options.quick)
        contest.run(2 if options.quick else ROUNDS)
        figures += contest.figures()
    return figures


class Contest:
    """One precision's rounds."""

    def __init__(self, directory: Path, precision: str, *, quick: bool) -> None:
        directory.mkdir(parents=True)
        self._directory, self._precision = directory, precision
        shape = QUICK if quick else TWENTY_MILLION
        self._title = f"{shape.parameters / 1e6:.0f} M parameters, {precision}"
        self._gguf, self._hub = write_model(directory / "model", shape)
        self._rows = rows(shape, 32 if quick else ROWS)
        self.runs: dict[str, list[Run]] = {OURS: [], TRL: [], TRL_AS_IT_COMES: []}

    def run(self, rounds: int) -> None:
        for number in range(rounds):
            order = [OURS, TRL] if number % 2 == 0 else [TRL, OURS]
            for name in [*order, *([TRL_AS_IT_COMES] if number == 0 else [])]:
                self.runs[name].append(self._one(name, number))

    def figures(self) -> list[Figure]:
        self._assert_that_both_trained_the_same()
        detail = (
            f"Trainers, {self._title}: {ROWS} rows of 16 to 512 tokens (median 180), the second half of each "
            f"trained, {BATCH} rows a step, rank 16 on every linear layer, AdamW, cosine, no packing, "
            "torch's own choice of threads, the same setting of how they wait. TRL reads our token ids and "
            "labels, groups rows by length as we do, and runs without gradient checkpointing, saving or "
            'reporting; with its own default of checkpointing it is "TRL as it comes". Ours chooses how '
            "many rows go through at once; TRL takes the whole batch, as it does by itself."
        )
        return [
            self._ratio("tokens/s over TRL's SFTTrainer", TRL, SPEED, "at least 1.3"),
            self._ratio("peak memory over TRL's SFTTrainer", TRL, MEMORY, "at most 0.7"),
            self._ratio("whole process over TRL's SFTTrainer", TRL, WHOLE),
            self._ratio("tokens/s over TRL as it comes", TRL_AS_IT_COMES, SPEED),
            replace(self._ratio("peak memory over TRL as it comes", TRL_AS_IT_COMES, MEMORY), detail=detail),
        ]

    def _one(self, name: str, number: int) -> Run:
        folder = self._directory / f"{name}-{number}"
        job = write_job(folder, self._gguf, self._rows, batch_size=BATCH, precision=self._precision)
        if name == OURS:
            peak, seconds = run_process([sys.executable, "-m", "llamaleon_trainer", str(job)], job / "said")
            return Run(our_steps(job), peak, seconds)
        extra = {} if name == TRL else {"gradient_checkpointing": True}
        command = [sys.executable, str(PEER), str(job), str(self._hub), str(job / "steps.json")]
        peak, seconds = run_process([*command, json.dumps(extra)], job / "said")
        return Run([Step(*step) for step in json.loads((job / "steps.json").read_text())], peak, seconds)

    def _assert_that_both_trained_the_same(self) -> None:
        ours, theirs = self.runs[OURS][0], self.runs[TRL][0]
        counts = [len(run.steps) for run in (ours, theirs)]
        assert counts[0] == counts[1], f"{counts} steps"
        assert math.isclose(ours.loss, theirs.loss, rel_tol=0.05), f"losses {ours.loss} and {theirs.loss}"

    def _ratio(self, what: str, below: str, value: Value, goal: str | None = None) -> Figure:
        """The median of the paired rounds' ratios."""
        ours, theirs = ([value.of(run) for run in self.runs[name]] for name in (OURS, below))
        ratios = [a / b for a, b in zip(ours, theirs, strict=False)]
        a, b = statistics.median(ours[: len(ratios)]), statistics.median(theirs)
        spread = f"; rounds {min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else ""
        raw = {"ratio": statistics.median(ratios), f"ours_{value.name}": a, f"{below}_{value.name}": b}
        shown = f"{raw['ratio']:.2f} ({a:.4g} / {b:.4g} {value.unit}{spread})"
        return Figure(f"training: {what}, {self._title}", shown, goal, raw)


def our_steps(job: Path) -> list[Step]:
    """The tokens of a step as TRL counts them: all of its rows'."""
    events, _ = read_events(job / "events.jsonl")
    steps, before = [], 0
    for event in events:
        if event.type == "step":
            trained = event.data["trained_tokens"]
            steps.append(Step(event.time, trained - before, event.data["train_loss"]))
            before = trained
    return steps


# The most that a child occupied, told by a process that is small: a child begins with its parent's figure.
WATCH = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak KiB", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
sys.exit(code != 0)
"""


def run_process(command: Sequence[str], said: Path) -> tuple[float, float]:
    """(the most resident memory in MiB, seconds) of a process that ends well.

    Raises: RuntimeError with its last words if it does not.
    """
    # Ours chooses this way of waiting itself; it makes the other side faster too where the machine is busy.
    environment = {**os.environ, **OPENMP_WAITING, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    start = time.perf_counter()
    with said.open("wb") as output:
        watched = [sys.executable, "-c", WATCH, *command]
        code = subprocess.run(watched, stdout=output, stderr=output, env=environment, check=False).returncode
    seconds, words = time.perf_counter() - start, said.read_text(errors="replace")
    if code:
        raise RuntimeError(f"{command[:3]} failed: {words[-2000:]}")
    return int(words.rsplit("peak KiB", 1)[1].split()[0]) / 1024, seconds
