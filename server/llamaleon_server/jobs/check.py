"""A data set looked at as a job would read it, and nothing trained: everything that is wrong at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from llamaleon_server.jobs import auto, measured
from llamaleon_server.jobs.dataset import Alike, across, look_for_likes, read, repeats, warnings
from llamaleon_server.jobs.encode import Encoded, Encoder, Piece, pieces_of_text
from llamaleon_server.jobs.need import free_bytes
from llamaleon_server.registry.files import StoredFile
from llamaleon_server.registry.records import Base
from llamaleon_server.residents.residents import Residents
from llamaleon_server.wire.datasets import (
    CheckedFile,
    CheckRequest,
    Cost,
    DatasetCheck,
    Lengths,
    Likeness,
    Likes,
    RowProblem,
    ShownRow,
)
from llamaleon_trainer.rows import DataRow, Dataset
from llamaleon_trainer.split import split

MOST_LISTED = 100  # of each kind of remark


class Parts(Struct, frozen=True):
    """All rows, and those of them that a job would train on and hold out."""

    rows: list[DataRow]
    train: list[DataRow]
    held_out: list[DataRow]
    speeds: Path


class Size(Struct, frozen=True):
    limit: int  # tokens of a row
    parameters: int
    context_tokens: int


class Tokenised(Struct, frozen=True, kw_only=True):
    """What the model makes of the rows; without one only `lengths` (of characters) and `shown`."""

    lengths: Lengths | None
    shown: list[ShownRow]
    limit: int | None = None
    too_long: list[RowProblem] = []
    refused: list[RowProblem] = []
    cost: Cost | None = None


async def check(
    residents: Residents,
    asked: CheckRequest,
    files: tuple[StoredFile, StoredFile | None],
    base: Base | None,
    speeds: Path,
) -> DatasetCheck:
    """Read, compare, tokenise and measure. `asked.hyperparameters` are valid, `speeds` is what jobs measured.

    Raises:
        JobFailed: a file cannot be read at all, or the text template is none.
    """
    from llamaleon_trainer.similar import THRESHOLD

    training = await asyncio.to_thread(read, files[0], "training_file", asked.text_template)
    validation = None
    if files[1] is not None:
        validation = await asyncio.to_thread(read, files[1], "validation_file", asked.text_template)
    given = None if validation is None else validation.rows
    alike = await asyncio.to_thread(look_for_likes, training.rows, given)
    train, held_out = _parted(asked, training.rows, given, alike)
    rows = [*training.rows, *(given or ())]
    if base is None:
        lengths = await asyncio.to_thread(measured.character_lengths, rows)
        some = rows[: asked.shown]
        found = Tokenised(lengths=lengths, shown=[_shown(row, measured.plain_pieces) for row in some])
    else:
        found = await _tokenised(residents, asked, base, Parts(rows, train, held_out, speeds))
    told = warnings(train, held_out, alike)
    wrong = _wrong_method(asked.method, rows)
    clean = not training.problems and (validation is None or not validation.problems)
    return DatasetCheck(
        ok=clean and bool(training.rows) and not (found.refused or found.too_long or wrong),
        training=_file(files[0], training),
        validation=None if validation is None or files[1] is None else _file(files[1], validation),
        train_rows=len(train),
        held_out_rows=len(held_out),
        lengths=found.lengths,
        limit=found.limit,
        too_long=found.too_long,
        refused=found.refused,
        shown=found.shown,
        duplicates=_likes([(row, first, 1.0) for row, first in repeats(training.rows)]),
        near_duplicates=_likes(_near(training.rows, alike)),
        leaked=_likes(_leaked(train, held_out)),
        near_leaked=_likes(across(train, held_out, alike)),
        threshold=THRESHOLD,
        warnings=[*told, *wrong],
        cost=found.cost,
    )


def _parted(
    asked: CheckRequest, rows: list[DataRow], given: list[DataRow] | None, alike: Alike
) -> tuple[list[DataRow], list[DataRow]]:
    """As a job would, with the seed 0; everything is trained on where nothing can be held out."""
    if given is not None:
        return rows, given
    try:
        return split(rows, auto.held_out_fraction(asked.hyperparameters), 0, alike.places())
    except ValueError:
        return rows, []


def _wrong_method(method: str | None, rows: Sequence[DataRow]) -> list[str]:
    preferences = sum(row.rejected is not None for row in rows)
    if 0 < preferences < len(rows):
        return [f"{preferences} of {len(rows)} rows are preference rows: no method takes both kinds."]
    if method == "dpo" and rows and not preferences:
        return ["The method dpo needs preference rows, and these are none."]
    if method == "supervised" and preferences:
        return ['These are preference rows: they need the method "dpo".']
    return []


async def _tokenised(residents: Residents, asked: CheckRequest, base: Base, parts: Parts) -> Tokenised:
    rows = parts.rows
    async with residents.lease(base) as engine:
        encoder = Encoder(engine, base)
        limit = auto.max_sequence_tokens(asked.hyperparameters, engine.ready.context_tokens)
        made, refused = await encoder.encode_what_can_be(rows)
        size = Size(limit, engine.ready.n_params, engine.ready.context_tokens)
    encoded = [item for _, item in made]
    bad = {id(row) for row, _ in refused}
    return Tokenised(
        lengths=await asyncio.to_thread(measured.token_lengths, encoded),
        shown=[_shown(row, encoder.pieces) for row in rows[: asked.shown] if id(row) not in bad],
        limit=limit,
        too_long=_too_long(made, limit),
        refused=[RowProblem(row.line, why) for row, why in refused[:MOST_LISTED]],
        cost=await asyncio.to_thread(_cost, asked, base, parts, size, made),
    )


def _cost(
    asked: CheckRequest,
    base: Base,
    parts: Parts,
    size: Size,
    made: Sequence[tuple[DataRow, Encoded]],
) -> Cost | None:
    """None where nothing can be trained on: no row, or rows of two methods."""
    from llamaleon_convert.header import read_header
    from llamaleon_trainer.estimate import GUESS, estimate
    from llamaleon_trainer.job import JobSpec
    from llamaleon_trainer.speeds import find_speed, read_speeds

    encoded = {id(row): item for row, item in made}
    train, held_out = (
        [length for row in rows if id(row) in encoded for length in _cut(row, encoded[id(row)], size.limit)]
        for rows in (parts.train, parts.held_out)
    )
    pairs = sum(row.rejected is not None for row in parts.rows)
    if not train or 0 < pairs < len(parts.rows):
        return None
    method = "dpo" if pairs else "supervised"
    resolved = auto.resolve(
        asked.hyperparameters,
        rows=len(train),
        parameters=size.parameters,
        context_tokens=size.context_tokens,
        method=method,
    )
    spec_fields = auto.spec_fields(resolved)
    fields = {"job_id": "check", "base": str(base.path), "method": method, **spec_fields}
    spec = msgspec.convert(fields, JobSpec)
    # Where a job has trained here, the next one will.
    known = read_speeds(parts.speeds)
    device, _, precision = next(iter(known.machine), "cpu float32").partition(" ")
    speed = find_speed(parts.speeds, spec, device, precision)
    found = estimate(
        read_header(base.path),
        spec,
        train,
        speed,
        valid_lengths=held_out,
        counted=_counted([item for _, item in made]),
        device=device,
        free_bytes=free_bytes(gpu=device == "cuda"),
    )
    return Cost(
        memory_bytes=found.memory_bytes,
        seconds=None if speed is GUESS else round(found.seconds, 1),
        device=device,
        basis=found.basis,
    )


def _cut(row: DataRow, item: Encoded, limit: int) -> list[tuple[int, ...]]:
    """The lengths of a row's sequences; of a plain text's pieces each. What else is too long is refused."""
    if row.text is None:
        return [item.lengths]
    return [(len(piece.row.tokens),) for piece in pieces_of_text(item, limit)]


def _counted(encoded: Sequence[Encoded]) -> float:
    """The share of the tokens that are learnt."""
    rows = [one.row for item in encoded for one in (item, item.rejected) if one is not None]
    tokens = sum(len(row.weights) for row in rows)
    return sum(weight > 0 for row in rows for weight in row.weights) / max(tokens, 1)


def _too_long(made: Sequence[tuple[DataRow, Encoded]], limit: int) -> list[RowProblem]:
    """Plain texts are cut into pieces, so they are never too long."""
    return [
        RowProblem(item.line, f"{item.longest} tokens")
        for row, item in made
        if item.longest > limit and row.text is None
    ]


def _shown(row: DataRow, pieces: Callable[[DataRow], list[Piece]]) -> ShownRow:
    rejected = [] if row.rejected is None else measured.shown_pieces(pieces(row.rejected))
    return ShownRow(row.line, measured.shown_pieces(pieces(row)), rejected)


def _file(file: StoredFile, dataset: Dataset) -> CheckedFile:
    return CheckedFile(
        id=file.id,
        filename=file.filename,
        shape=dataset.shape,
        unit="row" if dataset.unit == "row" else "line",
        rows=len(dataset.rows),
        malformed=len(dataset.problems),
        problems=[RowProblem(line, reason) for line, reason in dataset.problems[:MOST_LISTED]],
        roles=measured.roles_of(dataset.rows),
        kinds=measured.kinds_of(dataset.rows),
    )


def _near(rows: Sequence[DataRow], alike: Alike) -> list[tuple[DataRow, DataRow, float]]:
    """Within the training file: each row with the earlier one that it is like most."""
    best: dict[int, tuple[DataRow, DataRow, float]] = {}
    for pair in alike.pairs or ():
        if pair.second >= len(rows):
            continue
        found = best.get(pair.second)
        if found is None or found[2] < pair.similarity:
            best[pair.second] = (rows[pair.second], rows[pair.first], pair.similarity)
    return [best[place] for place in sorted(best)]


def _leaked(train: Sequence[DataRow], held_out: Sequence[DataRow]) -> list[tuple[DataRow, DataRow, float]]:
    trained = {row.content(): row for row in reversed(train)}
    return [(row, trained[row.content()], 1.0) for row in held_out if row.content() in trained]


def _likes(found: Sequence[tuple[DataRow, DataRow, float]]) -> Likes:
    examples = [Likeness(row.line, like.line, round(much, 3)) for row, like, much in found[:MOST_LISTED]]
    return Likes(count=len(found), examples=examples)
