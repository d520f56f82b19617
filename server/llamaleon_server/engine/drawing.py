"""Draws the next tokens of all sequences of a step, several at once where that pays.

Only numbers are made here: numpy lets go of the interpreter's lock in its loops, text would not. Each
sequence has its own sampler, so what is drawn depends on nothing but its logits and its seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as ListOf
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from llamaleon_server.binding.cores import roam
from llamaleon_server.binding.vocabulary import Vocabulary
from llamaleon_server.engine.runner import SpanResult
from llamaleon_server.engine.sampling.grammar import DeadEnd
from llamaleon_server.engine.sampling.logprobs import Score, score
from llamaleon_server.engine.sampling.rows import NotFinite
from llamaleon_server.engine.sampling.sampler import Sampler
from llamaleon_server.engine.sampling.settings import settings_of

MOST_FORCED = 32  # tokens of one sequence in one pass: others wait for it


@dataclass
class Drawn:
    """What a span's logits gave: scores of prompt tokens, then the tokens drawn, in order.

    Where the span had guesses, all tokens but the last are guesses that were drawn. The last `forced` tokens
    had no logits: a grammar left no choice. `finished`: nor may any token follow. `scores` are as many as
    `tokens`, or none if none were asked for. With `failed`, or a reason in `dead_end`, nothing else counts.
    """

    prompt: list[Score] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    forced: int = 0
    finished: bool = False
    failed: bool = False
    dead_end: str | None = None


class Drawing:
    """Owns a few threads for as long as the engine lives."""

    def __init__(self, vocabulary: Vocabulary, threads: int) -> None:
        self._vocabulary = vocabulary
        self._helpers = threads - 1
        self._pool = ThreadPoolExecutor(max(1, self._helpers), "draw", initializer=roam)

    def draw(self, results: ListOf[SpanResult]) -> list[Drawn]:
        """What each span gave, in the order given."""
        for result in results:
            self._prepare(result)
        drawn = [Drawn() for _ in results]
        work = deque(
            (result, into) for result, into in zip(results, drawn, strict=True) if _takes_time(result)
        )
        helpers = [self._pool.submit(_draw_all, work) for _ in range(min(self._helpers, len(work) - 1))]
        for result, into in zip(results, drawn, strict=True):
            if not _takes_time(result):
                _draw(result, into)
        _draw_all(work)
        for helper in helpers:
            helper.result()
        return drawn

    def _prepare(self, result: SpanResult) -> None:
        sequence = result.span.sequence
        if sequence.sampler is None:
            prompt = sequence.tokens[: sequence.prompt_tokens]
            if sequence.images:
                prompt = [token for token in prompt if token >= 0]
            settings = settings_of(sequence.request, self._vocabulary)
            sequence.sampler = Sampler(settings, prompt, sequence.grammar)


def _takes_time(result: SpanResult) -> bool:
    """Whether another thread's help is worth waking it: that takes longer than to find a largest logit."""
    sequence = result.span.sequence
    assert sequence.sampler is not None, "prepared before"
    if not sequence.prompt_logprobs_sent:
        return True
    return _draws(result) and not (sequence.sampler.is_cheap and sequence.request.logprobs is None)


def _draws(result: SpanResult) -> bool:
    return result.span.reaches_end and result.span.sequence.max_new > 0


def _draw_all(work: deque[tuple[SpanResult, Drawn]]) -> None:
    """Take one sequence after the other until none is left; several threads may."""
    while True:
        try:
            result, into = work.popleft()
        except IndexError:
            return
        _draw(result, into)


def _draw(result: SpanResult, into: Drawn) -> None:
    try:
        _score_prompt(result, into)
        if _draws(result):
            _draw_tokens(result, into)
        elif len(result.logits) and not np.isfinite(result.logits[-1].max()):
            raise NotFinite  # nothing is drawn of it, but its cells must not be kept either
    except NotFinite:
        into.failed = True
    except DeadEnd as end:
        into.dead_end = str(end)


def _score_prompt(result: SpanResult, into: Drawn) -> None:
    """Each position's logits are about the token after it."""
    span, sequence = result.span, result.span.sequence
    if sequence.prompt_logprobs_sent:
        return
    following = sequence.tokens[span.start + 1 : span.start + 1 + span.count]
    wanted = sequence.request.prompt_logprobs or 0
    into.prompt += [score(row, token, wanted) for row, token in zip(result.logits, following, strict=False)]


def _draw_tokens(result: SpanResult, into: Drawn) -> None:
    """One token from the last row; with guesses, from row after row for as long as they come true.

    Each is drawn as it would be without guesses, from the same logits and by the same random number: a guess
    decides only whether the next row is about the right text.
    """
    span, sequence = result.span, result.span.sequence
    sampler, wanted = sequence.sampler, sequence.request.logprobs
    assert sampler is not None, "prepared before"
    rows = result.logits[-1 - len(span.draft) :]
    if sequence.grammar is not None and not np.isfinite(rows.max(axis=1)).all():
        raise NotFinite  # before anything is drawn: a grammar sees a token once
    for row, guess in zip(rows, (*span.draft, None), strict=True):
        token = sampler.draw(row)
        into.tokens.append(token)
        if wanted is not None:
            into.scores.append(score(row, token, wanted))
        if token != guess or sampler.finished:
            break
    if wanted is None:
        forced = sampler.take_forced(MOST_FORCED)
        into.tokens += forced
        into.forced = len(forced)
    into.finished = sampler.finished
