"""What a request cost, counted by the engine."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, Struct, UnsetType

from llamaleon_server.engine.protocol import Finish

FINGERPRINT = "llamaleon"


class PromptDetails(Struct, frozen=True):
    cached_tokens: int


class CompletionDetails(Struct, frozen=True):
    reasoning_tokens: int


class Usage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails | UnsetType = UNSET


class Timings(Struct, frozen=True, kw_only=True):
    """llama-server's `timings` of one sequence, and ours: `queue_ms` and the two `..._in_batch`.

    Those are means over the passes that the sequence took part in: how many sequences shared a pass, itself
    included, and how many different adapters, the bare base not counted. `draft_n` is absent if nothing was
    guessed ahead.
    """

    queue_ms: float
    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float | None
    prompt_per_second: float | None
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float | None
    predicted_per_second: float | None
    draft_n: int | UnsetType = UNSET
    draft_n_accepted: int | UnsetType = UNSET
    sequences_in_batch: float
    adapters_in_batch: float


def usage_of(finishes: Sequence[Finish], choices: int, thinking_tokens: int | None = None) -> Usage:
    """`finishes` in groups of `choices` that share a prompt, which counts once, as at OpenAI.

    Cached tokens are those that every choice of a prompt found: what one leaves for the next was not there.
    `thinking_tokens`, of all choices, are told where answers may have any.
    """
    groups = [finishes[at : at + choices] for at in range(0, len(finishes), choices)]
    prompt = sum(group[0].prompt_tokens for group in groups)
    completion = sum(finish.completion_tokens for finish in finishes)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(sum(_cached(group) for group in groups)),
        completion_tokens_details=UNSET if thinking_tokens is None else CompletionDetails(thinking_tokens),
    )


def _cached(group: Sequence[Finish]) -> int:
    return min(finish.cached_tokens for finish in group)


def timings_of(finish: Finish, sequences: int = 1) -> Timings | UnsetType:
    """Of the answer, which has one sequence; for several see `choice_timings`."""
    return _timings(finish) if sequences == 1 else UNSET


def choice_timings(finish: Finish, sequences: int) -> Timings | UnsetType:
    """Of one of several choices. They ran beside each other: no figure over all of them would be true."""
    return UNSET if sequences == 1 else _timings(finish)


def _timings(finish: Finish) -> Timings:
    spent = finish.timings
    fresh, drawn = finish.prompt_tokens - finish.cached_tokens, finish.completion_tokens
    return Timings(
        queue_ms=_ms(spent.queue_s),
        cache_n=finish.cached_tokens,
        prompt_n=fresh,
        prompt_ms=_ms(spent.prefill_s),
        prompt_per_token_ms=_ms(spent.prefill_s / fresh) if fresh else None,
        prompt_per_second=_rate(fresh, spent.prefill_s),
        predicted_n=drawn,
        predicted_ms=_ms(spent.decode_s),
        predicted_per_token_ms=_ms(spent.decode_s / drawn) if drawn else None,
        predicted_per_second=_rate(drawn, spent.decode_s),
        draft_n=spent.drafted_tokens or UNSET,
        draft_n_accepted=spent.accepted_tokens if spent.drafted_tokens else UNSET,
        sequences_in_batch=round(spent.sequences_in_batch, 2),
        adapters_in_batch=round(spent.adapters_in_batch, 2),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 3) if seconds > 0 else None
