"""Rows as the engine's own tokens: rendered by the chat code that serves, tokenised by the served base."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from llamaleon_server.chat.literal import Guard
from llamaleon_server.chat.template import ChatTemplate
from llamaleon_server.chat.training import Segment, training_segments
from llamaleon_server.registry.records import Base
from llamaleon_server.residents.engine import Engine
from llamaleon_trainer.job import PreferenceRow, Row
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
    rejected: Encoded | None = None  # of a preference row: the same prompt, the answer liked less

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of the row, or of each of its two answers with their prompt."""
        own = (len(self.row.tokens),)
        return own if self.rejected is None else own + self.rejected.lengths

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def learns(self) -> bool:
        """Whether any token counts, of both answers where there are two."""
        return any(self.row.weights) and (self.rejected is None or self.rejected.learns)

    def written(self) -> Row | PreferenceRow:
        return self.row if self.rejected is None else PreferenceRow(self.row, self.rejected.row)


def pieces_of_text(item: Encoded, longest: int) -> list[Encoded]:
    """A text that is too long, as consecutive sequences of at most `longest` tokens (at least 2).

    Each begins with the last token of the one before, which predicts the next and does not count again: every
    token is learnt once.
    """
    tokens, weights = item.row.tokens, item.row.weights
    made = [msgspec.structs.replace(item, row=Row(tokens[:longest], weights[:longest]))]
    for begin in range(longest - 1, len(tokens) - 1, longest - 1):
        row = Row(tokens[begin : begin + longest], [0.0, *weights[begin + 1 : begin + longest]])
        made.append(msgspec.structs.replace(item, row=row, prompt_tokens=1))
    return made


class Encoder:
    def __init__(self, engine: Engine, base: Base) -> None:
        self._engine = engine
        self._template = ChatTemplate(base.chat_template, base.bos_token, base.eos_token)
        self._bos_token = base.bos_token
        self._eos = engine.ready.eos_token_id

    async def encode(self, rows: Sequence[DataRow]) -> list[Encoded]:
        """In the order of `rows`.

        Raises:
            ValueError: the template cannot render a row (the message names the line), or renders the prompts
                of a preference row's two answers differently.
        """
        encoded: list[Encoded] = []
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            flat = [one for row in batch for one in (row, row.rejected) if one is not None]
            made = iter(await self._tokenise(flat, await asyncio.to_thread(self._render, flat)))
            for row in batch:
                one = next(made)
                encoded.append(one if row.rejected is None else _preferred(one, next(made)))
        return encoded

    async def encode_what_can_be(
        self, rows: Sequence[DataRow]
    ) -> tuple[list[tuple[DataRow, Encoded]], list[tuple[DataRow, str]]]:
        """(rows with their tokens, rows that the template refuses with why): to list all that is wrong."""
        made: list[tuple[DataRow, Encoded]] = []
        refused: list[tuple[DataRow, str]] = []
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            try:
                made += zip(batch, await self.encode(batch), strict=True)
            except ValueError:
                for row in batch:
                    try:
                        made += zip([row], await self.encode([row]), strict=True)
                    except ValueError as error:
                        refused.append((row, str(error).removeprefix(f"line {row.line}: ")))
        return made, refused

    def _render(self, rows: Sequence[DataRow]) -> list[list[Piece]]:
        return [self.pieces(row) for row in rows]

    def pieces(self, row: DataRow) -> list[Piece]:
        """The row's text in order, without the tokens that the vocabulary adds at both ends.

        Raises: ValueError, naming the line.
        """
        if row.messages is not None:
            try:
                guard = Guard(row.messages, row.tools)
                said, tools = guard.guarded(row.messages), guard.guarded(row.tools)
                segments = training_segments(self._template, said, tools=tools)
            except Exception as error:  # foreign code, or a row without a bottom: it is about this row
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


def _preferred(better: Encoded, worse: Encoded) -> Encoded:
    """Raises: ValueError unless both answer the same tokens."""
    begins = [
        item.row.tokens[: next((at for at, weight in enumerate(item.row.weights) if weight), None)]
        for item in (better, worse)
    ]
    if begins[0] != begins[1]:
        raise ValueError(
            f"line {better.line}: the chat template renders the prompt of the two answers differently"
        )
    return msgspec.structs.replace(better, rejected=worse)


def _piece(guard: Guard, segment: Segment) -> Piece:
    text, breaks = guard.cut(segment.text)
    return Piece(text, segment.weight, breaks)


def _reference(row: DataRow) -> str | None:
    if row.messages is None:
        return row.completion
    answers = [m for m in row.messages if m["role"] == "assistant" and m.get("weight", 1) != 0]
    last = answers[-1]
    return last["content"] if last is row.messages[-1] and last["content"] else None
