"""What a request cost, counted by the engine."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llamaleon_server.engine.protocol import Finish

FINGERPRINT = "llamaleon"


class PromptDetails(Struct, frozen=True):
    cached_tokens: int


class Usage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Timings(Struct, frozen=True, kw_only=True):
    """llama-server's `timings`, of a request that ran one sequence."""

    queue_ms: float
    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float | None
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float | None


def usage_of(finishes: Sequence[Finish], choices: int) -> Usage:
    """`finishes` in groups of `choices` that share a prompt, which counts once, as at OpenAI.

    Cached tokens are those that every choice of a prompt found: what one leaves for the next was not there.
    """
    groups = [finishes[at : at + choices] for at in range(0, len(finishes), choices)]
    prompt = sum(group[0].prompt_tokens for group in groups)
    completion = sum(finish.completion_tokens for finish in finishes)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(sum(_cached(group) for group in groups)),
    )


def _cached(group: Sequence[Finish]) -> int:
    return min(finish.cached_tokens for finish in group)


def timings_of(finishes: Sequence[Finish]) -> Timings | None:
    """None for several sequences: they ran beside each other, and one figure would mislead."""
    if len(finishes) != 1:
        return None
    [finish] = finishes
    fresh = finish.prompt_tokens - finish.cached_tokens
    return Timings(
        queue_ms=_ms(finish.timings.queue_s),
        cache_n=finish.cached_tokens,
        prompt_n=fresh,
        prompt_ms=_ms(finish.timings.prefill_s),
        prompt_per_second=_rate(fresh, finish.timings.prefill_s),
        predicted_n=finish.completion_tokens,
        predicted_ms=_ms(finish.timings.decode_s),
        predicted_per_second=_rate(finish.completion_tokens, finish.timings.decode_s),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 3) if seconds > 0 else None
