"""Tokens placed in their text, and OpenAI's two shapes of log-probabilities."""

from __future__ import annotations

import pytest

from llamaleon_server.engine.protocol import Finish, Timings, TokenLogprob
from llamaleon_server.wire.logprobs import Offsets, chat_logprobs, text_logprobs
from llamaleon_server.wire.usage import timings_of, usage_of


@pytest.mark.parametrize(
    ("pieces", "text", "expected"),
    [
        ([b"Once", b" upon"], "Once upon", [0, 4]),
        ([b"<s>", b" Once", b" upon"], "Once upon", [0, 0, 4]),  # BOS and SentencePiece's first space
        ([b"a\xc3", b"\xb1", b"o"], "año", [0, 1, 2]),  # one character in two tokens
        ([b"\xe2", b"\x82", b"\xac", b"!"], "€!", [0, 0, 0, 1]),
        ([b"Hi", b"<|im_end|>"], "Hi", [0, 2]),  # a control token is not in the text
        ([], "", []),
    ],
)
def test_each_token_begins_where_the_text_before_it_ends(
    pieces: list[bytes], text: str, expected: list[int]
) -> None:
    assert Offsets().place(pieces, text) == expected


def test_offsets_go_on_from_part_to_part() -> None:
    offsets = Offsets()
    assert offsets.place([b"Hola"], "Hola") == [0]
    assert offsets.place([], " (held back)") == []
    assert offsets.place([b"!"], "!") == [16]


def test_the_older_shape_keeps_the_token_itself_among_the_alternatives() -> None:
    token = TokenLogprob(5, b" b", -2.0, [(4, b" a", -0.5)])
    shape = text_logprobs([token], " b", Offsets(), alternatives=1)
    assert shape.top_logprobs == [{" a": -0.5, " b": -2.0}]
    assert text_logprobs([token], " b", Offsets(), alternatives=0).top_logprobs is None


def test_tokens_that_are_no_text_are_told_apart() -> None:
    tokens = [TokenLogprob(1, b"\xe2\x82", -1.0), TokenLogprob(2, b"\xac", -1.0)]
    assert text_logprobs(tokens, "€", Offsets(), 0).tokens == ["bytes:\\xe2\\x82", "bytes:\\xac"]
    [first, _] = chat_logprobs(tokens).content
    assert (first.token, first.bytes) == ("\ufffd", [0xE2, 0x82])


def finish(prompt: int, cached: int, completion: int) -> Finish:
    timings = Timings(queue_s=0.5, prefill_s=2.0, decode_s=0.0)
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


def test_rates_count_what_was_computed() -> None:
    timings = timings_of([finish(10, 4, 3)])
    assert timings is not None
    assert (timings.cache_n, timings.prompt_n, timings.prompt_per_second) == (4, 6, 3.0)
    assert timings.predicted_per_second is None  # no time passed: no rate
    assert timings_of([finish(1, 0, 1)] * 2) is None
