"""Rows as the engine's own tokens: rendered by the chat code that serves, tokenised by the served base."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from llamaleon_server.chat.literal import Guard
from llamaleon_server.chat.template import ChatTemplate
from llamaleon_server.chat.training import Segment, training_segments
from llamaleon_server.registry.records import Base
from llamaleon_server.residents.engine import Engine
from llamaleon_trainer.job import Row
from llamaleon_trainer.rows import DataRow

BATCH_ROWS = 256


class Piece(Struct, frozen=True):
    """A text tokenised on its own, all of whose tokens have one weight (dimensionless).

    Over `breaks` no control token is read, as when serving.
    """

    text: str
    weight: float
    breaks: tuple[int, ...] = ()


class Encoded(Struct, frozen=True):
    """One row ready to train on, and what evaluating it by generation needs."""

    line: int
    row: Row
    prompt_tokens: int  # that precede the last answer
    reference: str | None  # the last answer's text; None for plain text rows


class Encoder:
    def __init__(self, engine: Engine, base: Base) -> None:
        self._engine = engine
        self._template = ChatTemplate(base.chat_template, base.bos_token, base.eos_token)
        self._bos_token = base.bos_token
        self._eos = engine.ready.eos_token_id

    async def encode(self, rows: Sequence[DataRow]) -> list[Encoded]:
        """In the order of `rows`.

        Raises:
            ValueError: the template cannot render a row (the message names the line).
        """
        encoded: list[Encoded] = []
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            encoded += await self._tokenise(batch, await asyncio.to_thread(self._render, batch))
        return encoded

    def _render(self, rows: Sequence[DataRow]) -> list[list[Piece]]:
        return [self._pieces(row) for row in rows]

    def _pieces(self, row: DataRow) -> list[Piece]:
        if row.messages is not None:
            guard = Guard(row.messages, row.tools)
            said, tools = guard.guarded(row.messages), guard.guarded(row.tools)
            try:
                segments = training_segments(self._template, said, tools=tools)
            except Exception as error:  # a template is foreign code: whatever it raises is about this row
                raise ValueError(f"line {row.line}: the chat template refuses it: {error}") from error
            return [_piece(guard, segment) for segment in segments]
        if row.text is not None:
            return [Piece(row.text, 1.0)]
        return [Piece(row.prompt or "", 0.0), Piece(row.completion or "", 1.0)]

    async def _tokenise(self, rows: Sequence[DataRow], pieces: list[list[Piece]]) -> list[Encoded]:
        """The first piece as a prompt is (BOS unless the text has it); the others go on from there."""
        flat = [(piece, at == 0 and self._adds_bos(piece)) for row in pieces for at, piece in enumerate(row)]
        tokens: dict[int, list[int]] = {}
        for add_special in (False, True):
            wanted = [index for index, (_, special) in enumerate(flat) if special == add_special]
            texts = [flat[index][0].text for index in wanted]
            breaks = [flat[index][0].breaks for index in wanted]
            found = (
                await self._engine.tokenize(texts, add_special=add_special, breaks=breaks) if texts else []
            )
            tokens.update(zip(wanted, found, strict=True))
        encoded, at = [], 0
        for row, row_pieces in zip(rows, pieces, strict=True):
            end = at + len(row_pieces)
            encoded.append(self._join(row, row_pieces, [tokens[index] for index in range(at, end)]))
            at = end
        return encoded

    def _adds_bos(self, piece: Piece) -> bool:
        return not (self._bos_token and piece.text.startswith(self._bos_token))

    def _join(self, row: DataRow, pieces: list[Piece], tokens: list[list[int]]) -> Encoded:
        ids: list[int] = []
        weights: list[float] = []
        prompt_tokens = 0
        for piece, piece_tokens in zip(pieces, tokens, strict=True):
            if piece.weight > 0:
                prompt_tokens = len(ids)
            ids += piece_tokens
            weights += [piece.weight] * len(piece_tokens)
        if row.messages is None and self._eos is not None:
            # Raw text has no end-of-turn of its own: the answer's end is learnt as the end token.
            ids.append(self._eos)
            weights.append(1.0)
        return Encoded(row.line, Row(ids, weights), prompt_tokens, _reference(row))


def _piece(guard: Guard, segment: Segment) -> Piece:
    text, breaks = guard.cut(segment.text)
    return Piece(text, segment.weight, breaks)


def _reference(row: DataRow) -> str | None:
    if row.messages is None:
        return row.completion
    answers = [m for m in row.messages if m["role"] == "assistant" and m.get("weight", 1) != 0]
    last = answers[-1]
    return last["content"] if last is row.messages[-1] and last["content"] else None
