"""Text to token ids and back. Thread-safe: llama.cpp's vocabulary is read-only once loaded."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as native

NO_VOCABULARY = 0  # LLAMA_VOCAB_TYPE_NONE


class Vocabulary:
    """The vocabulary of one model."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.size: int = native.llama_vocab_n_tokens(handle)
        self.is_empty: bool = native.llama_vocab_type(handle) == NO_VOCABULARY or self.size == 0
        self.adds_bos: bool = bool(native.llama_vocab_get_add_bos(handle))
        self.bos = self._optional(native.llama_vocab_bos(handle))
        self.eos = self._optional(native.llama_vocab_eos(handle))
        self.end_tokens = frozenset(t for t in range(self.size) if native.llama_vocab_is_eog(handle, t))
        self._pieces: dict[int, bytes] = {}
        self._rendered: dict[int, bytes] = {}

    @staticmethod
    def _optional(token: int) -> int | None:
        return None if token < 0 else int(token)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`. Raises: ValueError if llama.cpp cannot count them in 32 bits."""
        raw = text.encode()
        room = len(raw) + 16
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = native.llama_tokenize(
                self._handle, raw, len(raw), buffer, room, add_special, parse_special
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
            length = native.llama_token_to_piece(self._handle, token, buffer, room, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            room = -length
