"""Whether a grammar takes a text, over a vocabulary of bytes and of control tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from llamaleon_server.engine.sampling.markers import with_tokens

EOS = 256


class _Bytes:
    eos_token_id = EOS
    bos_token_id = None

    def __init__(self, marks: Sequence[str]) -> None:
        self.tokens = [bytes([byte]) for byte in range(256)]
        self.tokens += [b"\xff<eos>", *(b"\xff" + mark.encode() for mark in marks)]
        self.special_token_ids = list(range(EOS, len(self.tokens)))

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


class Matching:
    """`marks` are one token each in this vocabulary; elsewhere they are text."""

    def __init__(self, grammar: str, marks: Sequence[str] = ()) -> None:
        self._ids = {mark: EOS + 1 + at for at, mark in enumerate(marks)}
        tokenizer = LLTokenizer(TokenizerWrapper(_Bytes(marks)))
        self._grammar = with_tokens(grammar, self._ids.get)
        self._fresh = LLMatcher(tokenizer, self._grammar, log_level=0)
        assert not self._fresh.is_error(), f"{self._fresh.get_error()}\n{self._grammar}"

    def tokens(self, text: str) -> list[int]:
        marks = "|".join(re.escape(mark) for mark in sorted(self._ids, key=len, reverse=True))
        parts = re.split(f"({marks})", text) if marks else [text]
        found: list[int] = []
        for part in parts:
            found += [self._ids[part]] if part in self._ids else list(part.encode())
        return found

    def taken(self, text: str) -> float:
        """Which part of the text is taken: 1.0 all of it."""
        tokens = self.tokens(text)
        return self._fresh.deep_copy().try_consume_tokens(tokens) / max(1, len(tokens))

    def whole(self, text: str) -> bool:
        """Whether the text is taken, and may end there."""
        matcher = self._fresh.deep_copy()
        tokens = self.tokens(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
