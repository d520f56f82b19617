"""Held-out rows as the evaluation wants them: tokenised, with and without examples before the question."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llamaleon_server.evaluation.few_shot import SEPARATOR, SHOTS, asked, choose, with_shots
from llamaleon_server.evaluation.measure import GENERATED_ROWS, SPARE_TOKENS
from llamaleon_server.evaluation.rows import EvaluationRow, Scored
from llamaleon_server.jobs.encode import Encoded, Encoder
from llamaleon_trainer.rows import DataRow

FEW_SHOT_TOKENS = 2048  # longest sequence with examples: they are evaluated for every row


class Examples(Struct, frozen=True):
    """Where examples come from: up to `shots` of `rows`, in sequences that fit into `context_tokens`."""

    rows: Sequence[DataRow]
    context_tokens: int
    seed: int
    shots: int = SHOTS
    asked_rows: int = GENERATED_ROWS  # the first ones, which get examples


async def evaluation_rows(
    encoder: Encoder, rows: Sequence[DataRow], encoded: Sequence[Encoded], examples: Examples
) -> list[EvaluationRow]:
    """`encoded` are `rows` in their order.

    Only the rows that are generated for get examples: for the others they would cost more than they tell.
    """
    behind, shots = await _few_shot(encoder, rows[: examples.asked_rows], examples)
    # What separates examples of raw text ends an answer, unless answers have such lines themselves.
    stops = [] if any(SEPARATOR in (row.completion or "") for row in examples.rows) else [SEPARATOR]
    return [
        EvaluationRow(
            line=item.line,
            tokens=item.row.tokens,
            weights=item.row.weights,
            prompt_tokens=item.prompt_tokens,
            reference=item.reference,
            prompt=asked(row),
            few_shot=behind.get(index),
            shots=shots if index in behind else 0,
            few_shot_stop=stops if index in behind and row.messages is None else [],
            rejected=None if item.rejected is None else _scored(item.rejected),
        )
        for index, (row, item) in enumerate(zip(rows, encoded, strict=True))
    ]


def _scored(item: Encoded) -> Scored:
    return Scored(item.row.tokens, item.row.weights, item.prompt_tokens)


async def _few_shot(
    encoder: Encoder, rows: Sequence[DataRow], examples: Examples
) -> tuple[dict[int, Scored], int]:
    """Rows behind examples, by their index: with the most examples that leave room for half of the rows."""
    longest = min(examples.context_tokens - 1, FEW_SHOT_TOKENS)
    chosen = choose(examples.rows, examples.shots, examples.seed)
    for shots in range(len(chosen), 0, -1):
        made = {index: with_shots(row, chosen[:shots]) for index, row in enumerate(rows)}
        wanted = {index: row for index, row in made.items() if row is not None}
        try:
            encoded = await encoder.encode(list(wanted.values()))
        except ValueError:  # a template that takes one question only has no room for examples
            return {}, 0
        fitting = {
            index: _scored(item)
            for index, item in zip(wanted, encoded, strict=True)
            if len(item.row.tokens) + SPARE_TOKENS <= longest
        }
        if fitting and 2 * len(fitting) >= len(rows):
            return fitting, shots
    return {}, 0
