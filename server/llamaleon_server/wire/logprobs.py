"""Log probabilities in OpenAI's two shapes: of chats, and the older one of text completions."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from msgspec import Struct

from llamaleon_server.engine.protocol import TokenLogprob

NEVER = -9999.0  # OpenAI's figure for a token that was not among those considered


class TopLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True, kw_only=True):
    content: list[ChatLogprob]
    refusal: None = None


class TextLogprobs(Struct, frozen=True, kw_only=True):
    """One item per token; the first of an echoed prompt has no probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]  # characters from the beginning of `text`

    def followed_by(self, other: TextLogprobs) -> TextLogprobs:
        return TextLogprobs(
            tokens=self.tokens + other.tokens,
            token_logprobs=self.token_logprobs + other.token_logprobs,
            top_logprobs=None
            if self.top_logprobs is None
            else self.top_logprobs + (other.top_logprobs or []),
            text_offset=self.text_offset + other.text_offset,
        )


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    return ChatLogprobs(content=[_chat_logprob(token) for token in tokens])


def _chat_logprob(token: TokenLogprob) -> ChatLogprob:
    return ChatLogprob(
        token=_text(token.piece),
        logprob=NEVER if token.logprob is None else token.logprob,
        bytes=list(token.piece),
        top_logprobs=[
            TopLogprob(token=_text(piece), logprob=logprob, bytes=list(piece))
            for _, piece, logprob in token.top
        ],
    )


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


class Offsets:
    """Where each token begins in a text that arrives in parts.

    Token bytes and text need not agree: control tokens are not in the text, SentencePiece puts a space
    before it, and one character may be several tokens. Each token begins where the text so far ends.
    """

    def __init__(self) -> None:
        self._characters = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def place(self, pieces: Sequence[bytes], text: str) -> list[int]:
        """`pieces` are the tokens of `text`, which continues what was placed before."""
        offsets = []
        rest = text
        for piece in pieces:
            offsets.append(self._characters)
            decoded = self._decoder.decode(piece)
            for spelling in (decoded, decoded.removeprefix(" ")):
                if spelling and rest.startswith(spelling):
                    self._characters += len(spelling)
                    rest = rest[len(spelling) :]
                    break
        self._characters += len(rest)
        return offsets


def text_logprobs(
    tokens: Sequence[TokenLogprob], text: str, offsets: Offsets, alternatives: int
) -> TextLogprobs:
    """`text` is what these tokens stand for. With no alternatives asked for there are no `top_logprobs`."""
    return TextLogprobs(
        tokens=[_legacy(token.piece) for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=[_legacy_top(token) for token in tokens] if alternatives else None,
        text_offset=offsets.place([token.piece for token in tokens], text),
    )


def _legacy_top(token: TokenLogprob) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    top = {_legacy(piece): logprob for _, piece, logprob in token.top}
    # The token itself is always there, so there may be one more than was asked for.
    top.setdefault(_legacy(token.piece), token.logprob)
    return top


def _legacy(piece: bytes) -> str:
    """OpenAI's spelling of a token that is no text on its own keeps such tokens apart."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
