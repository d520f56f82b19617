"""`/v1/chat/completions`: the answer, whole or in chunks.

`reasoning_content` is what DeepSeek, llama-server and vLLM call thinking; OpenAI itself shows none.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from llamaleon_server.chat.events import Answer, CallArguments, CallBegun, Ended, Event, Text, Thinking
from llamaleon_server.wire.logprobs import ChatLogprobs, chat_logprobs
from llamaleon_server.wire.usage import FINGERPRINT, Timings, Usage, choice_timings


class CalledFunction(Struct, frozen=True):
    name: str
    arguments: str


class MessageCall(Struct, frozen=True, kw_only=True):
    id: str
    type: str = "function"
    function: CalledFunction


class AnswerMessage(Struct, frozen=True, kw_only=True):
    """`content` is null where the answer is nothing but calls."""

    role: str = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[MessageCall] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET


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


class FunctionDelta(Struct, frozen=True, kw_only=True):
    name: str | UnsetType = UNSET
    arguments: str


class CallDelta(Struct, frozen=True, kw_only=True):
    """The first of a call has its id, type and name; all have more of its arguments."""

    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionDelta


class ChunkDelta(Struct, frozen=True, kw_only=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET
    function_call: FunctionDelta | UnsetType = UNSET


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


def event_choice(index: int, event: Event, *, legacy: bool) -> ChunkChoice:
    """Of any event but the last."""
    logprobs = None
    match event:
        case Text(text, scores):
            delta = ChunkDelta(content=text)
            logprobs = chat_logprobs(scores) if scores else None
        case Thinking(text):
            delta = ChunkDelta(reasoning_content=text)
        case CallBegun(_, name=name) if legacy:
            delta = ChunkDelta(function_call=FunctionDelta(name=name, arguments=""))
        case CallBegun(call, identity, name):
            begun = FunctionDelta(name=name, arguments="")
            delta = ChunkDelta(
                tool_calls=[CallDelta(index=call, id=identity, type="function", function=begun)]
            )
        case CallArguments(_, text) if legacy:
            delta = ChunkDelta(function_call=FunctionDelta(arguments=text))
        case CallArguments(call, text):
            delta = ChunkDelta(tool_calls=[CallDelta(index=call, function=FunctionDelta(arguments=text))])
        case Ended():
            raise AssertionError("the end is `last_choice`")
    return ChunkChoice(index=index, delta=delta, logprobs=logprobs)


def last_choice(index: int, ended: Ended, choices: int, *, legacy: bool) -> ChunkChoice:
    timings = choice_timings(ended.finish, choices)
    return ChunkChoice(
        index=index, delta=ChunkDelta(), finish_reason=_reason(ended, legacy=legacy), timings=timings
    )


def whole_choice(index: int, answer: Answer, *, logprobs: bool, choices: int, legacy: bool) -> Choice:
    return Choice(
        index=index,
        message=_message(answer, legacy=legacy),
        logprobs=chat_logprobs(answer.logprobs) if logprobs else None,
        finish_reason=_reason(answer.end, legacy=legacy),
        timings=choice_timings(answer.finish, choices),
    )


def _message(answer: Answer, *, legacy: bool) -> AnswerMessage:
    calls = [
        MessageCall(id=call.id, function=CalledFunction(call.name, call.arguments)) for call in answer.calls
    ]
    return AnswerMessage(
        content=None if calls and not answer.text else answer.text,
        reasoning_content=answer.thinking or UNSET,
        tool_calls=calls if calls and not legacy else UNSET,
        function_call=calls[0].function if calls and legacy else UNSET,
    )


def _reason(ended: Ended, *, legacy: bool) -> str:
    return "function_call" if legacy and ended.reason == "tool_calls" else ended.reason
