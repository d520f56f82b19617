"""The events of an answer as OpenAI's `response...` events, and the response that they make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from llamaleon_server.chat.events import CallArguments, CallBegun, Ended, Event, Text, Thinking
from llamaleon_server.engine.protocol import TokenLogprob
from llamaleon_server.errors import LlamaleonError
from llamaleon_server.wire.logprobs import ChatLogprob, chat_logprobs
from llamaleon_server.wire.responses_items import (
    CallItem,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Status,
    encrypted,
    new_id,
)
from llamaleon_server.wire.responses_object import (
    CANCELLED,
    COMPLETED,
    IN_PROGRESS,
    INCOMPLETE,
    QUEUED,
    IncompleteDetails,
    ResponseObject,
    ended,
    failed,
    usage_of,
)
from llamaleon_server.wire.usage import timings_of


class StreamEvent(Struct, frozen=True, kw_only=True):
    """Any of them: which fields there are follows from the type."""

    type: str
    sequence_number: int
    response: ResponseObject | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    item: OutputItem | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    part: OutputText | ReasoningText | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    logprobs: list[ChatLogprob] | UnsetType = UNSET


class _Open:
    """The item that is being said."""

    def __init__(self, first: OutputItem) -> None:
        self.first = first
        self.texts: list[str] = []
        self.logprobs: list[ChatLogprob] = []

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Rendering:
    """`response` is the answer so far, whole items only; whole once an `Ended` was rendered.

    The events of one answer: `begin`, `render` for each event, and `cancel` or `fail` if it does not come to
    its end.
    """

    def __init__(self, response: ResponseObject, *, encrypts: bool) -> None:
        self.response = response
        self._encrypts = encrypts
        self._open: _Open | None = None
        self._output: list[OutputItem] = []
        self._number = 0

    def begin(self) -> Iterator[StreamEvent]:
        yield self._event("response.created", response=self.response)
        if self.response.status == QUEUED:
            yield self._event("response.queued", response=self.response)
            self.response = msgspec.structs.replace(self.response, status=IN_PROGRESS)
        yield self._event("response.in_progress", response=self.response)

    def render(self, event: Event) -> Iterator[StreamEvent]:
        match event:
            case Text(text, logprobs):
                yield from self._say(MessageItem, text, logprobs)
            case Thinking(text):
                yield from self._say(ReasoningItem, text, None)
            case CallBegun(_, identity, name):
                yield from self._begin_item(
                    CallItem(id=new_id("fc"), call_id=identity, name=name, arguments="", status="in_progress")
                )
            case CallArguments(_, text) if text:
                yield from self._add_arguments(text)
            case Ended():
                yield from self._end(event)

    def cancel(self) -> None:
        """What was said so far stays, as incomplete."""
        for _ in self._end_item("incomplete"):
            pass  # nobody reads on
        self.response = ended(self.response, CANCELLED, output=self._output)

    def fail(self, error: LlamaleonError) -> Iterator[StreamEvent]:
        yield from self._end_item("incomplete")
        self.response = failed(msgspec.structs.replace(self.response, output=self._output), error)
        yield self._event("response.failed", response=self.response)

    # ------------------------------------------------------------ inside

    def _event(self, kind: str, **fields: Any) -> StreamEvent:
        self._number += 1
        return StreamEvent(type=kind, sequence_number=self._number - 1, **fields)

    def _of_item(self, kind: str, **fields: Any) -> StreamEvent:
        """An event about what is being said."""
        assert self._open is not None
        return self._event(kind, output_index=len(self._output), item_id=self._open.first.id, **fields)

    def _say(
        self, kind: type[MessageItem] | type[ReasoningItem], text: str, logprobs: list[TokenLogprob] | None
    ) -> Iterator[StreamEvent]:
        if self._open is None or not isinstance(self._open.first, kind):
            yield from self._begin_item(_empty(kind))
        assert self._open is not None
        if kind is ReasoningItem:
            self._open.texts.append(text)
            yield self._of_item("response.reasoning_text.delta", content_index=0, delta=text)
            return
        found = chat_logprobs(logprobs or ()).content
        self._open.texts.append(text)
        self._open.logprobs += found
        if text or found:
            yield self._of_item("response.output_text.delta", content_index=0, delta=text, logprobs=found)

    def _add_arguments(self, text: str) -> Iterator[StreamEvent]:
        assert self._open is not None, "arguments follow the beginning of their call"
        self._open.texts.append(text)
        yield self._of_item("response.function_call_arguments.delta", delta=text)

    def _begin_item(self, item: OutputItem) -> Iterator[StreamEvent]:
        yield from self._end_item("completed")
        self._open = _Open(item)
        yield self._event("response.output_item.added", output_index=len(self._output), item=item)
        if not isinstance(item, CallItem):
            part = ReasoningText("") if isinstance(item, ReasoningItem) else OutputText(text="")
            yield self._of_item("response.content_part.added", content_index=0, part=part)

    def _end_item(self, status: Status) -> Iterator[StreamEvent]:
        if self._open is None:
            return
        text = self._open.text
        match self._open.first:
            case MessageItem() as first:
                logprobs = self._open.logprobs
                part = OutputText(text=text, logprobs=logprobs)
                item: OutputItem = msgspec.structs.replace(first, status=status, content=[part])
                yield self._of_item(
                    "response.output_text.done", content_index=0, text=text, logprobs=logprobs
                )
                yield self._of_item("response.content_part.done", content_index=0, part=part)
            case ReasoningItem() as first:
                thought = ReasoningText(text)
                blob = encrypted(text) if self._encrypts else None
                item = msgspec.structs.replace(
                    first, status=status, content=[thought], encrypted_content=blob
                )
                yield self._of_item("response.reasoning_text.done", content_index=0, text=text)
                yield self._of_item("response.content_part.done", content_index=0, part=thought)
            case CallItem() as first:
                item = msgspec.structs.replace(first, status=status, arguments=text)
                yield self._of_item("response.function_call_arguments.done", arguments=text, name=first.name)
        yield self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = None

    def _end(self, event: Ended) -> Iterator[StreamEvent]:
        if not self._output and self._open is None:  # it had nothing to say, and says that
            yield from self._begin_item(_empty(MessageItem))
        cut = event.reason == "length"
        yield from self._end_item("incomplete" if cut else "completed")
        status = INCOMPLETE if cut else COMPLETED
        self.response = ended(
            self.response,
            status,
            output=self._output,
            incomplete_details=IncompleteDetails("max_output_tokens") if cut else None,
            usage=usage_of(event.finish, event.thinking_tokens),
            timings=timings_of(event.finish),
        )
        yield self._event(f"response.{status}", response=self.response)


def _empty(kind: type[MessageItem] | type[ReasoningItem]) -> OutputItem:
    if kind is ReasoningItem:
        return ReasoningItem(id=new_id("rs"), status="in_progress")
    return MessageItem(id=new_id("msg"), role="assistant", status="in_progress", content=[])
