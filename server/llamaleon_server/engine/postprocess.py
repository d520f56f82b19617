"""From the logits of a step to what each request is told about it."""

from __future__ import annotations

import math
import time

import numpy as np

from llamaleon_server.binding.context import Context
from llamaleon_server.binding.vocabulary import Vocabulary
from llamaleon_server.engine.logprobs import token_logprobs
from llamaleon_server.engine.protocol import Delta, TokenLogprob
from llamaleon_server.engine.runner import SpanResult
from llamaleon_server.engine.sampling import sampler_of, settings_of
from llamaleon_server.engine.sequence import Sequence


class NotFinite(Exception):
    """The model computed NaN or infinity: nothing can be drawn from that."""


class Postprocessor:
    """Draws tokens, cuts text, decides when a request has ended."""

    def __init__(self, vocabulary: Vocabulary, context: Context, context_tokens: int) -> None:
        self._vocabulary = vocabulary
        self._context = context
        self._context_tokens = context_tokens

    def advance(self, result: SpanResult) -> Delta | None:
        """Take one sequence's logits; None if there is nothing to tell yet. Raises: NotFinite."""
        sequence = result.span.sequence
        self._read_prompt_logits(sequence, result)
        if not result.span.reaches_end:
            return None
        prompt = self._take_prompt_logprobs(sequence)
        if sequence.max_new == 0:
            return Delta(id=sequence.id, prompt=prompt, finish=sequence.finish("length"))
        token = self._draw(sequence, result)
        logprob = self._logprob(sequence, result, token)
        sequence.first_token = sequence.first_token or time.monotonic()
        sequence.tokens.append(token)
        return self._delta(sequence, token, logprob, prompt)

    def _draw(self, sequence: Sequence, result: SpanResult) -> int:
        row = result.logits[-1]
        if sequence.generated == 0 and sequence.sampler is None:
            settings = settings_of(sequence.request, self._vocabulary, self._context_tokens)
            prompt = sequence.tokens[: sequence.prompt_tokens]
            sequence.sampler = sampler_of(settings, prompt, self._vocabulary)
        if sequence.sampler is None:
            token = int(row.argmax())
        else:
            if not np.isfinite(row.max()):  # a chain would draw something all the same
                raise NotFinite
            token = sequence.sampler.sample(self._context, result.index)
        if not math.isfinite(row[token]):
            raise NotFinite
        return token

    def _logprob(self, sequence: Sequence, result: SpanResult, token: int) -> TokenLogprob | None:
        wanted = sequence.request.logprobs
        if wanted is None:
            return None
        return token_logprobs(result.logits[-1:], [token], wanted, self._vocabulary)[0]

    def _delta(
        self, sequence: Sequence, token: int, logprob: TokenLogprob | None, prompt: list[TokenLogprob] | None
    ) -> Delta:
        """What the new token adds; an end token is counted but neither shown nor listed."""
        request, output = sequence.request, sequence.output
        reason, text = None, ""
        if token in self._vocabulary.end_tokens:
            reason = "stop"
        else:
            render = self._vocabulary.rendered if request.parse_special_output else self._vocabulary.piece
            text = output.push(token, render(token), logprob)
            if output.stop_string is not None:
                reason = "stop"
            elif sequence.generated >= sequence.max_new:
                reason = "length"
        if reason is not None and output.stop_string is None:
            text += output.finish()
        tokens, logprobs = output.release()
        return Delta(
            id=sequence.id,
            text=text,
            tokens=tokens,
            logprobs=logprobs if request.logprobs is not None else None,
            prompt=prompt,
            finish=sequence.finish(reason) if reason else None,
        )

    def _read_prompt_logits(self, sequence: Sequence, result: SpanResult) -> None:
        """Each position's logits are about the token after it; the first token has none before it."""
        if sequence.prompt_logprobs_sent:
            return
        wanted = sequence.request.prompt_logprobs or 0
        known = sequence.prompt_logprobs
        if not known:
            first = sequence.tokens[0]
            known.append(TokenLogprob(first, self._vocabulary.rendered(first), None))
        following = sequence.tokens[result.span.start + 1 : result.span.start + 1 + result.span.count]
        rows = result.logits[: len(following)]
        if following:
            known += token_logprobs(rows, following, wanted, self._vocabulary)

    @staticmethod
    def _take_prompt_logprobs(sequence: Sequence) -> list[TokenLogprob] | None:
        if sequence.prompt_logprobs_sent:
            return None
        sequence.prompt_logprobs_sent = True
        return sequence.prompt_logprobs
