"""What the server wrote for a job, read and checked before any weight is loaded. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from .errors import BadJob
from .job import JobSpec, Row, read_spec


class Example(Struct, frozen=True):
    """A row ready for the model, cut behind the last token that counts: later ones change nothing.

    The model reads `tokens`; at position `positions[i]` its prediction of `targets[i]` counts `weights[i]`.
    The last three have the same length, at least 1.
    """

    tokens: list[int]
    positions: list[int]
    targets: list[int]
    weights: list[float]


class Examples(Struct, frozen=True):
    """One file's examples, and what became of rows that did not fit."""

    examples: list[Example]
    warnings: list[str]

    @property
    def token_count(self) -> int:
        return sum(len(example.tokens) for example in self.examples)


class Inputs(Struct, frozen=True):
    spec: JobSpec
    train: Examples
    valid: Examples
    probe: list[list[int]]
    base_logits: Path | None


def read_inputs(job_dir: Path) -> Inputs:
    """Raises: BadJob, naming the file, line and field."""
    spec = _read_spec(job_dir)
    train = _read_examples(job_dir / "train.jsonl", spec.max_sequence_tokens)
    if not train.examples:
        raise BadJob("train.jsonl has no row with a token that counts; is every weight 0?")
    valid_path = job_dir / "valid.jsonl"
    valid = _read_examples(valid_path, spec.max_sequence_tokens) if valid_path.exists() else Examples([], [])
    base_logits = job_dir / "probe.base.npz"
    return Inputs(spec, train, valid, _read_probe(job_dir), base_logits if base_logits.exists() else None)


def check_vocabulary(inputs: Inputs, vocab_size: int) -> None:
    """Raises: BadJob for a token id that the base does not have."""
    sequences = [*inputs.probe]
    for example in [*inputs.train.examples, *inputs.valid.examples]:
        sequences += [example.tokens, example.targets]
    highest, lowest = max(map(max, sequences)), min(map(min, sequences))
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise BadJob(
            f"token id {wrong} is not in the base's vocabulary of {vocab_size}: is `base` another model?"
        )


def _read_spec(job_dir: Path) -> JobSpec:
    try:
        spec = read_spec(job_dir)
    except OSError as error:
        raise BadJob(f"spec.json cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise BadJob(f"spec.json: {error}") from error
    problems = [f"`{name}` must be {rule}" for name, rule, holds in _rules(spec) if not holds]
    if problems:
        raise BadJob(f"spec.json: {'; '.join(problems)}")
    if not Path(spec.base).exists():
        raise BadJob(f"spec.json: `base` {spec.base} does not exist")
    return spec


def _rules(spec: JobSpec) -> Sequence[tuple[str, str, bool]]:
    counts = {
        "epochs": spec.epochs,
        "batch_size": spec.batch_size,
        "micro_batch_size": spec.micro_batch_size,
        "eval_every_steps": spec.eval_every_steps,
        "save_every_steps": spec.save_every_steps,
        "threads": spec.threads,
        "lora.r": spec.lora.r,
    }
    finite = math.isfinite(spec.learning_rate) and math.isfinite(spec.lora.lora_alpha)
    return [
        *((name, "at least 1", value is None or value >= 1) for name, value in counts.items()),
        ("max_sequence_tokens", "at least 2", spec.max_sequence_tokens >= 2),
        ("learning_rate", "above 0", finite and spec.learning_rate > 0),
        ("lora.lora_alpha", "above 0", finite and spec.lora.lora_alpha > 0),
        ("lora.lora_dropout", "at least 0 and below 1", 0 <= spec.lora.lora_dropout < 1),
        ("warmup_fraction", "between 0 and 1", 0 <= spec.warmup_fraction <= 1),
        ("weight_decay", "at least 0", spec.weight_decay >= 0),
        ("max_grad_norm", "above 0", spec.max_grad_norm > 0),
        ("device", "auto, cpu or cuda", spec.device in ("auto", "cpu", "cuda")),
        ("precision", "auto, float32 or bfloat16", spec.precision in ("auto", "float32", "bfloat16")),
    ]


def _read_examples(path: Path, max_tokens: int) -> Examples:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BadJob(f"{path.name} cannot be read: {error.strerror}") from error
    examples, cut, dropped = [], 0, 0
    for number, line in enumerate(lines, start=1):
        try:
            row = msgspec.json.decode(line, type=Row)
        except msgspec.DecodeError as error:
            raise BadJob(f"{path.name}, line {number}: {error}") from error
        if len(row.tokens) != len(row.weights):
            raise BadJob(
                f"{path.name}, line {number}: {len(row.tokens)} tokens but {len(row.weights)} weights"
            )
        if not all(math.isfinite(weight) and weight >= 0 for weight in row.weights):
            raise BadJob(f"{path.name}, line {number}: a weight is negative or not finite")
        example = _example(row, max_tokens)
        if example is None:
            dropped += 1
            continue
        examples.append(example)
        cut += len(row.tokens) > max_tokens
    warnings = []
    if cut:
        warnings.append(
            f"{path.name}: {cut} rows are longer than {max_tokens} tokens and were cut at the end"
        )
    if dropped:
        warnings.append(
            f"{path.name}: {dropped} rows were left out: no token that counts within {max_tokens} tokens; "
            "raise `max_sequence_tokens` or shorten their prompts"
        )
    return Examples(examples, warnings)


def _example(row: Row, max_tokens: int) -> Example | None:
    # Nothing predicts the first token, so its weight cannot count.
    counted = [index for index in range(1, min(len(row.tokens), max_tokens)) if row.weights[index] > 0]
    if not counted:
        return None
    return Example(
        tokens=row.tokens[: counted[-1]],
        positions=[index - 1 for index in counted],
        targets=[row.tokens[index] for index in counted],
        weights=[row.weights[index] for index in counted],
    )


def _read_probe(job_dir: Path) -> list[list[int]]:
    path = job_dir / "probe.json"
    if not path.exists():
        return []
    try:
        probe = msgspec.json.decode(path.read_bytes(), type=list[list[int]])
    except msgspec.DecodeError as error:
        raise BadJob(f"probe.json: {error}") from error
    if not all(probe):
        raise BadJob("probe.json has an empty sequence")
    return probe
