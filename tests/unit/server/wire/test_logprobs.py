"""Tokens placed in their text, and OpenAI's two shapes of log-probabilities."""

from __future__ import annotations

import pytest

from llamaleon_server.engine.protocol import TokenLogprob
from llamaleon_server.wire.logprobs import Offsets, chat_logprobs, text_logprobs


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
