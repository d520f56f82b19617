"""How fast an engine has been lately, from the counters that it reports, and its line in the log."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from llamaleon_server.engine.status import EngineStatus, StepStatus

RECENT_S = 15.0  # older counters say nothing about now
APART_S = 2.0  # counters closer to each other than this make jumpy rates


class Rates(Struct, frozen=True, kw_only=True):
    """Per second, over the last `seconds`: prompt tokens computed, tokens drawn, passes."""

    seconds: float
    tokens_in: float
    tokens_out: float
    steps: float


class Meter:
    """Counters of one engine at a few recent moments (seconds of a monotonic clock)."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, StepStatus]] = deque()

    def add(self, step: StepStatus, now: float) -> None:
        self._seen.append((now, step))
        while now - self._seen[0][0] > RECENT_S:
            self._seen.popleft()

    def rates(self) -> Rates | None:
        """From the newest counters back to the latest that lie far enough before; None if there are none."""
        if not self._seen:
            return None
        now, step = self._seen[-1]
        for then, before in reversed(self._seen):
            seconds = now - then
            if seconds >= APART_S:
                return Rates(
                    seconds=seconds,
                    tokens_in=(step.tokens_in - before.tokens_in) / seconds,
                    tokens_out=(step.tokens_out - before.tokens_out) / seconds,
                    steps=(step.steps - before.steps) / seconds,
                )
        return None


class Vitals(Struct, frozen=True, kw_only=True):
    """What an engine says of itself, and how fast it was."""

    status: EngineStatus
    rates: Rates | None


def log_line(vitals: Vitals) -> str:
    """`812 prompt tokens/s, 143.2 generated tokens/s, 8 running, 2 waiting, ...`"""
    status, rates = vitals.status, vitals.rates
    parts = []
    if rates is not None:
        parts += [
            f"{rates.tokens_in:.0f} prompt tokens/s",
            f"{rates.tokens_out:.1f} generated tokens/s",
        ]
    parts += [
        f"{status.running} running",
        f"{status.waiting} waiting",
        f"{status.step.sequences_mean:.1f} sequences and {status.step.adapters_mean:.1f} adapters a pass",
        f"{status.step.mean_s * 1000:.0f} ms a pass",
        f"KV cache {_share(status.kv_used_tokens, status.kv_total_tokens)}",
        f"prefix hits {_share(status.prefix.hit_tokens, status.prefix.prompt_tokens)}",
    ]
    bank = status.bank
    if bank.total_ranks:
        adapters = f"{len(bank.hot)} adapter{'' if len(bank.hot) == 1 else 's'}"
        parts.append(f"bank {bank.used_ranks} of {bank.total_ranks} ranks ({adapters})")
    return ", ".join(parts)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
