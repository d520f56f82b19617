"""Does it pay to train on the blocks that serve? Held-out loss, both adapters served on the quantised base.

One adapter is trained on the 16-bit weights, as is usual, the other on the packed blocks of the quantised
file; same rows, order, seed and settings. Both are converted and their held-out loss is measured by llama.cpp
on the quantised file. Each seed gives one pair: the difference is what counts.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import jinja2
import msgspec
import numpy as np
from tests.bench.figures import Figure
from tests.bench.options import Options
from tests.data import NANO, REPOSITORY, shared
from tests.tiny.quantize import quantize
from tests.tiny.reference import Model, open_model

from llamaleon_convert import convert
from llamaleon_convert.header import read_header
from llamaleon_trainer.events import EventWriter
from llamaleon_trainer.inputs import read_inputs
from llamaleon_trainer.job import JobSpec, LoraSettings, Row, write_spec

DEMO = REPOSITORY / "clients" / "llamaleon_clients" / "demo_data"
SEEDS = 5
TRAIN_ROWS, HELD_OUT_ROWS, MAX_TOKENS = 96, 40, 250
# Two-sided, 95 %, for 4 degrees of freedom: of the mean of five differences.
T_95 = {1: 12.71, 4: 2.776}


@dataclass(frozen=True)
class Case:
    """A real model, the file type it is served in, and a task with rows to learn and rows to be tried on."""

    name: str
    base: Path  # of 16 or 32 bits
    kind: str
    train: list[Row]
    held_out: list[Row]


def measure(scratch: Path, options: Options) -> list[Figure]:
    seeds = 2 if options.quick else SEEDS
    figures = []
    for number, case in enumerate(_cases(scratch, quick=options.quick)):
        room = scratch / str(number)
        room.mkdir()
        served = quantize(case.base, room / "served.gguf", case.kind)
        with open_model(served) as model:
            before = _loss(model, case.held_out)
            pairs = [_pair(model, room / str(seed), case, served, seed) for seed in range(seeds)]
        figures.append(_figure(case, before, pairs))
    return figures


def _pair(model: Model, room: Path, case: Case, served: Path, seed: int) -> tuple[float, float]:
    """Held-out losses on the served file: trained on the unquantised weights, and on the file's blocks."""
    plain = _train(room / "full", case, case.base, "full", seed)
    packed = _train(room / "gguf", case, served, "gguf", seed)
    losses = []
    for number, adapter in enumerate((plain, packed)):
        lora = room / f"{number}.gguf"
        convert(adapter, served, lora)
        losses.append(_loss(model, case.held_out, lora))
    return losses[0], losses[1]


def _train(job: Path, case: Case, base: Path, weights: str, seed: int) -> Path:
    from llamaleon_trainer.recipe import run

    job.mkdir(parents=True)
    (job / "train.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in case.train))
    spec = JobSpec(
        job_id="qlora",
        base=str(base),
        base_weights=weights,
        lora=LoraSettings(r=16, lora_alpha=32),
        epochs=4,
        batch_size=8,
        learning_rate=2e-3,
        seed=seed,
        precision="float32",
        max_sequence_tokens=MAX_TOKENS,
    )
    write_spec(job, spec)
    writer = EventWriter(job / "events.jsonl")
    try:
        run(job, read_inputs(job), writer, lambda: None)
    finally:
        writer.close()
    return job / "adapter"


def _loss(model: Model, rows: list[Row], lora: Path | None = None) -> float:
    """Nats per counted token."""
    total, counted = 0.0, 0
    for row in rows:
        logits = model.logits(row.tokens, [(lora, 1.0)] if lora else []).astype(np.float64)
        places = np.array([place for place in range(1, len(row.tokens)) if row.weights[place] > 0])
        rows_of = logits[places - 1]
        rows_of -= rows_of.max(axis=-1, keepdims=True)
        at_target = rows_of[np.arange(len(places)), np.array(row.tokens)[places]]
        total -= float((at_target - np.log(np.exp(rows_of).sum(axis=-1))).sum())
        counted += len(places)
    return total / counted


def _figure(case: Case, before: float, pairs: list[tuple[float, float]]) -> Figure:
    plain, packed = zip(*pairs, strict=True)
    won = [a - b for a, b in pairs]
    half_width = T_95[len(won) - 1] * statistics.stdev(won) / len(won) ** 0.5
    return Figure(
        f"held-out loss on {case.name} served in {case.kind} (base {before:.3f}): adapter trained on its "
        f"unquantised weights {_mean(plain)}, on the served blocks {_mean(packed)}; won, 95 % interval of "
        f"{len(won)} seeds",
        f"{statistics.mean(won):+.4f} ± {half_width:.4f} nats",
        None,
        {
            "base_loss": before,
            "trained_on_16_bits_loss": statistics.mean(plain),
            "trained_on_blocks_loss": statistics.mean(packed),
            "won_nats": statistics.mean(won),
            "won_half_width_nats": half_width,
            "seeds_won": float(sum(one > 0 for one in won)),
            "seeds": float(len(won)),
        },
    )


def _mean(values: tuple[float, ...]) -> str:
    return f"{statistics.mean(values):.4f}"


def _cases(scratch: Path, *, quick: bool) -> list[Case]:
    """The smaller model's rows do not divide into blocks of 256, so it is served in Q4_0."""
    rows, tried = (16, 4) if quick else (TRAIN_ROWS, HELD_OUT_ROWS)
    with open_model(NANO) as model:
        reports = (
            _reports(model, "reports_train.jsonl", rows),
            _reports(model, "reports_heldout.jsonl", tried),
        )
    stories = shared("stories260K/stories260K-f32.gguf")
    with open_model(stories) as model:
        questions = _questions(model, rows + tried)
    return [
        Case("nano (3.8 M parameters), extraction", NANO, "Q4_K_M", *reports),
        Case("nano, extraction", NANO, "Q2_K", *reports),
        Case("stories260K, arithmetic in words", stories, "Q4_0", questions[:rows], questions[rows:]),
    ]


def _reports(model: Model, name: str, count: int) -> list[Row]:
    template = jinja2.Environment().from_string(read_header(NANO).chat_template or "")
    found = []
    for line in (DEMO / name).read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        prompt = template.render(messages=messages[:-1], add_generation_prompt=True)
        whole = template.render(messages=messages)
        if not whole.startswith(prompt):
            raise ValueError(f"{name}: the template does not end where an answer begins")
        found.append(_row(model, prompt, whole[len(prompt) :]))
    return [row for row in found if len(row.tokens) <= MAX_TOKENS][:count]


def _questions(model: Model, count: int) -> list[Row]:
    lines = shared("gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines[: 4 * count]]
    rows = [_row(model, one["question"][:80], " " + one["answer"][:120]) for one in examples]
    return [row for row in rows if len(row.tokens) <= MAX_TOKENS][:count]


def _row(model: Model, prompt: str, answer: str) -> Row:
    asked, answered = model.tokenize(prompt), model.tokenize(answer)
    return Row(asked + answered, [0.0] * len(asked) + [1.0] * len(answered))
