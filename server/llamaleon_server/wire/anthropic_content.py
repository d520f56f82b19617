"""Anthropic's messages, which are lists of typed blocks, in the form that chat templates want.

A user's message may hold results of tools, which become messages of their own before its text; consecutive
messages of one role become one, as at Anthropic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct

from llamaleon_server.chat.ask import Message
from llamaleon_server.engine.protocol import MEDIA_MARKER
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.anthropic_signature import thinking_of
from llamaleon_server.wire.decode import bytes_of, refuse

IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
# What Claude Code puts first in its system prompt: accounting, with a number that changes with every request
# and would so keep the whole prompt from being found in the prefix cache.
BILLING = "x-anthropic-billing-header:"


class Citations(Struct, frozen=True):
    enabled: bool | None = None


class Source(Struct, frozen=True, kw_only=True):
    """Of an image or a document."""

    type: str
    media_type: str | None = None
    data: str | None = None
    content: str | list[Block] | None = None


class Block(Struct, frozen=True, kw_only=True):
    """Any block; which fields it needs follows from its type. `cache_control` and the like are ignored."""

    type: str
    text: str | None = None
    source: Source | str | None = None  # text: of a search result
    title: str | None = None
    context: str | None = None
    citations: Citations | list[Any] | None = None  # a list: those of an answer, given back
    thinking: str | None = None
    signature: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None


class InputMessage(Struct, frozen=True, kw_only=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


@dataclass
class Said:
    """`continues`: the last message is the beginning of the answer."""

    messages: list[Message] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # of the tools that were called, by the call's id

    @property
    def media(self) -> tuple[bytes, ...]:
        return tuple(self.images)

    @property
    def media_fields(self) -> tuple[str, ...]:
        return tuple(self.places)

    @property
    def continues(self) -> bool:
        return bool(self.messages[-1]["role"] == "assistant")


def conversation_of(system: str | list[Block] | None, messages: list[InputMessage]) -> Said:
    """Raises: BadRequest with the place of the block that cannot be honoured."""
    said = Said()
    if system:
        _add(said, "system", _text(said, _blocks(system), "system"))
    if not messages:
        raise BadRequest("`messages` must not be empty.", param="messages")
    for index, message in enumerate(messages):
        place = f"messages[{index}].content"
        blocks = _blocks(message.content)
        if message.role == "assistant":
            _assistant(said, blocks, place)
        elif message.role == "user":
            _user(said, blocks, place)
        else:
            _add(said, "system", _text(said, blocks, place))
    _check_end(said, len(messages) - 1)
    return said


def _check_end(said: Said, last: int) -> None:
    if said.messages[-1].get("tool_calls"):
        place = f"messages[{last}].content"
        raise BadRequest(f"`{place}`: the calls in it have no `tool_result` after them.", param=place)


def _blocks(content: str | list[Block]) -> list[Block]:
    return [Block(type="text", text=content)] if isinstance(content, str) else content


def _user(said: Said, blocks: list[Block], place: str) -> None:
    rest = []
    for index, block in enumerate(blocks):
        if block.type == "tool_result":
            _tool_result(said, block, f"{place}[{index}]")
        else:
            rest.append((index, block))
    texts = [_part(said, block, f"{place}[{index}]") for index, block in rest]
    if texts:
        _add(said, "user", _joined(texts))
    elif not blocks:
        raise BadRequest(f"`{place}` must not be empty.", param=place)


def _tool_result(said: Said, block: Block, place: str) -> None:
    call = _required(block.tool_use_id, f"{place}.tool_use_id")
    if call not in said.names:
        raise BadRequest(
            f"`{place}.tool_use_id`: no `tool_use` block before it has the id {call!r}.",
            param=f"{place}.tool_use_id",
        )
    text = _text(said, _blocks(block.content or ""), f"{place}.content")
    if block.is_error:
        text = f"Error: {text}"
    said.messages.append({"role": "tool", "tool_call_id": call, "name": said.names[call], "content": text})


def _assistant(said: Said, blocks: list[Block], place: str) -> None:
    texts, thoughts, calls = [], [], []
    for index, block in enumerate(blocks):
        where = f"{place}[{index}]"
        match block.type:
            case "thinking":
                thoughts.append(thinking_of(_required(block.thinking, f"{where}.thinking"), block.signature))
            case "redacted_thinking":
                pass  # encrypted by whoever made it: nobody else can read it
            case "tool_use":
                calls.append(_call(said, block, where))
            case _:
                texts.append(_part(said, block, where))
    message = _add(said, "assistant", _joined(texts))
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = [*message.get("tool_calls", []), *calls]


def _call(said: Said, block: Block, place: str) -> dict[str, Any]:
    identity, name = _required(block.id, f"{place}.id"), _required(block.name, f"{place}.name")
    if block.input is None:
        raise BadRequest(f"`{place}.input` is required.", param=f"{place}.input")
    said.names[identity] = name
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": block.input}}


def _add(said: Said, role: str, text: str) -> Message:
    """Another message, or more of the last one if that was the same role's."""
    if said.messages and said.messages[-1]["role"] == role:
        last = said.messages[-1]
        last["content"] = _joined([last["content"], text])
        return last
    said.messages.append({"role": role, "content": text})
    return said.messages[-1]


def _text(said: Said, blocks: list[Block], place: str) -> str:
    return _joined([_part(said, block, f"{place}[{index}]") for index, block in enumerate(blocks)])


def _joined(texts: list[str]) -> str:
    """Blocks are paragraphs of their own: without a break two sentences would run into one another."""
    return "\n".join(text for text in texts if text)


def _part(said: Said, block: Block, place: str) -> str:
    """One block as text; an image as the marker that stands for it."""
    if isinstance(block.citations, Citations) and block.citations.enabled:
        raise refuse(f"{place}.citations", "this server's models do not cite.")
    match block.type:
        case "text":
            text = _required(block.text, f"{place}.text")
            return "" if text.startswith(BILLING) else text
        case "image":
            return _image(said, block, place)
        case "document":
            return _document(said, block, place)
        case "search_result":
            source = block.source if isinstance(block.source, str) else None
            head = [block.title or "", _required(source, f"{place}.source")]
            return _joined([*head, _text(said, _blocks(block.content or ""), f"{place}.content")])
    raise refuse(f"{place}.type", f"blocks of type {block.type!r} in this place.")


def _image(said: Said, block: Block, place: str) -> str:
    source = _source(block, place)
    if source.type != "base64":
        raise refuse(f"{place}.source.type", f"{source.type!r}; send the image itself, as `base64`.")
    if source.media_type not in IMAGES:
        raise BadRequest(
            f"`{place}.source.media_type`: {source.media_type!r} is none of {', '.join(IMAGES)}.",
            param=f"{place}.source.media_type",
        )
    said.images.append(bytes_of(_required(source.data, f"{place}.source.data"), f"{place}.source.data"))
    said.places.append(place)
    return MEDIA_MARKER


def _document(said: Said, block: Block, place: str) -> str:
    source = _source(block, place)
    head = [block.title or "", block.context or ""]
    if source.type == "text":
        return _joined([*head, _required(source.data, f"{place}.source.data")])
    if source.type == "content" and source.content is not None:
        return _joined([*head, _text(said, _blocks(source.content), f"{place}.source.content")])
    raise refuse(f"{place}.source.type", f"{source.type!r}; of documents only `text` and `content` are.")


def _source(block: Block, place: str) -> Source:
    if not isinstance(block.source, Source):
        raise BadRequest(f"`{place}.source` must be an object.", param=f"{place}.source")
    return block.source


def _required(value: str | None, place: str) -> str:
    if value is None:
        raise BadRequest(f"`{place}` is required.", param=place)
    return value
