"""Embeddings and relevance scores, piece by piece between the steps of running requests.

A piece is one pass over inputs under the same adapters, of one request or several: as many as a budget of
tokens takes. Requests take turns, so that a long one does not hold up the others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil

from llamaleon_server.binding.embedding import Pooling
from llamaleon_server.binding.errors import BindingError, NoRoomError
from llamaleon_server.binding.loading import Loaded
from llamaleon_server.engine.adapters.bank import AdapterBank
from llamaleon_server.engine.embedding_pass import PIECE_TOKENS, EmbeddingPass, Input
from llamaleon_server.engine.protocol import Embed, Failed, FailedCode, Rank, Reply
from llamaleon_server.engine.sequence import AdapterSet, adapter_set

FIRST_SHARED, LEAST_SHARED = 64, 16  # tokens of a piece while others run: before its time is known, at least
ADAPTS = 0.3  # of what a token takes, with every piece
IDLE_S = 60.0  # the context's memory is given back once nothing was asked for so long

NOT_FINITE = "The model computed numbers that are not finite: its adapter, its weight or the file is bad."


@dataclass
class _Job:
    request: Embed | Rank
    adapters: AdapterSet
    inputs: list[Input]
    waiting: deque[Input]  # those of them that are not done


class Embeddings:
    """`post` hands work to the engine's thread, the only one that may call anything here.

    While others run, a piece takes about `target_s` seconds, as far as inputs can be cut.
    """

    def __init__(
        self,
        loaded: Loaded,
        bank: AdapterBank,
        post: Callable[[Callable[[], None]], None],
        target_s: float,
    ) -> None:
        self._loaded = loaded
        self._post = post
        self._target_s = target_s
        self._token_s: float | None = None
        self._jobs: deque[_Job] = deque()  # the next piece begins with the first
        self._pass = EmbeddingPass(loaded, bank)
        self._longest = loaded.context_tokens
        if not loaded.context.generates:  # encoders may know positions by heart: there are no others
            self._longest = min(self._longest, loaded.model.train_context_tokens)
        self._last_used = 0.0
        self._timer: threading.Timer | None = None

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    @property
    def adapter_keys(self) -> set[str]:
        return {use.key for job in self._jobs for use in job.adapters}

    # ------------------------------------------------------------ requests

    def add(self, request: Embed | Rank, inputs: list[list[int]]) -> Failed | None:
        """Queue a request whose inputs are tokenised. Returns: why it is refused, if it is."""
        ranks = isinstance(request, Rank)
        if ranks != (self._pass.pooling is Pooling.RANK):
            what = "is no reranking model" if ranks else "is a reranking model: it has no embeddings"
            return _failed(request, "bad_request", f"The model {what}.", "model")
        name = "documents" if ranks else "input"
        if isinstance(request, Embed) and request.truncate:
            inputs = [self._cut(tokens) for tokens in inputs]
        for at, tokens in enumerate(inputs):
            place = f"{name}[{at}]" if ranks or len(inputs) > 1 else name
            if problem := self._problem(tokens):
                code, message = problem
                return _failed(request, code, f"`{place}` {message}.", place)
        adapters = () if isinstance(request, Rank) else adapter_set(request.adapters)
        texts = [Input(tokens) for tokens in inputs]
        self._jobs.append(_Job(request, adapters, texts, deque(texts)))
        return None

    def _cut(self, tokens: list[int]) -> list[int]:
        """To what the model takes; the end that the vocabulary puts behind every text stays."""
        vocabulary = self._loaded.model.vocabulary
        if len(tokens) <= self._longest:
            return tokens
        ends = vocabulary.adds_eos or vocabulary.adds_separator
        return [*tokens[: self._longest - 1], tokens[-1]] if ends else tokens[: self._longest]

    def _problem(self, tokens: list[int]) -> tuple[FailedCode, str] | None:
        count, size = len(tokens), self._loaded.model.vocabulary.size
        if not count:
            return "bad_request", "has no tokens"
        if any(not 0 <= token < size for token in tokens):
            return "bad_request", f"has a token id that is not in the vocabulary (0 to {size - 1})"
        if count > self._longest:
            return "context_length_exceeded", f"has {count} tokens, and the model takes {self._longest}"
        # llama.cpp reserves a row of logits for each token of a pass, also where it computes none.
        needed = 4 * size * count
        too_large = not self._pass.cuts and needed > psutil.virtual_memory().available // 2
        if count > PIECE_TOKENS and too_large:
            return "context_length_exceeded", f"has {count} tokens, for which there is no memory here"
        return None

    def cancel(self, request: int) -> None:
        for job in [job for job in self._jobs if job.request.id == request]:
            self._drop(job)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._pass.close()

    # ------------------------------------------------------------ work

    def advance(self, *, shared: bool) -> list[Reply | Failed]:
        """Evaluate one piece; the answers that it completes. `shared`: others wait meanwhile."""
        job = self._jobs[0]
        chosen = self._choose(self._shared_tokens if shared else self._pass.tokens)
        began = time.perf_counter()
        try:
            self._pass.run(job.adapters, chosen)
        except NoRoomError as error:  # it comes when those that run now leave
            return [] if shared else [self._fail(job, error)]
        except BindingError as error:
            return [self._fail(job, error)]
        self._learn(sum(count for _, count in chosen), time.perf_counter() - began)
        answers: list[Reply | Failed] = []
        for one in list(self._jobs):
            while one.waiting and not one.waiting[0].remaining:
                one.waiting.popleft()
            if not one.waiting:
                self._jobs.remove(one)
                answers.append(self._answer(one))
        if job.waiting and not job.waiting[0].done:
            self._jobs.rotate(-1)
        if not self._jobs:
            self._last_used = time.monotonic()
            if self._timer is None:
                self._free_in(IDLE_S)
        return answers

    @property
    def _shared_tokens(self) -> int:
        if self._token_s is None:
            return FIRST_SHARED
        return max(LEAST_SHARED, min(self._pass.tokens, int(self._target_s / self._token_s)))

    def _learn(self, tokens: int, seconds: float) -> None:
        token_s = seconds / tokens
        self._token_s = (
            token_s if self._token_s is None else self._token_s + ADAPTS * (token_s - self._token_s)
        )

    def _choose(self, room: int) -> list[tuple[Input, int]]:
        """Inputs and how many of their tokens: the first may be cut, the others come whole."""
        first, chosen = self._jobs[0], list[tuple[Input, int]]()
        for job in self._jobs:
            if job.adapters != first.adapters:
                continue
            for one in job.waiting:
                count = one.remaining
                if not chosen and self._pass.cuts:
                    count = min(count, room)
                if (chosen and count > room) or len(chosen) == self._pass.sequences:
                    break
                chosen.append((one, count))
                room -= count
        return chosen

    def _answer(self, job: _Job) -> Reply | Failed:
        results = [self._pass.result(one) for one in job.inputs]
        if not all(np.isfinite(result).all() for result in results):
            return _failed(job.request, "engine_error", NOT_FINITE)
        counts = [len(one.tokens) for one in job.inputs]
        if isinstance(job.request, Rank):
            return Reply(
                id=job.request.id, scores=[float(result[0]) for result in results], input_tokens=counts
            )
        vectors = [result.astype("<f4", copy=False).tobytes() for result in results]
        return Reply(id=job.request.id, vectors=vectors, input_tokens=counts)

    def _fail(self, job: _Job, error: BindingError) -> Failed:
        """The pass has failed, and with it what was begun: others begin again in a fresh context."""
        self._jobs.remove(job)
        self._pass.close()
        return _failed(job.request, "engine_error", f"The model failed: {error}.")

    def _drop(self, job: _Job) -> None:
        if any(one.done and one.remaining for one in job.inputs):
            self._pass.forget_begun()
        self._jobs.remove(job)

    def _free_in(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._post, (self._free_if_idle,))
        self._timer.daemon = True
        self._timer.start()

    def _free_if_idle(self) -> None:
        self._timer = None
        left = IDLE_S - (time.monotonic() - self._last_used)
        if self._jobs or left > 0:
            self._free_in(max(left, IDLE_S / 2))
        else:
            self._pass.close()


def _failed(request: Embed | Rank, code: FailedCode, message: str, param: str | None = None) -> Failed:
    return Failed(id=request.id, code=code, message=message, param=param)
