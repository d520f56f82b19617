"""What an engine must answer: stock llama.cpp, one request at a time, nothing kept between requests.

Nothing of the server is imported here but the shape of an answer. A request is evaluated in one pass over
an empty 32-bit cache, without flash attention, on one thread, with its adapters loaded by llama.cpp's own
loader and activated by its own call. The judge reads the answer off that pass: every token must be the most
likely one after the tokens before it, so that agreeing everywhere is the same as generating the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.engine_process import Answer, EngineProcess
from tests.tiny import reference as stock

from llamaleon_server.engine.protocol import AdapterUse, TokenLogprob

Uses = tuple[tuple[Path, float], ...]  # adapter files and their weights
Mix = tuple[tuple[str, float], ...]  # adapter keys and their weights
Array = npt.NDArray[np.float64]

# llama.cpp rounds differently in passes of different sizes: a log-probability then differs by some 1e-5, by
# 1e-3 and more under strong 16-bit adapters: what is multiplied with those is rounded to 16 bits. Below this
# nothing is asked; above it, a difference must be explained by that of the same request in small pieces.
MARGIN = 1e-3
PIECES = (1, 2, 5, 16)
OF_THE_SPREAD = 4.0
ROUGH_MARGIN = 0.1
RARE = 0.01  # of all tokens may be decided by rounding,
ROUGHLY_RARE = 0.05  # in a quantised model


@dataclass
class Ties:
    """How often rounding decided."""

    tokens: int = 0
    ties: int = 0
    worst_logprob: float = 0.0  # largest difference of a log-probability, in nats

    def assert_rare(self, share: float = RARE) -> None:
        assert self.ties <= max(1, share * self.tokens), f"{self.ties} of {self.tokens} tokens"


@dataclass
class Reference:
    """Judges answers of one model. `seen` counts over its whole life; `rough` is for a quantised one.

    A quantised matrix multiplies activations that are rounded to 8 bits: batches differ by some 0.05 nats.
    """

    model: stock.Model
    end_tokens: frozenset[int]
    rough: bool = False
    seen: Ties = field(default_factory=Ties)

    def logprobs(self, tokens: Sequence[int], uses: Uses, piece: int | None = None) -> Array:
        """Log-probabilities of what follows each token, (n_tokens, n_vocab)."""
        logits = self.model.logits(tokens, uses, piece=piece).astype(np.float64)
        peaks = logits.max(axis=1, keepdims=True)
        return np.asarray(logits - peaks - np.log(np.exp(logits - peaks).sum(axis=1, keepdims=True)))

    def spread(self, tokens: Sequence[int], uses: Uses) -> float:
        """llama.cpp's own batch-size effect: the largest difference of a log-probability, in nats."""
        whole = self.logprobs(tokens, uses)
        return max(float(np.abs(self.logprobs(tokens, uses, piece) - whole).max()) for piece in PIECES)

    def greedy(self, prompt: Sequence[int], uses: Uses, count: int) -> list[int]:
        """The plainest way: all tokens again for every new one. Stops before an end token."""
        tokens = list(prompt)
        while len(tokens) < len(prompt) + count:
            token = int(self.logprobs(tokens, uses)[-1].argmax())
            if token in self.end_tokens:
                break
            tokens.append(token)
        return tokens[len(prompt) :]

    def judge(
        self,
        prompt: Sequence[int],
        uses: Uses,
        answer: Answer,
        *,
        ignore_eos: bool = False,
        about: object = "",
    ) -> None:
        """Raises: AssertionError if an answer, finished or cancelled, is not the greedy one."""
        if not answer.tokens and answer.finish is None:
            return
        tokens = [*prompt, *answer.tokens]
        rows = self.logprobs(tokens, uses)
        after = rows[len(prompt) - 1 :].copy()
        if ignore_eos:
            after[:, list(self.end_tokens)] = -np.inf
        gaps = [float(row.max() - row[token]) for row, token in zip(after, answer.tokens, strict=False)]
        assert not self.end_tokens & set(answer.tokens), f"an end token is listed: {about}"
        if answer.finish is not None and answer.finish.reason == "stop":
            gaps.append(float(after[-1].max() - after[-1][list(self.end_tokens)].max()))
        self.seen.tokens += len(gaps)
        self.seen.ties += sum(gap > 0 for gap in gaps)
        off = self._off(rows, 0, answer.prompt or []) + self._off(rows, len(prompt), answer.logprobs)
        self.seen.worst_logprob = max([self.seen.worst_logprob, *off])
        if max([*gaps, *off], default=0.0) < (ROUGH_MARGIN if self.rough else MARGIN):
            return
        allowed = OF_THE_SPREAD * self.spread(tokens, uses)
        for place, gap in enumerate(gaps):
            assert gap < allowed, f"token {place}: another is likelier by {gap:.4f} nats: {about}"
        assert max(off, default=0.0) < allowed, f"log-probabilities are off by {max(off):.4f} nats: {about}"

    @staticmethod
    def _off(rows: Array, first: int, told: Sequence[TokenLogprob]) -> list[float]:
        """How far log-probabilities are from the reference's; `told[0]` is about token number `first`."""
        return [
            abs(float(rows[place - 1][token]) - logprob)
            for place, entry in enumerate(told, first)
            for token, logprob in [(entry.token_id, entry.logprob), *((t, p) for t, _, p in entry.top)]
            if logprob is not None
        ]


def ask_all(
    engine: EngineProcess,
    reference: Reference,
    files: Mapping[str, Path],
    asked: Sequence[tuple[Sequence[int], Mix]],
    **fields: Any,
) -> list[Answer]:
    """Send requests at once, each a prompt and its mix, and judge every answer. `files` are by adapter key.

    Raises: AssertionError if one failed or is wrong.
    """
    options: dict[str, Any] = {"max_tokens": 16, "logprobs": 3} | fields
    numbers = [
        engine.start(list(prompt), adapters=tuple(AdapterUse(*use) for use in mix), **options)
        for prompt, mix in asked
    ]
    answers = engine.wait(numbers)
    for (prompt, mix), answer in zip(asked, answers, strict=True):
        assert answer.failed is None, (answer.failed, mix)
        uses = tuple((files[key], weight) for key, weight in mix)
        reference.judge(prompt, uses, answer, ignore_eos=options.get("ignore_eos", False), about=mix)
    reference.seen.assert_rare(ROUGHLY_RARE if reference.rough else RARE)
    return answers


@contextmanager
def open_reference(model: Path, end_tokens: Sequence[int], context_tokens: int = 256) -> Iterator[Reference]:
    with stock.open_model(model, context_tokens) as opened:
        yield Reference(opened, frozenset(end_tokens))
