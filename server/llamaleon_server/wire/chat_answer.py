"""`/v1/chat/completions`: the answer, whole or in chunks."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from llamaleon_server.chat.events import Answer, Ended
from llamaleon_server.wire.logprobs import ChatLogprobs
from llamaleon_server.wire.usage import FINGERPRINT, Timings, Usage, choice_timings


class AnswerMessage(Struct, frozen=True, kw_only=True):
    role: str = "assistant"
    content: str
    refusal: None = None


class Choice(Struct, frozen=True, kw_only=True):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    timings: Timings | UnsetType = UNSET  # of several choices each its own


class ChatCompletion(Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str = FINGERPRINT
    timings: Timings | UnsetType = UNSET


class ChunkDelta(Struct, frozen=True, kw_only=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True, kw_only=True):
    index: int
    delta: ChunkDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    timings: Timings | UnsetType = UNSET


class ChatChunk(Struct, frozen=True, kw_only=True):
    """`usage` is null in every chunk but the last where it was asked for, else absent."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str = FINGERPRINT
    usage: Usage | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET


def first_choice(index: int) -> ChunkChoice:
    return ChunkChoice(index=index, delta=ChunkDelta(role="assistant", content=""))


def text_choice(index: int, text: str, logprobs: ChatLogprobs | None) -> ChunkChoice:
    return ChunkChoice(index=index, delta=ChunkDelta(content=text), logprobs=logprobs)


def last_choice(index: int, ended: Ended, choices: int) -> ChunkChoice:
    timings = choice_timings(ended.finish, choices)
    return ChunkChoice(index=index, delta=ChunkDelta(), finish_reason=ended.reason, timings=timings)


def whole_choice(index: int, answer: Answer, logprobs: ChatLogprobs | None, *, choices: int) -> Choice:
    return Choice(
        index=index,
        message=AnswerMessage(content=answer.text),
        logprobs=logprobs,
        finish_reason=answer.end.reason,
        timings=choice_timings(answer.finish, choices),
    )
