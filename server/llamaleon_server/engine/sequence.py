"""One running request: everything about it that changes."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from llamaleon_server.engine.cache.tokens import Tokens
from llamaleon_server.engine.images import Image
from llamaleon_server.engine.protocol import AdapterUse, Finish, Generate, Timings, TokenLogprob
from llamaleon_server.engine.sampling.grammar import Grammar
from llamaleon_server.engine.sampling.sampler import Sampler
from llamaleon_server.engine.sampling.text import TextCutter

AdapterSet = tuple[AdapterUse, ...]


class State(Enum):
    WAITING = auto()  # in the queue, no cells; also after having been put back
    RUNNING = auto()  # has a sequence number; takes part in steps
    FINISHED = auto()  # ended, failed or cancelled


def adapter_set(uses: tuple[AdapterUse, ...]) -> AdapterSet:
    """The canonical form of a request's adapters: by key, weights of one key added up, no zero weights."""
    weights: dict[str, float] = {}
    for use in uses:
        weights[use.key] = weights.get(use.key, 0.0) + use.weight
    return tuple(AdapterUse(key, weight) for key, weight in sorted(weights.items()) if weight != 0.0)


class Sequence:
    """`tokens` are the prompt and what was generated; the first `computed` of them are in the KV cache.

    Where `images` stand, `tokens` has placeholders below zero.
    """

    def __init__(
        self, request: Generate, prompt: list[int], context_tokens: int, images: tuple[Image, ...] = ()
    ) -> None:
        self.request = request
        self.images = images
        self.adapters = adapter_set(request.adapters)
        self.state = State.WAITING
        self.tokens = list(prompt)
        self.prompt_tokens = len(prompt)
        room = context_tokens - len(prompt)
        self.max_new = room if request.max_tokens is None else min(request.max_tokens, room)
        self.slot: int | None = None
        self.computed = 0
        self._array = np.array(prompt, np.int32)  # `tokens` again, with room for more...
        self._in_array = len(prompt)  # ...up to here
        # Another sequence that is computing what this one begins with, and how far it must get.
        self.awaits: tuple[Sequence, int] | None = None
        self.overtaken = 0  # by later requests of other adapters
        self.cached_tokens: int | None = None  # of the first admission; None before it
        self.grammar: Grammar | None = None  # the engine's to set, before the first step
        self.sampler: Sampler | None = None
        self.forced = 0  # the last so many tokens were drawn without their logits, which nobody needs
        self.output = Output(request.stop)
        self.end_token: TokenLogprob | None = None  # once drawn, where logprobs were asked for
        self.prompt_logprobs: list[TokenLogprob] = []
        self.prompt_logprobs_sent = request.prompt_logprobs is None
        self.arrived = time.monotonic()
        self.admitted: float | None = None
        self.first_token: float | None = None
        # Sums over the passes it took part in, and of the tokens guessed ahead for it.
        self.passes = self.batch_sequences = self.batch_adapters = 0
        self.drafted = self.accepted = 0

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """Tokens still to be computed before the next one can be drawn."""
        return len(self.tokens) - self.computed

    def array(self) -> Tokens:
        """`tokens` as a view, (n,), valid until the next call. Only what is new is converted."""
        count = len(self.tokens)
        if count > len(self._array):
            longer = np.empty(count + count // 2 + 64, np.int32)
            longer[: self._in_array] = self._array[: self._in_array]
            self._array = longer
        if count > self._in_array:
            self._array[self._in_array : count] = self.tokens[self._in_array :]
            self._in_array = count
        return self._array[:count]

    @property
    def awaited(self) -> bool:
        """Whether what it begins with is still being computed by another."""
        if self.awaits is None:
            return False
        other, length = self.awaits
        return other.state is State.RUNNING and other.computed < length

    @property
    def is_decoding(self) -> bool:
        return self.generated > 0 and self.remaining <= 1 + self.forced

    @property
    def reusable_tokens(self) -> int:
        """How much of a cached prefix may be used: the last token's logits are always needed."""
        if not self.request.cache_prompt or self.request.prompt_logprobs is not None:
            return 0
        return len(self.tokens) - 1

    def image_at(self, index: int) -> Image | None:
        """The image that token number `index` is a part of."""
        return next((image for image in self.images if image.start <= index < image.end), None)

    def stretch(self, index: int) -> int:
        """How many of the tokens from `index` on, all of one kind, one pass may take."""
        for image in self.images:
            if index < image.start:
                return image.start - index
            if index < image.end:
                return image.end - index
        return len(self.tokens) - index

    def position(self, index: int) -> int:
        """Where token number `index` stands for the model: vectors of an image may share positions."""
        if not self.images:
            return index
        before = [image.picture for image in self.images if image.end <= index]
        return index - sum(len(picture.vectors) - picture.positions for picture in before)

    def begin(self) -> None:
        """It has a number, and `computed` tokens in the cache."""
        self.state, self.awaits = State.RUNNING, None
        if self.cached_tokens is None:
            self.cached_tokens = self.computed
            self.admitted = time.monotonic()

    def finish(self, reason: str) -> Finish:
        now = time.monotonic()
        admitted = self.admitted or now
        first = self.first_token or now
        return Finish(
            reason=reason,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens or 0,
            completion_tokens=self.generated,
            timings=Timings(
                queue_s=admitted - self.arrived,
                prefill_s=first - admitted,
                decode_s=now - first,
                sequences_in_batch=self.batch_sequences / self.passes if self.passes else 1.0,
                adapters_in_batch=self.batch_adapters / self.passes if self.passes else 0.0,
                drafted_tokens=self.drafted,
                accepted_tokens=self.accepted,
            ),
            stop_string=self.output.stop_string,
            end=self.end_token,
        )

    def put_back(self) -> None:
        """Its cells are gone; what was generated stays."""
        self.slot, self.computed, self.state = None, 0, State.WAITING
        self.awaits, self.overtaken, self.forced = None, 0, 0
        if not self.prompt_logprobs_sent:
            self.prompt_logprobs.clear()

    def end(self) -> None:
        """Nothing more is drawn. The sequence number is the scheduler's to give back."""
        self.state, self.sampler, self.grammar = State.FINISHED, None, None


class Output:
    """Generated tokens on their way out: each leaves with the text that its bytes became."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._cutter = TextCutter(stop)
        self._held: deque[_Piece] = deque()
        self._bytes = 0

    @property
    def stop_string(self) -> str | None:
        return self._cutter.stop_string

    def push(self, token: int, piece: bytes, logprob: TokenLogprob | None) -> str:
        """Take a token; the text that became certain."""
        begin, self._bytes = self._bytes, self._bytes + len(piece)
        self._held.append(_Piece(token, logprob, begin, self._bytes))
        return self._cutter.push(piece)

    def finish(self) -> str:
        return self._cutter.finish()

    def release(self) -> tuple[list[int], list[TokenLogprob]]:
        """Tokens whose bytes are all certain, or at a stop string those that began before it."""
        certain, cut = self._cutter.certain_bytes, self.stop_string is not None
        tokens, logprobs = [], []
        while self._held and (self._held[0].end <= certain or (cut and self._held[0].begin < certain)):
            piece = self._held.popleft()
            tokens.append(piece.token)
            if piece.logprob is not None:
                logprobs.append(piece.logprob)
        return tokens, logprobs


@dataclass(frozen=True, slots=True)
class _Piece:
    """A token and where its bytes lie among all that was generated."""

    token: int
    logprob: TokenLogprob | None
    begin: int
    end: int
