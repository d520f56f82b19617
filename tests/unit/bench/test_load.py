"""How the benchmarks read a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from tests.bench.load import Heard


def heard(*events: Mapping[str, object], asked: int = 3) -> Heard:
    lines = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    return Heard(asked, 1.0, [1.5, 2.0, 3.5], lines + b": ping\n\ndata: [DONE]\n\n")


def chunk(text: str, reason: str | None = None) -> Mapping[str, object]:
    return {"choices": [{"text": text, "finish_reason": reason}]}


def test_text_tokens_and_times() -> None:
    usage = {"choices": [], "usage": {"completion_tokens": 3}}
    answer = heard(chunk("a"), chunk("b"), chunk("", "length"), usage)
    assert answer.text == "ab"
    assert answer.tokens == 3
    assert answer.first_s == 0.5
    assert answer.tokens_per_s == 2 / (3.5 - 1.5), "without the first, which ends the prefill"


def test_a_server_that_counts_nothing_is_believed_at_the_full_length_only() -> None:
    assert heard(chunk("a"), chunk("b", "length")).tokens == 3
    assert heard(chunk("a"), chunk("b", "stop")).tokens == 0


def test_an_error_inside_the_stream_is_raised() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        _ = heard(chunk("a"), {"error": {"message": "out of memory"}}).text
