"""What a request cost: usage as OpenAI counts it, timings as llama-server names them."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from llamaleon_server.engine.protocol import Finish, Timings
from llamaleon_server.wire import usage
from llamaleon_server.wire.usage import choice_timings, timings_of, usage_of

TIMINGS = Timings(queue_s=0.5, prefill_s=2.0, decode_s=0.0, sequences_in_batch=7.456, adapters_in_batch=3.0)


def finish(prompt: int, cached: int, completion: int, timings: Timings = TIMINGS) -> Finish:
    return Finish(
        reason="stop",
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        timings=timings,
    )


def test_a_prompt_counts_once_for_all_its_choices() -> None:
    usage = usage_of([finish(10, 4, 3), finish(10, 9, 5), finish(2, 0, 1), finish(2, 1, 1)], choices=2)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (12, 10, 22)
    assert usage.prompt_tokens_details.cached_tokens == 4


def shown(timings: usage.Timings) -> dict[str, object]:
    body: dict[str, object] = msgspec.json.decode(msgspec.json.encode(timings))
    return body


def test_rates_count_what_was_computed_and_no_time_makes_no_rate() -> None:
    timings = timings_of(finish(10, 4, 3))
    assert isinstance(timings, usage.Timings)
    assert shown(timings) == {
        "queue_ms": 500.0,
        "cache_n": 4,
        "prompt_n": 6,
        "prompt_ms": 2000.0,
        "prompt_per_token_ms": 333.333,
        "prompt_per_second": 3.0,
        "predicted_n": 3,
        "predicted_ms": 0.0,
        "predicted_per_token_ms": 0.0,
        "predicted_per_second": None,
        "sequences_in_batch": 7.46,
        "adapters_in_batch": 3.0,
    }


def test_drafts_are_told_where_there_were_any_even_if_all_were_wrong() -> None:
    drafted = msgspec.structs.replace(TIMINGS, drafted_tokens=9, accepted_tokens=0)
    timings = timings_of(finish(10, 4, 3, drafted))
    assert isinstance(timings, usage.Timings)
    assert (timings.draft_n, timings.draft_n_accepted) == (9, 0)


def test_several_choices_have_timings_each_and_none_together() -> None:
    one = finish(10, 4, 3)
    assert timings_of(one, 2) is UNSET
    assert choice_timings(one, 2) == timings_of(one, 1)
    assert choice_timings(one, 1) is UNSET
