"""What the server wrote for a job, read and checked before any weight is loaded. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from .errors import BadJob
from .items import Example, Item, example, is_raw_text, longest, preference, text_pieces, token_count
from .job import (
    BASE_WEIGHTS,
    METHODS,
    OPTIMIZERS,
    PRECISIONS,
    REPORTERS,
    SCHEDULERS,
    SHARDINGS,
    JobSpec,
    PreferenceRow,
    Row,
    read_spec,
)

__all__ = ["Example", "Examples", "Inputs", "check_vocabulary", "read_inputs"]


class Examples(Struct, frozen=True):
    """One file's examples, and what became of rows that did not fit."""

    examples: Sequence[Item]
    warnings: list[str]

    @property
    def token_count(self) -> int:
        return sum(map(token_count, self.examples))


class Inputs(Struct, frozen=True):
    spec: JobSpec
    train: Examples
    valid: Examples
    probe: list[list[int]]
    base_logits: Path | None

    @property
    def largest_row(self) -> int:
        """Tokens of the longest row, held-out ones included; of a preference twice its longer answer's."""
        rows = [*self.train.examples, *self.valid.examples]
        return max(longest(row) * len(row.sequences) for row in rows)


def read_inputs(job_dir: Path) -> Inputs:
    """Raises: BadJob, naming the file, line and field."""
    spec = _read_spec(job_dir)
    train = _read_examples(job_dir / "train.jsonl", spec, 0)
    if not train.examples:
        raise BadJob("train.jsonl has no row with a token that counts; is every weight 0?")
    valid_path = job_dir / "valid.jsonl"
    first = len(train.examples)
    valid = _read_examples(valid_path, spec, first) if valid_path.exists() else Examples([], [])
    if not valid.examples and (spec.load_best or spec.early_stopping_patience):
        raise BadJob("spec.json: `load_best` and `early_stopping_patience` need rows in valid.jsonl")
    base_logits = job_dir / "probe.base.npz"
    return Inputs(spec, train, valid, _read_probe(job_dir), base_logits if base_logits.exists() else None)


def check_vocabulary(inputs: Inputs, vocab_size: int) -> None:
    """Raises: BadJob for a token id that the base does not have."""
    sequences = [*inputs.probe]
    for item in [*inputs.train.examples, *inputs.valid.examples]:
        for found in item.sequences:
            sequences += [found.tokens, found.targets]
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


T = TypeVar("T")
Rule = tuple[str, str, bool]  # a field, what it must be, whether it is


def _rules(spec: JobSpec) -> list[Rule]:
    return [*_counts(spec), *_amounts(spec), *_choices(spec), *_several(spec)]


def _counts(spec: JobSpec) -> Iterator[Rule]:
    counts = {
        "epochs": spec.epochs,
        "max_steps": spec.max_steps,
        "batch_size": spec.batch_size,
        "micro_batch_size": spec.micro_batch_size,
        "eval_every_steps": spec.eval_every_steps,
        "save_every_steps": spec.save_every_steps,
        "early_stopping_patience": spec.early_stopping_patience,
        "threads": spec.threads,
        "processes": spec.processes,
        "lora.r": spec.lora.r,
    }
    for name, value in counts.items():
        yield name, "at least 1", value is None or value >= 1
    yield "max_sequence_tokens", "at least 2", spec.max_sequence_tokens >= 2


def _amounts(spec: JobSpec) -> Iterator[Rule]:
    for name, value in {
        "learning_rate": spec.learning_rate,
        "lora.lora_alpha": spec.lora.lora_alpha,
        "dpo_beta": spec.dpo_beta,
        "max_grad_norm": spec.max_grad_norm,
    }.items():
        yield name, "above 0", math.isfinite(value) and value > 0
    for name, value in {
        "weight_decay": spec.weight_decay,
        "neftune_noise_alpha": spec.neftune_noise_alpha,
    }.items():
        yield name, "at least 0", math.isfinite(value) and value >= 0
    yield "lora.lora_dropout", "at least 0 and below 1", 0 <= spec.lora.lora_dropout < 1
    # A preference that is wrong half the time says nothing; a token's limit is what smoothing means.
    top = 0.5 if spec.method == "dpo" else 1.0
    yield "label_smoothing", f"at least 0 and below {top:g}", 0 <= spec.label_smoothing < top
    yield "warmup_fraction", "between 0 and 1", 0 <= spec.warmup_fraction <= 1


def _choices(spec: JobSpec) -> Iterator[Rule]:
    for name, value, known in (
        ("method", spec.method, METHODS),
        ("base_weights", spec.base_weights, BASE_WEIGHTS),
        ("lr_scheduler", spec.lr_scheduler, SCHEDULERS),
        ("optimizer", spec.optimizer, OPTIMIZERS),
        ("device", spec.device, ("auto", "cpu", "cuda")),
        ("precision", spec.precision, PRECISIONS),
        ("sharding", spec.sharding, SHARDINGS),
    ):
        yield name, _either(known), value in known
    yield "report_to", f"a list of {_either(REPORTERS)}", set(spec.report_to) <= set(REPORTERS)


def _several(spec: JobSpec) -> Iterator[Rule]:
    """What goes together where there are several processes."""
    yield "sharding", "none or fsdp: DeepSpeed shards a frozen base no better", spec.sharding != "deepspeed"
    sharded = spec.sharding == "fsdp"
    yield "sharding", "none with one process", not sharded or spec.processes > 1
    yield "base_weights", "full where `sharding` is fsdp", not sharded or spec.base_weights == "full"


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


class _Reader:
    """The examples of one file, and how many rows did not become one as they stand."""

    def __init__(self, path: Path, spec: JobSpec, first_index: int) -> None:
        self._name = path.name
        self._first_index = first_index  # of this file's pairs
        self._limit = spec.max_sequence_tokens
        self._cut = self._dropped = self._texts = self._pieces = 0
        self.examples: list[Item] = []

    def add(self, row: Row) -> None:
        if len(row.tokens) > self._limit and is_raw_text(row):
            pieces = [example(piece, self._limit) for piece in text_pieces(row, self._limit)]
            self.examples += [piece for piece in pieces if piece is not None]
            self._texts += 1
            self._pieces += len(pieces)
            return
        self._keep(example(row, self._limit), len(row.tokens))

    def add_preference(self, row: PreferenceRow) -> None:
        longer = max(len(row.chosen.tokens), len(row.rejected.tokens))
        self._keep(preference(row, self._limit, self._first_index + len(self.examples)), longer)

    def _keep(self, item: Item | None, tokens: int) -> None:
        if item is None:
            self._dropped += 1
            return
        self.examples.append(item)
        self._cut += tokens > self._limit

    def warnings(self) -> Iterator[str]:
        if self._cut:
            yield (
                f"{self._name}: {self._cut} rows are longer than {self._limit} tokens and were cut at the end"
            )
        if self._texts:
            yield (
                f"{self._name}: {self._texts} texts are longer than {self._limit} tokens and are trained in "
                f"{self._pieces} pieces"
            )
        if self._dropped:
            yield (
                f"{self._name}: {self._dropped} rows were left out: no token that counts within "
                f"{self._limit} tokens; raise `max_sequence_tokens` or shorten their prompts"
            )


def _read_examples(path: Path, spec: JobSpec, first_index: int) -> Examples:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BadJob(f"{path.name} cannot be read: {error.strerror}") from error
    reader = _Reader(path, spec, first_index)
    for number, line in enumerate(lines, start=1):
        where = f"{path.name}, line {number}"
        if spec.method == "dpo":
            pair = _decode(line, PreferenceRow, where)
            _check(pair.chosen, f"{where}, chosen")
            _check(pair.rejected, f"{where}, rejected")
            reader.add_preference(pair)
        else:
            row = _decode(line, Row, where)
            _check(row, where)
            reader.add(row)
    return Examples(reader.examples, list(reader.warnings()))


def _decode(line: bytes, type: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(line, type=type)
    except msgspec.DecodeError as error:
        raise BadJob(f"{where}: {error}") from error


def _check(row: Row, where: str) -> None:
    if len(row.tokens) != len(row.weights):
        raise BadJob(f"{where}: {len(row.tokens)} tokens but {len(row.weights)} weights")
    if not all(math.isfinite(weight) and weight >= 0 for weight in row.weights):
        raise BadJob(f"{where}: a weight is negative or not finite")


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
