"""Text to token ids and back. Thread-safe: llama.cpp's vocabulary is read-only once loaded."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import llama_cpp.llama_cpp as native

NO_VOCABULARY = 0  # LLAMA_VOCAB_TYPE_NONE
# llama_token_attr
UNKNOWN = native.LLAMA_TOKEN_ATTR_UNKNOWN
CONTROL = native.LLAMA_TOKEN_ATTR_CONTROL
USER_DEFINED = native.LLAMA_TOKEN_ATTR_USER_DEFINED


class Vocabulary:
    """The vocabulary of one model."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.size: int = native.llama_vocab_n_tokens(handle)
        self.is_empty: bool = native.llama_vocab_type(handle) == NO_VOCABULARY or self.size == 0
        self.adds_bos: bool = bool(native.llama_vocab_get_add_bos(handle))
        self.bos = self._optional(native.llama_vocab_bos(handle))
        self.eos = self._optional(native.llama_vocab_eos(handle))
        self.adds_eos: bool = bool(native.llama_vocab_get_add_eos(handle))
        self.separator = self._optional(native.llama_vocab_sep(handle))
        self.adds_separator: bool = bool(native.llama_vocab_get_add_sep(handle))
        self.end_tokens = frozenset(t for t in range(self.size) if native.llama_vocab_is_eog(handle, t))
        self._pieces: dict[int, bytes] = {}
        self._rendered: dict[int, bytes] = {}

    @staticmethod
    def _optional(token: int) -> int | None:
        return None if token < 0 else int(token)

    def tokenize(
        self, text: str, *, add_special: bool, parse_special: bool, breaks: Sequence[int] = ()
    ) -> list[int]:
        """Token ids of `text`; `breaks` are places over which no control token is read.

        Raises: ValueError if llama.cpp cannot count them in 32 bits.
        """
        if breaks and parse_special:
            # Whoever makes breaks knows no vocabulary: most are in plain text, whose tokens stay as they are.
            places = [at for at in breaks if 0 < at < len(text) and self._is_control(text, at - 1)]
            borders = [0, *places, len(text)]
            tokens: list[int] = []
            for begin, end in pairwise(borders):
                tokens += self._tokenize(text[begin:end], add_special and begin == 0, True)
            return tokens
        return self._tokenize(text, add_special, parse_special)

    def _is_control(self, text: str, at: int) -> bool:
        """Whether a control token would be read there."""
        return text.startswith(self._controls.get(text[at : at + 2], ()), at)

    @cached_property
    def _controls(self) -> dict[str, tuple[str, ...]]:
        """What control tokens are written as, by the first two characters.

        Those too that some models' files have as text.
        """
        names = []
        for token in range(self.size):
            kind = native.llama_vocab_get_attr(self.handle, token)
            if kind & (CONTROL | UNKNOWN | USER_DEFINED):
                name = self._piece(token, special=True).decode("utf-8", "replace")
                if kind & (CONTROL | UNKNOWN) or name.startswith("<|") or name.endswith("|>"):
                    names.append(name)
        beginnings = {name[:2] for name in names if len(name) > 1}
        return {two: tuple(name for name in names if name.startswith(two)) for two in beginnings}

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        raw = text.encode()
        room = len(raw) + 16
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = native.llama_tokenize(
                self.handle, raw, len(raw), buffer, room, add_special, parse_special
            )
            if count >= 0:
                return buffer[:count]
            if -count <= room:
                raise ValueError(f"a text of {len(raw)} bytes cannot be tokenised")
            room = -count

    def piece(self, token: int) -> bytes:
        """Bytes of one token as generated text: nothing for a control token."""
        return self._cached(self._pieces, token, special=False)

    def rendered(self, token: int) -> bytes:
        """Bytes of one token, control tokens by their name."""
        return self._cached(self._rendered, token, special=True)

    def control_token(self, text: str) -> int | None:
        """The token of that name, if there is one and no text can stand for it."""
        tokens = self.tokenize(text, add_special=False, parse_special=True)
        return tokens[0] if len(tokens) == 1 and not self.piece(tokens[0]) else None

    def _cached(self, cache: dict[int, bytes], token: int, *, special: bool) -> bytes:
        if token not in cache:
            cache[token] = self._piece(token, special)
        return cache[token]

    def _piece(self, token: int, special: bool) -> bytes:
        if not 0 <= token < self.size:
            raise ValueError(f"token id {token} is not in the vocabulary (0 to {self.size - 1})")
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = native.llama_token_to_piece(self.handle, token, buffer, room, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            room = -length
