"""The scheduler and a KV cache without llama.cpp: cells that remember what was computed for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as ListOf
from typing import Any

import numpy as np

from llamaleon_server.engine.adapters.grouping import TakeTurns
from llamaleon_server.engine.cache.kv import KvCache, State
from llamaleon_server.engine.cache.prefix import PrefixCache
from llamaleon_server.engine.protocol import AdapterUse, Generate
from llamaleon_server.engine.scheduling.cost import StepCost
from llamaleon_server.engine.scheduling.scheduler import Limits, Policy, Scheduler, Span, Speculator
from llamaleon_server.engine.sequence import AdapterSet, Sequence, adapter_set
from llamaleon_server.engine.sequence import State as Life

Cell = tuple[AdapterSet, int]


class Memory:
    """What lies in the cells of each sequence: the adapters that computed it, and the token."""

    def __init__(self) -> None:
        self.cells: dict[int, list[Cell]] = {}
        self.saved: list[tuple[list[Cell], int]] = []
        self.window = 0  # positions kept before the last; 0: all
        self._begin: dict[int, int] = {}  # of what is kept
        self.cuts = True  # False: forgets a sequence as a whole or not at all, as recurrent layers do

    def remove(self, sequence: int, start: int = 0) -> bool:
        cells = self.cells.get(sequence, [])
        if not self.cuts and 0 < start < len(cells):
            return False
        self.cells[sequence] = cells[:start]
        if start == 0:
            self._begin[sequence] = 0
        return True

    def append(self, sequence: int, cells: list[Cell]) -> None:
        """What a pass computes."""
        kept = self.cells.setdefault(sequence, [])
        kept += cells
        if self.window:
            self._begin[sequence] = max(self._begin.get(sequence, 0), len(kept) - self.window)

    def copy(self, source: int, target: int, end: int) -> None:
        assert not self.cells.get(target), "only an empty sequence may take a copy"
        self.cells[target] = self.cells[source][:end]
        self._begin[target] = self._begin.get(source, 0)

    def positions(self, sequence: int) -> tuple[int, int]:
        length = len(self.cells.get(sequence, []))
        return (self._begin.get(sequence, 0), length - 1) if length else (-1, -1)

    def wipe(self) -> None:
        self.cells.clear()
        self._begin.clear()

    def state_bytes(self, sequence: int) -> int:
        return 8 + 4 * len(self.cells[sequence])

    def save(self, sequence: int) -> State:
        """The first eight bytes say which copy it is; the rest is there to have the size."""
        self.saved.append((list(self.cells[sequence]), self._begin.get(sequence, 0)))
        state = np.zeros(self.state_bytes(sequence), np.uint8)
        state[:8].view(np.int64)[0] = len(self.saved) - 1
        return state

    def restore(self, sequence: int, state: State) -> bool:
        assert not self.cells.get(sequence), "only an empty sequence may be restored"
        cells, self._begin[sequence] = self.saved[int(state[:8].view(np.int64)[0])]
        self.cells[sequence] = list(cells)
        return True


class Everybody:
    """All share every pass."""

    def choose(self, running: ListOf[Sequence]) -> list[Sequence]:
        return list(running)


class FixedCost(StepCost):
    """A machine whose passes are known: seconds per pass, token and row."""

    def __init__(self, fixed: float, token: float, row: float = 0.0) -> None:
        super().__init__()
        self._prices = fixed, token, row
        self.largest_tokens = 1 << 20

    def predict(self, tokens: int, outputs: int) -> float | None:
        fixed, token, row = self._prices
        return fixed + token * tokens + row * outputs


class Bench:
    """A scheduler and the part of the engine that follows a step."""

    def __init__(
        self,
        *,
        cells: int = 64,
        context: int = 40,
        parallel: int = 3,
        spare: int = 4,
        batch: int = 8,
        waiting: int = 199,
        target_s: float = 0.25,
        whole_only: bool = False,
        window: int = 0,
        ram_bytes: int = 0,
        policy: Policy | None = None,
        cost: StepCost | None = None,
        speculator: Speculator | None = None,
        forced: Callable[[], int] | None = None,
    ) -> None:
        """`forced` says how many tokens a grammar leaves no choice about after a draw."""
        self.forced = forced or (lambda: 0)
        self.memory = Memory()
        self.memory.cuts = not whole_only
        self.memory.window = window
        self.kv = KvCache(self.memory, cells, parallel + spare, window)
        self.prefixes = PrefixCache(
            self.kv, limit=spare, max_tokens=context, whole_only=whole_only, ram_bytes=ram_bytes, cost=cost
        )
        self.batch = batch
        limits = Limits(
            context_tokens=context,
            running=parallel,
            waiting=waiting,
            batch_tokens=batch,
            output_rows=batch,
            step_target_s=target_s,
        )
        self.one_set = policy is None
        self.scheduler = Scheduler(
            self.kv, self.prefixes, limits, policy or TakeTurns(), cost=cost, speculator=speculator
        )
        self.tokens_computed = 0

    def add(self, number: int, prompt: list[int], *, adapter: str = "", **fields: Any) -> Sequence:
        uses = (AdapterUse(adapter),) if adapter else ()
        return self.scheduler.add(Generate(id=number, prompt=prompt, adapters=uses, **fields), prompt)

    def step(self) -> tuple[Span, ...]:
        """Run one step as the engine does; every drawn token is the sequence's length."""
        spans = self.scheduler.schedule()
        assert sum(span.count for span in spans) <= min(self.batch, self.kv.free)
        assert sum(span.outputs for span in spans) <= self.batch
        assert not self.one_set or len({span.adapters for span in spans}) <= 1
        for span in spans:
            self._run(span)
        for span in spans:
            if span.outputs and span.reaches_end:
                self._draw(span)
        for sequence in self.scheduler.sequences():
            self.check(sequence)
        return spans

    def _run(self, span: Span) -> None:
        sequence = span.sequence
        assert sequence.state is Life.RUNNING
        assert sequence.slot is not None
        assert span.start == sequence.computed
        known = sequence.tokens[span.start : span.start + span.count - len(span.draft)]
        cells = [(sequence.adapters, token) for token in [*known, *span.draft]]
        self.memory.append(sequence.slot, cells)
        self.kv.extend(sequence.slot, span.count)
        sequence.computed += span.count
        self.tokens_computed += span.count

    def _draw(self, span: Span) -> None:
        sequence = span.sequence
        for guess in (*span.draft, None):
            token = len(sequence.tokens)
            sequence.tokens.append(token)
            sequence.prompt_logprobs_sent = True
            if guess != token:
                break
        assert sequence.generated <= max(1, sequence.max_new)
        sequence.forced = max(0, min(self.forced(), sequence.max_new - sequence.generated))
        sequence.tokens += range(len(sequence.tokens), len(sequence.tokens) + sequence.forced)
        if span.draft and sequence.slot is not None:
            sequence.computed = len(sequence.tokens) - 1 - sequence.forced
            assert self.kv.cut(sequence.slot, sequence.computed)
        if sequence.generated >= sequence.max_new:
            self.scheduler.remove(sequence)

    def check(self, sequence: Sequence) -> None:
        """What lies in its cells was computed for its tokens, under its adapters."""
        if sequence.slot is None:
            return
        wanted = [(sequence.adapters, token) for token in sequence.tokens[: sequence.computed]]
        assert self.memory.cells.get(sequence.slot, []) == wanted
        assert self.kv.length(sequence.slot) == sequence.computed
        if sequence.computed and self.memory.window:
            needed = max(0, sequence.computed - self.memory.window)
            assert self.memory.positions(sequence.slot)[0] <= needed, (
                "the window before the next token is whole"
            )

    def run(self, most: int = 20_000) -> list[tuple[Span, ...]]:
        """Step until all have ended."""
        steps = []
        while self.scheduler.has_work:
            steps.append(self.step())
            assert len(steps) < most, "it does not end"
        return steps


def adapters(name: str) -> AdapterSet:
    return adapter_set((AdapterUse(name),))


def counts(spans: tuple[Span, ...]) -> list[tuple[int, int, int]]:
    return [(span.sequence.id, span.count, span.outputs) for span in spans]


def big(cost: FixedCost | None = None, **options: object) -> Bench:
    defaults: dict[str, object] = {
        "cells": 20_000,
        "context": 4000,
        "batch": 512,
        "parallel": 32,
        "spare": 32,
    }
    return Bench(policy=Everybody(), cost=cost, **(defaults | options))  # type: ignore[arg-type]  # options of many types


class Guesses:
    """Guesses right: the bench draws a sequence's length."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[tuple[int, int, int]] = []

    def propose(self, decoding: list[Sequence], tokens: int, outputs: int) -> Mapping[int, tuple[int, ...]]:
        self.asked.append((len(decoding), tokens, outputs))
        found = {}
        for sequence in decoding:
            count = min(self.most, tokens, outputs)
            found[sequence.id] = tuple(len(sequence.tokens) + n for n in range(count))
            tokens, outputs = tokens - count, outputs - count
        return found
