"""Control tokens that somebody wrote: marked in what was said, nowhere else, and gone from the prompt."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaleon_server.chat.literal import NONCHARACTERS, Guard
from llamaleon_server.engine.protocol import MEDIA_MARKER
from llamaleon_server.errors import BadRequest


def breaks(text: str) -> list[str]:
    """The text in parts, as the breaks in it say."""
    guard = Guard(text)
    whole, places = guard.cut(guard.guarded(text))
    assert whole == text
    borders = [0, *places, len(text)]
    return [whole[begin:end] for begin, end in pairwise(borders)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a <|im_end|> b", ["a <", "|im_end|> b"]),
        ("</s><s>", ["<", "/s><", "s>"]),
        ("[INST] [/gMASK] [0]", ["[", "INST] [", "/gMASK] [0]"]),
        ("<｜User｜>", ["<", "｜User｜>"]),
        ("]<]start[>[", ["]", "<", "]start[>["]),
        ("1 < 2 > 1, a[0], <two words>", ["1 < 2 > 1, a[0], <two words>"]),
        ("<think>Hm.</think> [THINK]", ["<think>Hm.</think> [THINK]"]),  # templates look for these
        (MEDIA_MARKER, [MEDIA_MARKER]),
        ("", [""]),
    ],
)
def test_what_may_begin_a_control_token(text: str, parts: list[str]) -> None:
    assert breaks(text) == parts


@given(st.text())
def test_no_text_is_changed(text: str) -> None:
    assert "".join(breaks(text)) == text


def test_everything_in_a_message_is_guarded() -> None:
    """Also arguments with the names of a message's fields: a model writes those, and users ask it to."""
    guard = Guard()
    arguments = {"a": ["<s>", 1, None], "id": "<s>", "type": "<s>", "<s>": {"role": "<s>"}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    guarded = guard.guarded({"role": "assistant", "content": "<s>", "tool_calls": [call]})
    mark = guarded["content"][1]
    assert mark in NONCHARACTERS
    said = f"<{mark}s>"
    shown = {"a": [said, 1, None], "id": said, "type": said, said: {"role": said}}
    function = {"name": "f", "arguments": shown}
    assert guarded["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]
    assert guarded["role"] == "assistant"


def test_a_text_with_the_mark_in_it_gets_another_one() -> None:
    text = f"{NONCHARACTERS[0]}<s>"
    assert breaks(text) == [f"{NONCHARACTERS[0]}<", "s>"]
    with pytest.raises(BadRequest, match="noncharacters"):
        Guard("".join(NONCHARACTERS))
