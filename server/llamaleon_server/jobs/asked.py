"""An evaluation that somebody asks for: any served model on the rows of a file, while the client waits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from llamaleon_server.errors import BadRequest, LlamaleonError
from llamaleon_server.evaluation.measure import Limits, Measured, measure, steps
from llamaleon_server.evaluation.rows import FEW_SHOT, EvaluationRow
from llamaleon_server.jobs.dataset import listed, read
from llamaleon_server.jobs.encode import Encoded, Encoder
from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.jobs.held_out import Examples, evaluation_rows
from llamaleon_server.registry.records import AdapterVersion, Target
from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.residents import Residents
from llamaleon_server.wire.evaluations import Evaluation, EvaluationEvent, EvaluationRequest, Overlap
from llamaleon_trainer.rows import DataRow, Problem

MODEL, AGAINST = "model", "against"
PROGRESS_S = 0.25
LISTED_LINES = 20


class _Part(Struct, frozen=True):
    """A model on the rows, bare or behind their examples."""

    name: str
    target: Target
    rows: list[EvaluationRow]
    few_shot: bool = False


async def evaluate_asked(
    registry: Registry, residents: Residents, asked: EvaluationRequest
) -> AsyncGenerator[EvaluationEvent, None]:
    """Progress now and then, and the result as the last event. Closing it ends what runs.

    Raises:
        BadRequest: a file that cannot be used; the message names its lines.
    """
    target = registry.resolve(asked.model)
    other = None if asked.against is None else registry.resolve(asked.against)
    data = await asyncio.to_thread(_read, registry, asked.file, "file", asked.text_template)
    data = data[: max(asked.loss_rows, asked.generated_rows)]
    examples = await asyncio.to_thread(_examples, registry, asked, target, data)
    rows, encoded = await _encoded(residents, target, data, examples, asked)
    parts = [_Part(MODEL, target, rows)]
    if any(row.few_shot for row in rows):
        parts.append(_Part(FEW_SHOT, target, rows, few_shot=True))
    if other is not None:
        beside = rows if other.base == target.base else (await _encoded(residents, other, data, [], asked))[0]
        parts.append(_Part(AGAINST, other, beside))
    limits = Limits(asked.loss_rows, asked.generated_rows)
    total = sum(steps(part.rows, limits, part.few_shot) for part in parts)
    done: list[None] = []

    async def measured() -> dict[str, Measured]:
        return {
            part.name: await measure(
                residents,
                part.target,
                part.rows,
                limits=limits,
                few_shot=part.few_shot,
                on_row=lambda: done.append(None),
            )
            for part in parts
        }

    task = asyncio.create_task(measured())
    try:
        yield EvaluationEvent(type="progress", done=0, total=total)
        while not (await asyncio.wait((task,), timeout=PROGRESS_S))[0]:
            yield EvaluationEvent(type="progress", done=len(done), total=total)
        overlaps = await asyncio.to_thread(_overlaps, registry, target, encoded)
        result = await asyncio.to_thread(_result, asked, rows, task.result(), overlaps)
        yield EvaluationEvent(type="result", done=total, total=total, result=result)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # a failure was told where it was waited for


def _read(registry: Registry, file_id: str, param: str, text_template: str | None = None) -> list[DataRow]:
    file = registry.files.get(file_id, param)
    try:
        dataset = read(file, param, text_template)
    except JobFailed as failure:
        raise BadRequest(failure.message, param=failure.param) from failure
    if dataset.problems:
        told = listed(dataset.problems, dataset.unit)
        raise BadRequest(f"{file.filename}: {len(dataset.problems)} rows are malformed. {told}", param=param)
    return dataset.rows


def _examples(
    registry: Registry, asked: EvaluationRequest, target: Target, data: Sequence[DataRow]
) -> list[DataRow]:
    """Rows to show, none of which is evaluated."""
    if not asked.few_shot:
        return []
    source = asked.examples_file or next(
        (file for file in map(_training_file, target.adapters) if file and _is_there(registry, file)), None
    )
    if source is None:
        raise BadRequest(
            f"`few_shot` needs examples, and `{asked.model}` has no adapter whose training file is still "
            "there: give an `examples_file` with other rows than those of `file`.",
            param="examples_file",
        )
    evaluated = {row.content() for row in data}
    found = [
        row
        for row in _read(registry, source, "examples_file", asked.text_template)
        if row.content() not in evaluated
    ]
    if not found:
        raise BadRequest(
            "`few_shot`: every example is a row that is evaluated, which would show the answer.",
            param="examples_file",
        )
    return found


def _training_file(use: tuple[AdapterVersion, float]) -> str | None:
    found = (use[0].manifest.training or {}).get("training_file")
    return found if isinstance(found, str) else None


def _is_there(registry: Registry, file_id: str) -> bool:
    try:
        registry.files.get(file_id)
    except LlamaleonError:
        return False
    return True


async def _encoded(
    residents: Residents,
    target: Target,
    data: list[DataRow],
    examples: list[DataRow],
    asked: EvaluationRequest,
) -> tuple[list[EvaluationRow], list[Encoded]]:
    async with residents.lease(target.base) as engine:
        encoder, context_tokens = Encoder(engine, target.base), engine.ready.context_tokens
        try:
            encoded = await encoder.encode(data)
        except ValueError as error:
            raise BadRequest(str(error), param="file") from error
        long = [
            Problem(item.line, f"{len(item.row.tokens)} tokens")
            for item in encoded
            if len(item.row.tokens) > context_tokens
        ]
        if long:
            raise BadRequest(
                f"{len(long)} rows do not fit into the context of `{target.base.name}` ({context_tokens} "
                f"tokens). {listed(long)}",
                param="file",
            )
        shown = Examples(examples, context_tokens, asked.seed, asked.few_shot, asked.generated_rows)
        return await evaluation_rows(encoder, data, encoded, shown), encoded


def _overlaps(registry: Registry, target: Target, encoded: Sequence[Encoded]) -> list[Overlap]:
    """Compared as tokens: what an adapter saw is in its job's directory, held-out rows are not among it."""
    found = []
    for version, _ in target.adapters:
        job = (version.manifest.training or {}).get("job")
        path = registry.jobs.directory(str(job)) / "train.jsonl" if job else None
        if path is None or not path.is_file():
            continue
        with path.open("rb") as file:
            seen = {_digest(tokens) for line in file for tokens in _sequences(msgspec.json.decode(line))}
        lines = [item.line for item in encoded if _digest(item.row.tokens) in seen]
        if lines:
            found.append(Overlap(version.full_name, len(lines), lines[:LISTED_LINES]))
    return found


def _sequences(row: dict[str, Any]) -> list[list[int]]:
    """Of a row of train.jsonl, which may be a pair of answers."""
    return [row["tokens"]] if "tokens" in row else [row["chosen"]["tokens"], row["rejected"]["tokens"]]


def _digest(tokens: Sequence[int]) -> bytes:
    return hashlib.sha256(msgspec.json.encode(tokens)).digest()


def _result(
    asked: EvaluationRequest,
    rows: Sequence[EvaluationRow],
    models: dict[str, Measured],
    overlaps: list[Overlap],
) -> Evaluation:
    from llamaleon_server.evaluation.comparing import (
        answered,
        compare,
    )  # numpy: not while the API only serves

    found = compare(rows, models, MODEL)
    wanted = found["metrics"]
    if asked.metrics is not None:
        wanted = {name: wanted[name] for name in asked.metrics if name in wanted}
    answers = answered(rows, models, found["kind"]) if asked.answers else []
    return msgspec.convert(
        {
            "model": asked.model,
            "file": asked.file,
            "against": asked.against,
            "shots": models[FEW_SHOT].shots if FEW_SHOT in models else 0,
            **{name: found[name] for name in ("rows", "kind", "main")},
            "metrics": wanted,
            "fields": found.get("fields", []),
            "labels": found.get("labels", []),
            "confusion": found.get("confusion", {}),
            "trained_on": msgspec.to_builtins(overlaps),
            "answers": msgspec.to_builtins(answers),
        },
        Evaluation,
    )
