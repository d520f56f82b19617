"""From an uploaded file to a job directory: every row is validated before any weight is loaded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from llamaleon_server.evaluation.measure import GENERATED_ROWS
from llamaleon_server.evaluation.rows import EvaluationRow, write_evaluation_rows
from llamaleon_server.jobs import auto
from llamaleon_server.jobs.dataset import Alike, listed, look_for_likes, require_method, warnings
from llamaleon_server.jobs.encode import Encoded, Encoder, pieces_of_text
from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.jobs.held_out import Examples, evaluation_rows
from llamaleon_server.registry.blobs import disk_errors
from llamaleon_server.registry.jobstore import JobRecord
from llamaleon_server.registry.records import Base
from llamaleon_server.residents.engine import Engine
from llamaleon_trainer.job import JobSpec, PreferenceRow, Row, write_atomic, write_spec
from llamaleon_trainer.rows import DataRow, Problem
from llamaleon_trainer.split import split

PROBE_BYTES = 64 * 2**20  # of float32 logits on the probe, per dump
PROBE_SEQUENCES = 8
PROBE_SEQUENCE_TOKENS = 256


class Prepared(Struct, frozen=True):
    resolved: dict[str, Any]
    train_rows: int
    valid_rows: int
    warnings: list[str]


async def prepare(
    directory: Path,
    record: JobRecord,
    base: Base,
    engine: Engine,
    rows: tuple[list[DataRow], list[DataRow] | None],
) -> Prepared:
    """Split, tokenise, and write the job directory; `spec.json` last, so that its presence means complete.

    Raises:
        JobFailed: rows of another method, too few, too long, or such as the chat template refuses.
    """
    require_method(record.method, rows[0], "training_file")
    require_method(record.method, rows[1] or [], "validation_file")
    alike = await asyncio.to_thread(look_for_likes, *rows)
    train, held_out = _split(record, *rows, alike)
    context_tokens = engine.ready.context_tokens
    longest = auto.max_sequence_tokens(record.requested, context_tokens)
    if longest > context_tokens:
        raise JobFailed(
            "invalid_hyperparameter",
            f"max_sequence_tokens is {longest}, but `{base.name}` is served with a context of "
            f"{context_tokens} tokens: ask for less, or serve with a larger --context.",
            f"method.{record.method}.hyperparameters.max_sequence_tokens",
        )
    encoder = Encoder(engine, base)
    valid_param = "training_file" if rows[1] is None else "validation_file"
    encoded_train = await _encoded(encoder, train, "training_file")
    encoded_valid = await _encoded(encoder, held_out, valid_param)
    told = warnings(train, held_out, alike)
    train, encoded_train = _fitted(train, encoded_train, longest, "training_file")
    held_out, encoded_valid = _fitted(held_out, encoded_valid, longest, valid_param)
    resolved = auto.resolve(
        record.requested,
        rows=len(train),
        parameters=engine.ready.n_params,
        context_tokens=context_tokens,
        method=record.method,
    )
    probe = probe_sequences([item.row.tokens for item in encoded_valid], engine.ready.n_vocab)
    spec = auto.job_spec(record, base.path, resolved, directory)
    examples = Examples(train, context_tokens, record.seed)
    evaluated = await evaluation_rows(encoder, *_mixed(held_out, encoded_valid, record.seed), examples)
    await asyncio.to_thread(_write, directory, spec, (encoded_train, encoded_valid), probe, evaluated)
    return Prepared(resolved, len(train), len(held_out), told)


async def _encoded(encoder: Encoder, rows: list[DataRow], param: str) -> list[Encoded]:
    try:
        return await encoder.encode(rows)
    except ValueError as error:
        raise JobFailed(f"invalid_{param}", str(error), param) from error


def _mixed(
    rows: list[DataRow], encoded: list[Encoded], seed: int
) -> tuple[Sequence[DataRow], Sequence[Encoded]]:
    """In an order drawn with `seed` if not all are asked: the first ones are, and files are often sorted."""
    places = list(range(len(rows)))
    if len(rows) > GENERATED_ROWS:
        random.Random(seed).shuffle(places)
    return [rows[place] for place in places], [encoded[place] for place in places]


def _split(
    record: JobRecord, rows: list[DataRow], validation: list[DataRow] | None, alike: Alike
) -> tuple[list[DataRow], list[DataRow]]:
    if validation is not None:
        return rows, validation
    try:
        return split(rows, auto.held_out_fraction(record.requested), record.seed, alike.places())
    except ValueError as error:
        raise JobFailed(
            "invalid_training_file",
            f"{error}: {len(rows)} rows were given. Add rows, or give a validation_file.",
            "training_file",
        ) from error


def _fitted(
    rows: list[DataRow], encoded: list[Encoded], longest: int, param: str
) -> tuple[list[DataRow], list[Encoded]]:
    """Texts that are too long in pieces, each with its row; every other row as it is.

    Raises:
        JobFailed: rows that are too long and no plain text, or from which nothing is learnt.
    """
    empty = [Problem(item.line, "nothing to learn") for item in encoded if not item.learns]
    if empty:
        raise JobFailed(f"invalid_{param}", f"{len(empty)} of {len(rows)} rows: {listed(empty)}", param)
    pairs = list(zip(rows, encoded, strict=True))
    long = [
        Problem(item.line, f"{item.longest} tokens")
        for row, item in pairs
        if item.longest > longest and row.text is None
    ]
    if long:
        raise JobFailed(
            f"invalid_{param}",
            f"{len(long)} of {len(rows)} rows are longer than max_sequence_tokens ({longest}); nothing "
            f"is cut silently. {listed(long)} Shorten them, or ask for a larger max_sequence_tokens.",
            param,
        )
    made = [
        (row, piece)
        for row, item in pairs
        for piece in (pieces_of_text(item, longest) if item.longest > longest else [item])
    ]
    return [row for row, _ in made], [piece for _, piece in made]


def probe_sequences(rows: Sequence[list[int]], n_vocab: int) -> list[list[int]]:
    """Beginnings of a few rows, together small enough that their logits stay under `PROBE_BYTES`.

    >>> probe_sequences([[1, 2, 3]], n_vocab=PROBE_BYTES // 8)
    [[1, 2]]
    """
    chosen = sorted(rows, key=len, reverse=True)[:PROBE_SEQUENCES]
    each = max(2, PROBE_BYTES // (4 * n_vocab) // max(1, len(chosen)))
    return [row[: min(each, PROBE_SEQUENCE_TOKENS)] for row in chosen]


def _write(
    directory: Path,
    spec: JobSpec,
    encoded: tuple[list[Encoded], list[Encoded]],
    probe: list[list[int]],
    evaluated: list[EvaluationRow],
) -> None:
    train, valid = encoded
    with disk_errors("the job directory"):
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / "train.jsonl", _lines(item.written() for item in train))
        write_atomic(directory / "valid.jsonl", _lines(item.written() for item in valid))
        write_atomic(directory / "probe.json", msgspec.json.encode(probe))
        write_evaluation_rows(directory, evaluated)
        write_spec(directory, spec)


def _lines(rows: Iterable[Row | PreferenceRow]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
