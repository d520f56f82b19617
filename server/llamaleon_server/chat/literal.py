"""Text that somebody wrote stays text, also where it spells a control token such as `<|im_end|>`.

Before a template is rendered, a character that no text has is put behind whatever might begin a control
token in what was said; afterwards its places in the prompt are breaks, over which the engine reads none.
Only the engine knows the vocabulary: where a break splits none, it changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from llamaleon_server.engine.protocol import MEDIA_MARKER
from llamaleon_server.errors import BadRequest

# Marks of thinking are left alone: templates look for them in earlier answers, to take the thinking out.
_MAY_BEGIN = re.compile(
    rf"<(?!{re.escape(MEDIA_MARKER[1:])}|/?think>)(?=[^\s<>]{{1,100}}>)"
    r"|\[(?!/?THINK\])(?=[A-Za-z_/]{1,40}\])"
    r"|\](?=[<~!])"
)
NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode keeps these for internal use

Value = TypeVar("Value")


class Guard:
    """For one conversation: `said` is all that its texts may come from."""

    def __init__(self, *said: Any) -> None:
        texts = list(_texts(said))
        mark = next((one for one in NONCHARACTERS if not any(one in text for text in texts)), None)
        if mark is None:
            raise BadRequest("`messages`: no text may use all of Unicode's noncharacters.", param="messages")
        self._mark = mark

    def guarded(self, value: Value) -> Value:
        """A message, a tool, or several, with every text in it: names of arguments are said by somebody, too.

        What templates compare (roles, types, ids with each other) stays equal: the same is made of the same.
        """
        return self._guarded(value)  # type: ignore[no-any-return]  # JSON stays of the type that it is

    def _guarded(self, value: Any) -> Any:
        if isinstance(value, str):
            return _MAY_BEGIN.sub(lambda found: found[0] + self._mark, value)
        if isinstance(value, dict):
            return {self._guarded(key): self._guarded(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._guarded(one) for one in value)
        return value

    def cut(self, rendered: str) -> tuple[str, tuple[int, ...]]:
        """The text without the marks, and the places (characters from its beginning) where they stood."""
        parts = rendered.split(self._mark)
        return "".join(parts), tuple(accumulate(len(part) for part in parts[:-1]))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield str(key)
            yield from _texts(one)
    elif isinstance(value, Sequence):
        for one in value:
            yield from _texts(one)
