"""From the tokens drawn in a step to what each request is told about it."""

from __future__ import annotations

import time
from itertools import zip_longest

from llamaleon_server.binding.vocabulary import Vocabulary
from llamaleon_server.engine.drawing import Drawn
from llamaleon_server.engine.protocol import Delta, TokenLogprob
from llamaleon_server.engine.runner import SpanResult
from llamaleon_server.engine.sampling.logprobs import Score
from llamaleon_server.engine.sequence import Sequence


class Postprocessor:
    """Takes tokens, cuts text, decides when a request has ended."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def advance(self, result: SpanResult, drawn: Drawn) -> Delta | None:
        """Take what one span gave; None if there is nothing to tell yet.

        All tokens up to the end of the generation are then in `sequence.tokens`, and no others.
        """
        sequence = result.span.sequence
        self._take_prompt_scores(sequence, drawn)
        if not result.span.reaches_end:
            return None
        prompt = self._take_prompt_logprobs(sequence)
        if sequence.max_new == 0:
            return Delta(id=sequence.id, prompt=prompt, finish=sequence.finish("length"))
        sequence.first_token = sequence.first_token or time.monotonic()
        generated, draft = sequence.generated, result.span.draft
        text, reason = self._take_tokens(sequence, drawn)
        taken = drawn.tokens[: min(sequence.generated - generated, len(drawn.tokens) - drawn.forced)]
        sequence.forced = sequence.generated - generated - len(taken)
        if draft:
            sequence.drafted += len(draft)
            sequence.accepted += sum(token == guess for token, guess in zip(taken, draft, strict=False))
        tokens, logprobs = sequence.output.release()
        return Delta(
            id=sequence.id,
            text=text,
            tokens=tokens,
            logprobs=logprobs if sequence.request.logprobs is not None else None,
            prompt=prompt,
            finish=sequence.finish(reason) if reason else None,
        )

    def _take_tokens(self, sequence: Sequence, drawn: Drawn) -> tuple[str, str | None]:
        """Text that became certain, and why the generation has ended if it has."""
        text, reason = "", None
        for number, (token, score) in enumerate(zip_longest(drawn.tokens, drawn.scores), 1):
            sequence.tokens.append(token)
            text += self._push(sequence, token, score)
            whole = drawn.finished and number == len(drawn.tokens)
            reason = "stop" if whole else self._end(sequence, token)
            if reason is not None:
                break
        if reason is not None and sequence.output.stop_string is None:
            text += sequence.output.finish()
        return text, reason

    def _push(self, sequence: Sequence, token: int, score: Score | None) -> str:
        """The text that a token makes certain; an end token is counted, but not shown."""
        logprob = score.rendered(self._vocabulary) if score else None
        if token in self._vocabulary.end_tokens:
            sequence.end_token = logprob
            return ""
        render = self._vocabulary.piece
        if sequence.request.parse_special_output:
            render = self._vocabulary.rendered
        return sequence.output.push(token, render(token), logprob)

    def _end(self, sequence: Sequence, token: int) -> str | None:
        if token in self._vocabulary.end_tokens or sequence.output.stop_string is not None:
            return "stop"
        return "length" if sequence.generated >= sequence.max_new else None

    def _take_prompt_scores(self, sequence: Sequence, drawn: Drawn) -> None:
        """The prompt's first token has no logits before it."""
        if sequence.prompt_logprobs_sent:
            return
        if not sequence.prompt_logprobs:
            first = sequence.tokens[0]
            sequence.prompt_logprobs.append(TokenLogprob(first, self._vocabulary.rendered(first), None))
        sequence.prompt_logprobs += [score.rendered(self._vocabulary) for score in drawn.prompt]

    @staticmethod
    def _take_prompt_logprobs(sequence: Sequence) -> list[TokenLogprob] | None:
        if sequence.prompt_logprobs_sent:
            return None
        sequence.prompt_logprobs_sent = True
        return sequence.prompt_logprobs
