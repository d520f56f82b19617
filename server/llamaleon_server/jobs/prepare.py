"""From an uploaded file to a job directory: every row is validated before any weight is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from llamaleon_server.jobs import auto
from llamaleon_server.jobs.encode import Encoded, Encoder
from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.registry.blobs import disk_errors
from llamaleon_server.registry.files import StoredFile
from llamaleon_server.registry.jobstore import JobRecord
from llamaleon_server.registry.records import Base
from llamaleon_server.residents.engine import Engine
from llamaleon_trainer.job import JobSpec, Row, write_atomic, write_spec
from llamaleon_trainer.rows import DataRow, Dataset, Problem, read_dataset
from llamaleon_trainer.split import split

LISTED_PROBLEMS = 20
FEW_ROWS = 100
PROBE_BYTES = 64 * 2**20  # of float32 logits on the probe, per dump
PROBE_SEQUENCES = 8
PROBE_SEQUENCE_TOKENS = 256
EVALUATION_FILE = "evaluation_rows.json"


class EvaluationRow(Struct, frozen=True):
    """A held-out row as evaluated: `tokens` and `weights` as in `job.Row`."""

    line: int
    tokens: list[int]
    weights: list[float]
    prompt_tokens: int
    reference: str | None


class Prepared(Struct, frozen=True):
    resolved: dict[str, Any]
    train_rows: int
    valid_rows: int
    warnings: list[str]


def read_rows(
    training: StoredFile, validation: StoredFile | None
) -> tuple[list[DataRow], list[DataRow] | None]:
    """Rows to train on, and the held-out ones if they have a file of their own. Blocks.

    Raises:
        JobFailed: malformed rows, listed with their lines and reasons.
    """
    train = _checked(training, "training_file")
    return train.rows, None if validation is None else _checked(validation, "validation_file").rows


def _checked(file: StoredFile, param: str) -> Dataset:
    try:
        dataset = read_dataset(file.path, file.filename)
    except OSError as error:
        raise JobFailed("invalid_file", f"{file.id} cannot be read: {error}", param) from error
    if dataset.problems:
        bad = f"{len(dataset.problems)} of {len(dataset.problems) + len(dataset.rows)} rows"
        raise JobFailed(
            f"invalid_{param}", f"{file.filename}: {bad} are malformed. {listed(dataset.problems)}", param
        )
    return dataset


def listed(problems: Sequence[Problem]) -> str:
    shown = "; ".join(f"line {problem.line}: {problem.reason}" for problem in problems[:LISTED_PROBLEMS])
    more = len(problems) - LISTED_PROBLEMS
    return f"{shown}; and {more} more." if more > 0 else f"{shown}."


async def prepare(
    directory: Path,
    record: JobRecord,
    base: Base,
    engine: Engine,
    rows: tuple[list[DataRow], list[DataRow] | None],
) -> Prepared:
    """Split, tokenise, and write the job directory; `spec.json` last, so that its presence means complete.

    Raises:
        JobFailed: too few rows, a row too long, or one that the chat template refuses.
    """
    train, held_out = _split(record, *rows)
    context_tokens = engine.ready.context_tokens
    longest = auto.max_sequence_tokens(record.requested, context_tokens)
    if longest > context_tokens:
        raise JobFailed(
            "invalid_hyperparameter",
            f"max_sequence_tokens is {longest}, but `{base.name}` is served with a context of "
            f"{context_tokens} tokens: ask for less, or serve with a larger --context.",
            "method.supervised.hyperparameters.max_sequence_tokens",
        )
    encoder = Encoder(engine, base)
    try:
        encoded_train, encoded_valid = await encoder.encode(train), await encoder.encode(held_out)
    except ValueError as error:
        raise JobFailed("invalid_training_file", str(error), "training_file") from error
    valid_param = "training_file" if rows[1] is None else "validation_file"
    for encoded, param in ((encoded_train, "training_file"), (encoded_valid, valid_param)):
        _refuse_empty(encoded, param)
        _refuse_long(encoded, longest, param)
    resolved = auto.resolve(
        record.requested, rows=len(train), parameters=engine.ready.n_params, context_tokens=context_tokens
    )
    probe = probe_sequences([item.row.tokens for item in encoded_valid], engine.ready.n_vocab)
    spec = _spec(record, base, resolved)
    await asyncio.to_thread(_write, directory, spec, encoded_train, encoded_valid, probe)
    return Prepared(resolved, len(train), len(held_out), _warnings(train, held_out))


def _split(
    record: JobRecord, rows: list[DataRow], validation: list[DataRow] | None
) -> tuple[list[DataRow], list[DataRow]]:
    if validation is not None:
        return rows, validation
    try:
        return split(rows, auto.held_out_fraction(record.requested), record.seed)
    except ValueError as error:
        raise JobFailed(
            "invalid_training_file",
            f"{error}: {len(rows)} rows were given. Add rows, or give a validation_file.",
            "training_file",
        ) from error


def _refuse_long(rows: Sequence[Encoded], longest: int, param: str) -> None:
    problems = [
        Problem(item.line, f"{len(item.row.tokens)} tokens")
        for item in rows
        if len(item.row.tokens) > longest
    ]
    if problems:
        raise JobFailed(
            f"invalid_{param}",
            f"{len(problems)} of {len(rows)} rows are longer than max_sequence_tokens ({longest}); nothing "
            f"is cut silently. {listed(problems)} Shorten them, or ask for a larger max_sequence_tokens.",
            param,
        )


def _refuse_empty(rows: Sequence[Encoded], param: str) -> None:
    problems = [Problem(item.line, "nothing to learn") for item in rows if not any(item.row.weights)]
    if problems:
        raise JobFailed(f"invalid_{param}", f"{len(problems)} of {len(rows)} rows: {listed(problems)}", param)


def probe_sequences(rows: Sequence[list[int]], n_vocab: int) -> list[list[int]]:
    """Beginnings of a few rows, together small enough that their logits stay under `PROBE_BYTES`.

    >>> probe_sequences([[1, 2, 3]], n_vocab=PROBE_BYTES // 8)
    [[1, 2]]
    """
    chosen = sorted(rows, key=len, reverse=True)[:PROBE_SEQUENCES]
    each = max(2, PROBE_BYTES // (4 * n_vocab) // max(1, len(chosen)))
    return [row[: min(each, PROBE_SEQUENCE_TOKENS)] for row in chosen]


def _spec(record: JobRecord, base: Base, resolved: dict[str, Any]) -> JobSpec:
    fields = {"job_id": record.id, "base": str(base.path), "seed": record.seed, **auto.spec_fields(resolved)}
    return msgspec.convert(fields, JobSpec)


def _write(
    directory: Path, spec: JobSpec, train: list[Encoded], valid: list[Encoded], probe: list[list[int]]
) -> None:
    with disk_errors("the job directory"):
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / "train.jsonl", _lines(item.row for item in train))
        write_atomic(directory / "valid.jsonl", _lines(item.row for item in valid))
        write_atomic(directory / "probe.json", msgspec.json.encode(probe))
        rows = [
            EvaluationRow(e.line, e.row.tokens, e.row.weights, e.prompt_tokens, e.reference) for e in valid
        ]
        write_atomic(directory / EVALUATION_FILE, msgspec.json.encode(rows))
        write_spec(directory, spec)


def _lines(rows: Iterable[Row]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def read_evaluation_rows(directory: Path) -> list[EvaluationRow]:
    return msgspec.json.decode((directory / EVALUATION_FILE).read_bytes(), type=list[EvaluationRow])


def _warnings(train: list[DataRow], held_out: list[DataRow]) -> list[str]:
    found = []
    if len(train) + len(held_out) < FEW_ROWS:
        found.append(
            f"Only {len(train) + len(held_out)} rows: below {FEW_ROWS}, expect an adapter that overfits."
        )
    seen: dict[bytes, int] = {}
    repeated = 0
    for row in train:
        repeated += row.content() in seen
        seen.setdefault(row.content(), row.line)
    if repeated:
        found.append(f"{repeated} training rows repeat an earlier one.")
    leaked = [row.line for row in held_out if row.content() in seen]
    if leaked:
        lines = ", ".join(map(str, leaked[:LISTED_PROBLEMS]))
        found.append(
            f"{len(leaked)} held-out rows are also trained on (lines {lines}): the evaluation flatters."
        )
    return found
