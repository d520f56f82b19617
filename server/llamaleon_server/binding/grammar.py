"""A model's vocabulary as llguidance wants it, to compile grammars on."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as native
from llguidance import LLTokenizer

from llamaleon_server.binding.vocabulary import Vocabulary

ROOM = 4096  # bytes of a piece; those of one that is longer count as a control token's
SPECIAL = b"\xff"  # llguidance's mark of a token that is no text
NO_END = b"<end of a vocabulary without end tokens>"


def grammar_tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """Some 0.7 s for 150,000 tokens, of which twice 0.2 s keep the interpreter's lock.

    A token is the bytes that it adds to the text; one that adds none is special, and a grammar allows it only
    by name or number. Raises: ValueError for a vocabulary that cannot spell every text, as those of some
    embedding models.
    """
    tokens = _spelt(vocabulary)
    ends = sorted(vocabulary.end_tokens)
    if vocabulary.eos in ends:  # the one that is written <eos> in a grammar comes first
        ends.insert(0, ends.pop(ends.index(vocabulary.eos)))
    if not ends:
        ends = [len(tokens)]
        tokens.append(SPECIAL + NO_END)
    tokenize = ctypes.cast(native._lib.llama_tokenize, ctypes.c_void_p).value
    make: Any = LLTokenizer  # its type stub lacks what its module for llama.cpp uses
    tokenizer: LLTokenizer = make.from_llamacpp(
        tokens=tokens, vocab_ptr=vocabulary.handle, tokenize_fptr=tokenize, eos_token=ends, slices=[]
    )
    return tokenizer.with_slices(LLTokenizer.general_slices())  # apart, so that the lock is free between


def _spelt(vocabulary: Vocabulary) -> list[bytes]:
    """Bytes of every token. Not by `Vocabulary.piece`, whose cache would keep them all."""
    buffer = ctypes.create_string_buffer(ROOM)
    to_piece, handle, ends = native._lib.llama_token_to_piece, vocabulary.handle, vocabulary.end_tokens
    tokens: list[bytes] = []
    for token in range(vocabulary.size):
        length = 0 if token in ends else to_piece(handle, token, buffer, ROOM, 0, False)
        if length > 0:
            tokens.append(ctypes.string_at(buffer, length))
        else:
            length = to_piece(handle, token, buffer, ROOM, 0, True)
            tokens.append(SPECIAL + ctypes.string_at(buffer, length) if length > 0 else b"")
    return tokens
