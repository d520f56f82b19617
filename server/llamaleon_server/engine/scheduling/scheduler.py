"""Who runs next: the life of a sequence from the queue to its end, and what gives way when cells run short.

Policy only: it never touches a tensor. `admission` says who starts, `composition` what a pass computes,
`fairness` whose turn it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as ListOf
from typing import Protocol

from llamaleon_server.engine.cache.kv import KvCache
from llamaleon_server.engine.cache.prefix import PrefixCache
from llamaleon_server.engine.images import Image
from llamaleon_server.engine.protocol import FailedCode, Generate
from llamaleon_server.engine.scheduling.admission import Admission, Queue
from llamaleon_server.engine.scheduling.composition import Composer, Limits, Span, Speculator
from llamaleon_server.engine.scheduling.cost import StepCost
from llamaleon_server.engine.scheduling.fairness import FairShare
from llamaleon_server.engine.sequence import Sequence, State

__all__ = ["Limits", "Policy", "Rejected", "Scheduler", "Span", "Speculator"]


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
        self.fair = FairShare()
        self._admission = Admission(kv, prefixes, self.fair, limits.running)
        self._waiting = Queue()
        self._running: list[Sequence] = []
        self._by_id: dict[int, Sequence] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def started(self) -> list[Sequence]:
        """Those that run: the others have no cells."""
        return list(self._running)

    def sequences(self) -> list[Sequence]:
        return [*self._running, *self._waiting]

    def adapter_users(self) -> Counter[str]:
        """Running sequences of each adapter. May be called from another thread."""
        return Counter(use.key for sequence in list(self._running) for use in sequence.adapters)

    def find(self, request: int) -> Sequence | None:
        return self._by_id.get(request)

    # ------------------------------------------------------------ in

    def add(self, request: Generate, prompt: list[int], images: tuple[Image, ...] = ()) -> Sequence:
        """Queue a request. Raises: Rejected if it is too long or the queue is full."""
        longest, asked = self._limits.context_tokens, request.max_tokens
        longest = min(longest, request.context_tokens or longest)
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
        sequence = Sequence(request, prompt, longest, images)
        self._by_id[sequence.id] = sequence
        self.fair.enter(sequence)
        self._waiting.add(sequence)
        return sequence

    # ------------------------------------------------------------ step

    def schedule(self) -> tuple[Span, ...]:
        """Admit what fits and choose the next step's spans; empty if nothing can run."""
        streams_wait = any(sequence.is_decoding for sequence in self._running)
        self._prefixes.store.begin_step(streams_wait=streams_wait)
        self._admission.admit(self._waiting, self._running)
        spans = self._compose()
        while sum(span.count for span in spans) > self._kv.free:
            if self._prefixes.evict():
                continue
            if not self._put_back_youngest():
                break
            spans = self._compose()
        for span in spans:
            self.fair.charge(span)
        return spans

    def _compose(self) -> tuple[Span, ...]:
        decoding: list[Sequence] = []
        prompts: list[Sequence] = []
        for sequence in self._policy.choose(self._running):
            (decoding if sequence.is_decoding else prompts).append(sequence)
        return self._composer.compose(decoding, self.fair.in_turn(prompts), self._kv.free)

    # ------------------------------------------------------------ out

    def make_room(self) -> bool:
        """Free cells after all: the oldest cached prefix, else the youngest running sequence.

        False if one sequence runs alone and nothing else can give way.
        """
        return self._prefixes.evict() or self._put_back_youngest()

    def _put_back_youngest(self) -> bool:
        """Return a running sequence to the queue, by its arrival: it keeps its tokens, not its cells.

        What it had computed goes to RAM, as an evicted prefix does. The youngest is the one that started
        last; the one that started first is never put back, and ends.
        """
        if len(self._running) < 2:
            return False
        youngest = self._running.pop()
        assert youngest.slot is not None, "a running sequence has a number"
        if youngest.reusable_tokens:
            self._prefixes.store.put(youngest.adapters, youngest.array()[: youngest.computed], youngest.slot)
        self._kv.close(youngest.slot)
        youngest.put_back()
        self._waiting.add(youngest)
        return True

    def start_over(self) -> None:
        """Wipe the cache: everybody computes again what had been computed, and no prefix is left."""
        for sequence in self._running:
            assert sequence.slot is not None, "a running sequence has a number"
            self._kv.close(sequence.slot)
            sequence.put_back()
            self._waiting.add(sequence)
        self._running.clear()
        self._prefixes.clear()
        self._kv.wipe()

    def remove(self, sequence: Sequence, *, keep_cells: bool = True) -> None:
        """Take a sequence out, whatever its state; its cells become a cached prefix or are freed."""
        if sequence.state is State.RUNNING:
            self._running.remove(sequence)
            if not keep_cells:
                sequence.computed = 0
            self._prefixes.keep(sequence)
        elif sequence.state is State.WAITING:
            self._waiting.remove(sequence)
        if sequence.state is not State.FINISHED:
            del self._by_id[sequence.id]
            self.fair.leave(sequence)
        sequence.end()
