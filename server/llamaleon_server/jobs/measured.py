"""What rows are made of: how many of which kind, how long, and how they read."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from llamaleon_server.jobs.encode import Encoded, Piece
from llamaleon_server.wire.datasets import Bucket, Lengths, ShownPiece
from llamaleon_trainer.rows import DataRow

MOST_BUCKETS = 10


def roles_of(rows: Sequence[DataRow]) -> dict[str, int]:
    """Messages by role; those of a rejected answer's conversation are not counted again."""
    counted = Counter(message["role"] for row in rows for message in row.messages or ())
    return dict(counted.most_common())


def kinds_of(rows: Sequence[DataRow]) -> dict[str, int]:
    """Rows by what they are: one row may be several of these."""
    counted: Counter[str] = Counter()
    for row in rows:
        counted.update(_kinds(row))
    return dict(counted.most_common())


def _kinds(row: DataRow) -> list[str]:
    found = ["preference"] if row.rejected is not None else []
    if row.messages is None:
        return [*found, "text" if row.text is not None else "completion"]
    answers = [message for message in row.messages if message["role"] == "assistant"]
    found.append("conversation")
    marks = {
        "system": any(message["role"] in ("system", "developer") for message in row.messages),
        "multi_turn": sum(message["role"] == "user" for message in row.messages) > 1,
        "tools": bool(row.tools) or any(message.get("tool_calls") for message in answers),
        "weighted": row.rejected is None and any("weight" in message for message in answers),
    }
    return [*found, *(name for name, holds in marks.items() if holds)]


def token_lengths(encoded: Sequence[Encoded]) -> Lengths | None:
    """Of a preference row the longer one of its two sequences; learned tokens of both."""
    learned = 0
    for item in encoded:
        for one in (item, item.rejected):
            if one is not None:
                learned += sum(weight > 0 for weight in one.row.weights)
    return _lengths([item.longest for item in encoded], learned, "tokens")


def character_lengths(rows: Sequence[DataRow]) -> Lengths | None:
    pieces = [plain_pieces(row) for row in rows]
    learned = sum(len(piece.text) for row in pieces for piece in row if piece.weight)
    return _lengths([sum(len(piece.text) for piece in row) for row in pieces], learned, "characters")


def plain_pieces(row: DataRow) -> list[Piece]:
    """A row without any model's marks."""
    if row.messages is None:
        if row.text is not None:
            return [Piece(row.text, 1.0)]
        return [Piece(row.prompt or "", 0.0), Piece(row.completion or "", 1.0)]
    pieces = []
    for message in row.messages:
        said = message["content"] or _called(message)
        learned = message["role"] == "assistant" and message.get("weight") != 0
        pieces += [Piece(f"{message['role']}: ", 0.0), Piece(said, float(learned)), Piece("\n", 0.0)]
    return pieces


def _called(message: dict[str, Any]) -> str:
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return " ".join(f"{one['name']}({one.get('arguments', '')})" for one in functions)


def shown_pieces(pieces: Sequence[Piece]) -> list[ShownPiece]:
    return [ShownPiece(piece.text, piece.weight > 0) for piece in pieces if piece.text]


def _lengths(lengths: Sequence[int], learned: int, unit: Literal["tokens", "characters"]) -> Lengths | None:
    if not lengths:
        return None
    return Lengths(
        unit=unit,
        shortest=min(lengths),
        median=round(statistics.median(lengths)),
        mean=round(statistics.fmean(lengths), 1),
        longest=max(lengths),
        total=sum(lengths),
        learned=learned,
        histogram=histogram(lengths),
    )


def histogram(lengths: Sequence[int]) -> list[Bucket]:
    """At most `MOST_BUCKETS`, of a width that is 1, 2 or 5 times a power of ten.

    >>> [(bucket.least, bucket.most, bucket.rows) for bucket in histogram([3, 41, 58, 59])]
    [(0, 9, 1), (10, 19, 0), (20, 29, 0), (30, 39, 0), (40, 49, 1), (50, 59, 2)]
    """
    shortest, longest = min(lengths), max(lengths)
    width = _round_width((longest - shortest + 1) / (MOST_BUCKETS - 1))
    first = shortest // width
    counted = Counter(length // width for length in lengths)
    return [
        Bucket(at * width, (at + 1) * width - 1, counted.get(at, 0))
        for at in range(first, longest // width + 1)
    ]


def _round_width(least: float) -> int:
    power = 10 ** max(0, math.floor(math.log10(max(least, 1))))
    return next(int(factor * power) for factor in (1, 2, 5, 10) if factor * power >= least)
