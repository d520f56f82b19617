"""What the passes of an engine were like, for `Status`."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import NamedTuple

import msgspec

from llamaleon_server.engine.status import StepStatus

WINDOW = 512  # passes that means and percentiles are over: recent, and enough for a p99


class _Pass(NamedTuple):
    seconds: float
    host_seconds: float
    sequences: int
    tokens: int
    adapters: int


class StepRecorder:
    """Recorded by the engine's thread, read by any. Recording costs about a microsecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # so that a reader sees sums and window of the same pass
        self._window: deque[_Pass] = deque(maxlen=WINDOW)
        self._steps = self._mixed = self._intercepted = 0
        self._tokens_in = self._tokens_out = self._drafted = self._accepted = 0

    def record(
        self,
        *,
        seconds: float,
        host_seconds: float,
        sequences: int,
        tokens: int,
        adapters: int,
        intercepted: bool,
        mixed: bool,
        tokens_in: int,
        tokens_out: int,
        drafted: int,
        accepted: int,
    ) -> None:
        """One pass: the fields are those of `StepStatus`, of this pass alone.

        `seconds` is the whole step, `host_seconds` our Python's share of it; `tokens` are the rows of the
        pass (prompt, decoded and drafted ones), `adapters` the different ones among them.
        """
        with self._lock:
            self._window.append(_Pass(seconds, host_seconds, sequences, tokens, adapters))
            self._steps += 1
            self._mixed += mixed
            self._intercepted += intercepted
            self._tokens_in += tokens_in
            self._tokens_out += tokens_out
            self._drafted += drafted
            self._accepted += accepted

    def status(self) -> StepStatus:
        with self._lock:
            window = list(self._window)
            counted = StepStatus(
                steps=self._steps,
                mixed_steps=self._mixed,
                intercepted_steps=self._intercepted,
                tokens_in=self._tokens_in,
                tokens_out=self._tokens_out,
                drafted_tokens=self._drafted,
                accepted_tokens=self._accepted,
            )
        return _with_means(counted, window) if window else counted


def _with_means(counted: StepStatus, window: list[_Pass]) -> StepStatus:
    number = len(window)
    seconds = sorted(one.seconds for one in window)
    return msgspec.structs.replace(
        counted,
        mean_s=math.fsum(seconds) / number,
        p99_s=seconds[math.ceil(0.99 * number) - 1],  # the nearest rank
        host_mean_s=math.fsum(one.host_seconds for one in window) / number,
        sequences_mean=sum(one.sequences for one in window) / number,
        tokens_mean=sum(one.tokens for one in window) / number,
        adapters_mean=sum(one.adapters for one in window) / number,
    )
