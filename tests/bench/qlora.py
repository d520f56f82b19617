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
# Two-sided, 95 %, by degrees of freedom: of the mean of one difference more.
T_95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776}


@dataclass(frozen=True)
class Case:
    """A real model, the file type it is served in, and a task with rows to learn and rows to be tried on."""

    name: str
    base: Path  # of 16 or 32 bits
    kind: str
    train: list[Row]
    held_out: list[Row]


@dataclass(frozen=True)
class Losses:
    """Held-out, of one seed, in nats per counted token."""

    base: float  # without adapter, on the served file
    at_home: float  # the adapter of the unquantised weights, on these: what quantisation cannot take
    plain: float  # the same adapter on the served file
    packed: float  # the adapter of the served blocks, on the served file


def measure(scratch: Path, options: Options) -> list[Figure]:
    seeds = seeds_of(options)
    return [
        figure(case, [compare(case, scratch / f"{number}-{seed}", seed) for seed in range(seeds)])
        for number, case in enumerate(_cases(quick=options.quick))
    ]


def seeds_of(options: Options) -> int:
    return 2 if options.quick else SEEDS


def compare(case: Case, room: Path, seed: int) -> Losses:
    """Both adapters of one seed, converted and served."""
    room.mkdir(parents=True)
    served = quantize(case.base, room / "served.gguf", case.kind)
    plain = _lora(_train(room / "full", case, case.base, "full", seed), served)
    packed = _lora(_train(room / "gguf", case, served, "gguf", seed), served)
    with open_model(case.base) as model:
        at_home = _loss(model, case.held_out, plain)
    with open_model(served) as model:
        losses = [_loss(model, case.held_out, lora) for lora in (None, plain, packed)]
    return Losses(losses[0], at_home, losses[1], losses[2])


def _lora(adapter: Path, served: Path) -> Path:
    lora = adapter.with_name("lora.gguf")
    convert(adapter, served, lora)
    return lora


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


def figure(case: Case, found: list[Losses]) -> Figure:
    won = [one.plain - one.packed for one in found]
    error = statistics.stdev(won) / len(won) ** 0.5
    half_width = T_95[len(won) - 1] * error
    base, at_home, plain, packed = (
        statistics.mean(getattr(one, name) for one in found)
        for name in ("base", "at_home", "plain", "packed")
    )
    return Figure(
        f"held-out loss on {case.name} served in {case.kind} (base {base:.3f}): adapter trained on its "
        f"unquantised weights {plain:.4f} ({at_home:.4f} served on them), on the served blocks {packed:.4f}; "
        f"won, 95 % interval of {len(won)} seeds",
        f"{statistics.mean(won):+.4f} ± {half_width:.4f} nats",
        None,
        {
            "base_loss": base,
            "trained_on_16_bits_loss": plain,
            "trained_and_served_on_16_bits_loss": at_home,
            "trained_on_blocks_loss": packed,
            "won_nats": statistics.mean(won),
            "won_standard_error_nats": error,
            "won_half_width_nats": half_width,
            "seeds_won": float(sum(one > 0 for one in won)),
            "seeds": float(len(won)),
        },
    )


def _cases(*, quick: bool) -> list[Case]:
    """The smaller model's rows do not divide into blocks of 256, so it is served in Q4_0."""
    rows, tried = _counts(quick=quick)
    learnt, unseen = reports(quick=quick)
    stories = shared("stories260K/stories260K-f32.gguf")
    with open_model(stories) as model:
        questions = _questions(model, rows + tried)
    return [
        Case("nano (3.8 M parameters), extraction", NANO, "Q4_K_M", learnt, unseen),
        Case("nano, extraction", NANO, "Q2_K", learnt, unseen),
        Case("stories260K, arithmetic in words", stories, "Q4_0", questions[:rows], questions[rows:]),
    ]


def _counts(*, quick: bool) -> tuple[int, int]:
    return (16, 4) if quick else (TRAIN_ROWS, HELD_OUT_ROWS)


def reports(*, quick: bool) -> tuple[list[Row], list[Row]]:
    """Rows of nano's demonstration: to learn, and to be tried on."""
    rows, tried = _counts(quick=quick)
    with open_model(NANO) as model:
        return _reports(model, "reports_train.jsonl", rows), _reports(model, "reports_heldout.jsonl", tried)


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
