"""Anthropic's `/v1/messages`: the answer, whole or as the events of a stream."""

from __future__ import annotations

import uuid
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from llamaleon_server.chat.events import Answer, CallArguments, CallBegun, Ended, Event, Text, Thinking
from llamaleon_server.wire.anthropic import MessagesRequest
from llamaleon_server.wire.anthropic_signature import signature_of
from llamaleon_server.wire.arguments import arguments_of


class TextBlock(Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    text: str
    citations: None = None


class ThinkingBlock(Struct, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class ToolUseBlock(Struct, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class OutputDetails(Struct, frozen=True):
    thinking_tokens: int


class Usage(Struct, frozen=True, kw_only=True):
    """The whole prompt is `input_tokens` and `cache_read_input_tokens` together, as at Anthropic."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int
    output_tokens_details: OutputDetails | UnsetType = UNSET
    service_tier: str | UnsetType = "standard"  # not in the last event of a stream


class Message(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    role: str = "assistant"
    model: str
    content: list[ContentBlock]
    stop_reason: str | None
    stop_sequence: str | None
    stop_details: None = None
    container: None = None
    usage: Usage


class TextDelta(Struct, frozen=True, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(Struct, frozen=True, tag_field="type", tag="signature_delta"):
    signature: str


class InputJsonDelta(Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    partial_json: str


class MessageStart(Struct, frozen=True, tag_field="type", tag="message_start"):
    message: Message


class Ping(Struct, frozen=True, tag_field="type", tag="ping"):
    pass


class BlockStart(Struct, frozen=True, tag_field="type", tag="content_block_start"):
    index: int
    content_block: ContentBlock


class BlockDelta(Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class BlockStop(Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    index: int


class Stop(Struct, frozen=True, kw_only=True):
    stop_reason: str
    stop_sequence: str | None
    stop_details: None = None
    container: None = None


class MessageDelta(Struct, frozen=True, tag_field="type", tag="message_delta"):
    delta: Stop
    usage: Usage


class MessageStop(Struct, frozen=True, tag_field="type", tag="message_stop"):
    pass


StreamEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


def whole_message(asked: MessagesRequest, answer: Answer) -> Message:
    content: list[ContentBlock] = []
    if answer.thinking:
        signature = signature_of(answer.thinking, carries=not asked.shows_thinking)
        shown = answer.thinking if asked.shows_thinking else ""
        content.append(ThinkingBlock(thinking=shown, signature=signature))
    if answer.text:
        content.append(TextBlock(text=answer.text))
    for call in answer.calls:
        content.append(ToolUseBlock(id=call.id, name=call.name, input=arguments_of(call.arguments)))
    stop = stop_of(asked, answer.end)
    return Message(
        id=new_id(),
        model=asked.model,
        content=content,
        stop_reason=stop.stop_reason,
        stop_sequence=stop.stop_sequence,
        usage=usage_of(answer.end),
    )


def new_id() -> str:
    return f"msg_{uuid.uuid4().hex}"


def usage_of(ended: Ended, *, streamed: bool = False) -> Usage:
    finish = ended.finish
    return Usage(
        input_tokens=finish.prompt_tokens - finish.cached_tokens,
        cache_read_input_tokens=finish.cached_tokens,
        output_tokens=finish.completion_tokens,
        output_tokens_details=OutputDetails(ended.thinking_tokens),
        service_tier=UNSET if streamed else "standard",
    )


def stop_of(asked: MessagesRequest, ended: Ended) -> Stop:
    reason, found = "end_turn", None
    if ended.reason == "tool_calls":
        reason = "tool_use"
    elif ended.reason == "length":
        full = ended.finish.completion_tokens < asked.max_tokens
        reason = "model_context_window_exceeded" if full else "max_tokens"
    elif ended.finish.stop_string in asked.stops():  # one of the model's own preset is no news to the client
        reason, found = "stop_sequence", ended.finish.stop_string
    return Stop(stop_reason=reason, stop_sequence=found)


class MessageStream:
    """The events of one streamed message. A block ends where an event of another kind comes."""

    def __init__(self, asked: MessagesRequest) -> None:
        self._asked = asked
        self._index = -1
        self._kind: str | None = None  # of the open block
        self._thoughts: list[str] = []  # of the open block

    def start(self, prompt_tokens: int) -> list[StreamEvent]:
        message = Message(
            id=new_id(),
            model=self._asked.model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=Usage(input_tokens=prompt_tokens, output_tokens=0),
        )
        return [MessageStart(message), Ping()]

    def add(self, event: Event) -> list[StreamEvent]:
        match event:
            case Text(text):
                opened = self._turn("text", TextBlock(text=""))
                return [*opened, BlockDelta(self._index, TextDelta(text))] if text else opened
            case Thinking(text):
                opened = self._turn("thinking", ThinkingBlock(thinking="", signature=""))
                self._thoughts.append(text)
                shown = self._asked.shows_thinking
                return [*opened, BlockDelta(self._index, ThinkingDelta(text))] if shown else opened
            case CallBegun(_, identity, name):
                opened = self._open("tool_use", ToolUseBlock(id=identity, name=name, input={}))
                return [*opened, BlockDelta(self._index, InputJsonDelta(""))]
            case CallArguments(_, text):
                return [BlockDelta(self._index, InputJsonDelta(text))]
            case Ended():
                end = MessageDelta(stop_of(self._asked, event), usage_of(event, streamed=True))
                return [*self._close(), end, MessageStop()]

    def _turn(self, kind: str, block: ContentBlock) -> list[StreamEvent]:
        return [] if self._kind == kind else self._open(kind, block)

    def _open(self, kind: str, block: ContentBlock) -> list[StreamEvent]:
        closed = self._close()
        self._index, self._kind = self._index + 1, kind
        return [*closed, BlockStart(self._index, block)]

    def _close(self) -> list[StreamEvent]:
        closed: list[StreamEvent] = []
        if self._kind == "thinking":
            signature = signature_of("".join(self._thoughts), carries=not self._asked.shows_thinking)
            closed.append(BlockDelta(self._index, SignatureDelta(signature)))
            self._thoughts.clear()
        if self._kind is not None:
            closed.append(BlockStop(self._index))
        self._kind = None
        return closed
