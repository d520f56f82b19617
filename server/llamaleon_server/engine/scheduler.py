"""Who runs next: the queue, admission, the make-up of each step, and what gives way when cells run short.

Policy only: it never touches a tensor. A step's batch is a tuple of spans, decoding sequences first, then
prompts in chunks up to the token budget.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence as ListOf
from typing import Protocol

from llamaleon_server.engine.composition import Composer, Limits, Span, Speculator
from llamaleon_server.engine.cost import StepCost
from llamaleon_server.engine.kv import KvCache
from llamaleon_server.engine.prefix import PrefixCache
from llamaleon_server.engine.protocol import FailedCode, Generate
from llamaleon_server.engine.sequence import Sequence, State

__all__ = ["Limits", "Policy", "Rejected", "Scheduler", "Span", "Speculator"]

# Cells set aside for a request that names no `max_tokens`; more are found, by eviction, as it grows.
OPEN_ENDED_TOKENS = 512


class Rejected(Exception):
    """A request that cannot be queued; `code` and `param` as in `protocol.Failed`."""

    def __init__(self, code: FailedCode, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class Policy(Protocol):
    """Which of the running sequences may share the next pass."""

    def choose(self, running: ListOf[Sequence]) -> list[Sequence]: ...


class Scheduler:
    """Owns the sequences. The engine alone calls it."""

    def __init__(
        self,
        kv: KvCache,
        prefixes: PrefixCache,
        limits: Limits,
        policy: Policy,
        *,
        cost: StepCost | None = None,
        speculator: Speculator | None = None,
    ) -> None:
        self._kv = kv
        self._prefixes = prefixes
        self._limits = limits
        self._policy = policy
        self._composer = Composer(limits, cost or StepCost(), speculator)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def sequences(self) -> list[Sequence]:
        return [*self._running, *self._waiting]

    def find(self, request: int) -> Sequence | None:
        return next((sequence for sequence in self.sequences() if sequence.id == request), None)

    # ------------------------------------------------------------ in

    def add(self, request: Generate, prompt: list[int]) -> Sequence:
        """Queue a request. Raises: Rejected if it is too long or the queue is full."""
        longest, asked = self._limits.context_tokens, request.max_tokens
        if not prompt:
            raise Rejected("bad_request", "The prompt is empty: there is no token to continue.", "prompt")
        generates = asked is None or asked > 0
        if len(prompt) + generates > longest:
            room = " and one more for the answer" if generates else ""
            raise Rejected(
                "context_length_exceeded",
                f"This model's context holds {longest} tokens; the prompt has {len(prompt)}{room}. "
                "Shorten the prompt.",
                "prompt",
            )
        if len(self._waiting) >= self._limits.waiting:
            raise Rejected(
                "queue_full", f"{len(self._waiting)} requests are waiting already. Try again later."
            )
        sequence = Sequence(request, prompt, longest)
        self._waiting.append(sequence)
        return sequence

    # ------------------------------------------------------------ step

    def schedule(self) -> tuple[Span, ...]:
        """Admit what fits and choose the next step's spans; empty if nothing can run."""
        self._admit()
        spans = self._compose()
        while sum(span.count for span in spans) > self._kv.free:
            if self._prefixes.evict():
                continue
            if not self._put_back_youngest():
                break
            spans = self._compose()
        return spans

    def _compose(self) -> tuple[Span, ...]:
        decoding: list[Sequence] = []
        prompts: list[Sequence] = []
        for sequence in self._policy.choose(self._running):
            (decoding if sequence.is_decoding else prompts).append(sequence)
        return self._composer.compose(decoding, prompts, self._kv.free)

    def _admit(self) -> None:
        """Move requests from the queue into the running set, first come first served."""
        while self._waiting and len(self._running) < self._limits.running:
            sequence = self._waiting[0]
            match = self._prefixes.best(sequence, self._running)
            donor, shared = match or (None, 0)
            if not self._fits(sequence, shared, donor):
                return
            self._waiting.popleft()
            self._start(sequence, donor, shared)

    def _fits(self, sequence: Sequence, shared: int, donor: int | None) -> bool:
        """Whether all running sequences and this one can end; cached prefixes give way first."""
        promised = sum(self._growth(other) - other.computed for other in self._running)
        while self._kv.free < promised + self._growth(sequence) - shared:
            if not self._prefixes.evict(sparing=donor):
                # Where nothing runs, waiting would not help: the donor gives way too, once shared.
                return not self._running
        return True

    def _growth(self, sequence: Sequence) -> int:
        """Cells that a sequence will hold, as far as it can be foreseen."""
        if sequence.request.max_tokens is None:
            most = min(sequence.prompt_tokens + sequence.max_new, len(sequence.tokens) + OPEN_ENDED_TOKENS)
        else:
            most = sequence.prompt_tokens + sequence.max_new
        return max(most, len(sequence.tokens))

    def _start(self, sequence: Sequence, donor: int | None, shared: int) -> None:
        sequence.slot = self._kv.open()
        if donor is not None and self._kv.share(donor, sequence.slot, shared):
            sequence.computed = shared
        while self._kv.free < self._growth(sequence) - sequence.computed and self._prefixes.evict():
            pass
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
            sequence.admitted = time.monotonic()
        sequence.state = State.RUNNING
        self._running.append(sequence)

    # ------------------------------------------------------------ out

    def make_room(self) -> bool:
        """Free cells after all: the oldest cached prefix, else the youngest running sequence.

        False if one sequence runs alone and nothing else can give way.
        """
        return self._prefixes.evict() or self._put_back_youngest()

    def _put_back_youngest(self) -> bool:
        """Return a running sequence to the queue's head: it keeps its tokens, not its cells."""
        if len(self._running) < 2:
            return False
        youngest = self._running.pop()
        assert youngest.slot is not None, "a running sequence has a number"
        self._kv.close(youngest.slot)
        youngest.put_back()
        self._waiting.appendleft(youngest)
        return True

    def remove(self, sequence: Sequence, *, keep_cells: bool = True) -> None:
        """Take a sequence out, whatever its state; its cells become a cached prefix or are freed."""
        if sequence.state is State.RUNNING:
            self._running.remove(sequence)
            if not keep_cells:
                sequence.computed = 0
            self._prefixes.keep(sequence)
        elif sequence.state is State.WAITING:
            self._waiting.remove(sequence)
        sequence.end()
