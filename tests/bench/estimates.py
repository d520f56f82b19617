"""How near the estimate comes: jobs of several shapes, beside what was said before their first step.

Two estimates each: the trainer's own, after its trial passes, and the one without torch, from what an earlier
job on this base taught (the first job of each base is not counted for it). Memory also on a CUDA device that
torch is only told of, in bfloat16, on fewer rows.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from tests.bench.card import train_on_card
from tests.bench.figures import Figure
from tests.bench.options import Options
from tests.bench.train import run_process
from tests.bench.train_model import QUICK, LlamaShape, rows, write_job, write_model
from tests.pretended.library import why_not

from llamaleon_convert.header import read_header
from llamaleon_trainer.estimate import estimate
from llamaleon_trainer.events import read_events
from llamaleon_trainer.job import PreferenceRow, Row, read_spec
from llamaleon_trainer.order import Lengths
from llamaleon_trainer.speeds import find_speed, speeds_path

SHAPES = {
    "7 M": LlamaShape(hidden=192, layers=6, ffn=512, heads=4, kv_heads=2, vocabulary=16_000),
    "20 M": LlamaShape(),
    "50 M": LlamaShape(hidden=512, layers=10, ffn=1376, heads=8, kv_heads=4, vocabulary=32_000),
}
ROWS, HELD_OUT = 96, 8
ROWS_ON_CARD, CARD = 24, "8G"


@dataclass(frozen=True, eq=False)
class Case:
    shape: str
    title: str
    longest: int = 256
    settings: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("7 M", "short rows", 128),
    Case("7 M", "8 rows a pass", 256, {"micro_batch_size": 8}),
    Case("20 M", "as it comes"),
    Case("20 M", "packed", 256, {"packing": True}),
    Case("20 M", "recomputing", 512, {"gradient_checkpointing": True, "micro_batch_size": 4}),
    Case("50 M", "short rows", 128),
    Case("50 M", "one row a pass", 256, {"micro_batch_size": 1}),
    Case("20 M", "preferences", 128, {"method": "dpo"}),
)


@dataclass(frozen=True)
class Outcome:
    """Estimated over measured."""

    seconds: float
    memory: float
    torch_free_seconds: float
    torch_free_memory: float


def measure(scratch: Path, options: Options) -> list[Figure]:
    shapes = dict.fromkeys(SHAPES, QUICK) if options.quick else SHAPES
    paths = {name: write_model(scratch / name.replace(" ", ""), shape)[0] for name, shape in shapes.items()}
    jobs = scratch / "jobs"
    jobs.mkdir()
    found: dict[Case, Outcome] = {}
    on_card: list[tuple[float, float]] = []
    for number, case in enumerate(CASES):
        made = rows(shapes[case.shape], ROWS + HELD_OUT, longest=case.longest)
        pairs = case.settings.get("method") == "dpo"
        data = list(map(_pair, made)) if pairs else made
        settings = {"precision": "float32", "batch_size": 8, **case.settings}
        job = write_job(jobs / f"job-{number}", paths[case.shape], data[:ROWS], **settings)
        (job / "valid.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in data[ROWS:]))
        found[case] = _outcome(job, data)
        print(f"{case.shape}, {case.title}: {found[case]}", flush=True)
        if why_not() is None:
            settings |= {"precision": "bfloat16", "device": "cuda", "epochs": 4}
            few = data[:ROWS_ON_CARD]
            job = write_job(jobs / f"card-{number}", paths[case.shape], few, **settings)
            on_card.append(_on_card(job, few))
    first = {case.shape: case for case in reversed(CASES)}
    later = [outcome for case, outcome in found.items() if first[case.shape] is not case]
    own = list(found.values())
    figures = [
        _figure("time, after trying", [one.seconds for one in own], found),
        _figure("peak memory, after trying", [one.memory for one in own], None),
        _figure(
            "time, without torch, the base trained once", [one.torch_free_seconds for one in later], None
        ),
        _figure("peak memory, without torch", [one.torch_free_memory for one in own], None),
    ]
    where = "peak memory on a CUDA device that torch is only told of"
    for when, part in (("after trying", 0), ("without torch", 1)) if on_card else ():
        figures.append(_figure(f"{where}, {when}", [pair[part] for pair in on_card], None))
    return figures


def _pair(row: Row) -> PreferenceRow:
    """Another answer to the same prompt, half as long."""
    prompt = len(row.tokens) // 2
    short = prompt + (len(row.tokens) - prompt + 1) // 2
    return PreferenceRow(row, Row([*row.tokens[:prompt], *row.tokens[: short - prompt]], row.weights[:short]))


def _lengths(row: Row | PreferenceRow) -> Lengths:
    answers = (row,) if isinstance(row, Row) else (row.chosen, row.rejected)
    return tuple(len(answer.tokens) for answer in answers)


def _outcome(job: Path, data: Sequence[Row | PreferenceRow]) -> Outcome:
    spec = read_spec(job)
    train, valid = (list(map(_lengths, part)) for part in (data[:ROWS], data[ROWS:]))
    header, speed = read_header(Path(spec.base)), find_speed(speeds_path(job), spec)
    before = estimate(header, spec, train, speed, valid_lengths=valid)
    peak_mib, seconds = run_process([sys.executable, "-m", "llamaleon_trainer", str(job)], job / "said")
    events, _ = read_events(job / "events.jsonl")
    said = next(event.data for event in events if event.type == "estimate")
    peak = peak_mib * 2**20
    return Outcome(
        said["seconds"] / seconds,
        said["memory_bytes"] / peak,
        before.seconds / seconds,
        before.memory_bytes / peak,
    )


def _on_card(job: Path, data: Sequence[Row | PreferenceRow]) -> tuple[float, float]:
    """Estimated memory over what tensors occupied: after trying, and without torch."""
    spec = read_spec(job)
    before = estimate(read_header(Path(spec.base)), spec, list(map(_lengths, data)), device="cuda")
    taken, _ = train_on_card(job, CARD)
    events, _ = read_events(job / "events.jsonl")
    said = next(event.data["memory_bytes"] for event in events if event.type == "estimate")
    return said / taken.most_allocated, before.memory_bytes / taken.most_allocated


def _figure(what: str, ratios: list[float], found: dict[Case, Outcome] | None) -> Figure:
    worst = max(abs(ratio - 1) for ratio in ratios)
    detail = ""
    if found is not None:
        lines = [
            f"- {case.shape}, {case.title}: time {one.seconds:.2f}, memory {one.memory:.2f}; without torch "
            f"{one.torch_free_seconds:.2f}, {one.torch_free_memory:.2f}"
            for case, one in found.items()
        ]
        detail = "\n".join(["Estimated over measured:", "", *lines])
    shown = f"{min(ratios):.2f} to {max(ratios):.2f}, median {statistics.median(ratios):.2f}"
    raw = {"least": min(ratios), "most": max(ratios), "worst_error": worst}
    return Figure(f"estimate of a job's {what}, over what it took", shown, "0.80 to 1.20", raw, detail)
