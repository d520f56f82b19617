"""Items: what goes into a response and comes out of it. Stored as they are here, in OpenAI's words."""

from __future__ import annotations

import base64
import uuid
from typing import Any, Literal

import msgspec
from msgspec import Struct

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.arguments import json_object
from llamaleon_server.wire.chat_messages import image_of
from llamaleon_server.wire.decode import convert, refuse
from llamaleon_server.wire.logprobs import ChatLogprob

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Struct, frozen=True, tag="input_text", tag_field="type"):
    text: str


class InputImage(Struct, frozen=True, kw_only=True, tag="input_image", tag_field="type"):
    """`detail` has no effect: the model's projector decides how closely it looks."""

    image_url: str  # a data URL
    detail: str = "auto"


class OutputText(Struct, frozen=True, kw_only=True, tag="output_text", tag_field="type"):
    text: str
    annotations: list[Any] = []
    logprobs: list[ChatLogprob] = []


class Refusal(Struct, frozen=True, tag="refusal", tag_field="type"):
    """Other servers' models refuse in a field of its own; ours do in their text."""

    refusal: str


Part = InputText | InputImage | OutputText | Refusal


class MessageItem(Struct, frozen=True, kw_only=True, tag="message", tag_field="type"):
    id: str
    role: Literal["user", "assistant", "system", "developer"]
    status: Status = "completed"
    content: list[Part]


class CallItem(Struct, frozen=True, kw_only=True, tag="function_call", tag_field="type"):
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status = "completed"


class CallOutputItem(Struct, frozen=True, kw_only=True, tag="function_call_output", tag_field="type"):
    id: str
    call_id: str
    output: str | list[InputText | InputImage]
    status: Status = "completed"


class SummaryText(Struct, frozen=True, tag="summary_text", tag_field="type"):
    text: str


class ReasoningText(Struct, frozen=True, tag="reasoning_text", tag_field="type"):
    text: str


class ReasoningItem(Struct, frozen=True, kw_only=True, tag="reasoning", tag_field="type"):
    """`encrypted_content` is base64 of the text: that stands in `content` in clear, so nothing is hidden."""

    id: str
    summary: list[SummaryText] = []
    content: list[ReasoningText] = []
    encrypted_content: str | None = None
    status: Status = "completed"

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content)


Item = MessageItem | CallItem | CallOutputItem | ReasoningItem
OutputItem = MessageItem | CallItem | ReasoningItem


class Reference(Struct, frozen=True):
    """An item that is stored already, and where it is named."""

    id: str
    place: str


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


_STORED: msgspec.json.Decoder[Item] = msgspec.json.Decoder(Item)


def decode_item(text: str) -> Item:
    """A stored one."""
    return _STORED.decode(text)


# ---------------------------------------------------------------- as clients send them


class _Given(Struct, frozen=True, kw_only=True):
    id: str | None = None


class _GivenMessage(_Given, frozen=True, kw_only=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]


class _GivenCall(_Given, frozen=True, kw_only=True):
    call_id: str
    name: str
    arguments: str
    status: Status | None = None


class _GivenOutput(_Given, frozen=True, kw_only=True):
    call_id: str
    output: str | list[dict[str, Any]]


class _GivenReasoning(_Given, frozen=True, kw_only=True):
    summary: list[SummaryText] = []
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None


class _GivenReference(Struct, frozen=True, kw_only=True):
    id: str


def parse_items(given: str | list[dict[str, Any]], place: str = "input") -> list[Item | Reference]:
    """Items with an id each. Raises: BadRequest naming the field, with its place."""
    if isinstance(given, str):
        return [MessageItem(id=new_id("msg"), role="user", content=[InputText(given)])]
    return [_parse_item(item, f"{place}[{index}]") for index, item in enumerate(given)]


def _parse_item(item: dict[str, Any], place: str) -> Item | Reference:
    kind = item.get("type") or ("message" if "role" in item else "item_reference" if "id" in item else None)
    match kind:
        case "message":
            message = convert(item, _GivenMessage, place)
            return MessageItem(
                id=message.id or new_id("msg"), role=message.role, content=_parts(message, f"{place}.content")
            )
        case "function_call":
            call = convert(item, _GivenCall, place)
            arguments_of(call.arguments, f"{place}.arguments")
            return CallItem(
                id=call.id or new_id("fc"), call_id=call.call_id, name=call.name, arguments=call.arguments
            )
        case "function_call_output":
            output = convert(item, _GivenOutput, place)
            return CallOutputItem(
                id=output.id or new_id("fco"),
                call_id=output.call_id,
                output=_output(output.output, f"{place}.output"),
            )
        case "reasoning":
            return _reasoning(convert(item, _GivenReasoning, place), place)
        case "item_reference":
            return Reference(convert(item, _GivenReference, place).id, f"{place}.id")
        case None:
            raise BadRequest(f"`{place}.type` is required.", param=f"{place}.type")
    raise refuse(f"{place}.type", f"items of type {kind!r}.")


def _parts(message: _GivenMessage, place: str) -> list[Part]:
    if isinstance(message.content, str):
        text = message.content
        return [OutputText(text=text) if message.role == "assistant" else InputText(text)]
    return [
        _part(part, message.role == "assistant", f"{place}[{index}]")
        for index, part in enumerate(message.content)
    ]


def _part(part: dict[str, Any], assistant: bool, place: str) -> Part:
    match part.get("type"):
        case "refusal":
            return convert(part, Refusal, place)
        case "input_text" | "output_text" | "text":
            text = part.get("text")
            if not isinstance(text, str):
                raise BadRequest(f"`{place}.text` is required, as a text.", param=f"{place}.text")
            return OutputText(text=text) if assistant else InputText(text)
        case "input_image" if not assistant:
            if part.get("file_id") is not None:
                raise refuse(f"{place}.file_id", "send the image itself, as a data URL in `image_url`.")
            image = convert(part, InputImage, place)
            image_of(image.image_url, f"{place}.image_url")
            return image
        case kind:
            raise refuse(f"{place}.type", f"content parts of type {kind!r}.")


def _output(output: str | list[dict[str, Any]], place: str) -> str | list[InputText | InputImage]:
    if isinstance(output, str):
        return output
    parts = [_part(part, False, f"{place}[{index}]") for index, part in enumerate(output)]
    return [part for part in parts if isinstance(part, InputText | InputImage)]


def _reasoning(given: _GivenReasoning, place: str) -> ReasoningItem:
    content = given.content or []
    if not content and given.encrypted_content:
        content = [ReasoningText(_decrypted(given.encrypted_content, f"{place}.encrypted_content"))]
    return ReasoningItem(id=given.id or new_id("rs"), summary=given.summary, content=content)


def encrypted(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decrypted(content: str, field: str) -> str:
    try:
        return base64.b64decode(content, validate=True).decode()
    except ValueError as error:  # no base64, not even ASCII, or not of a text
        raise BadRequest(f"`{field}` was not made by this server.", param=field) from error


def arguments_of(text: str, field: str) -> dict[str, Any]:
    """Raises: BadRequest if it is not a JSON object."""
    arguments = json_object(text)
    if arguments is None:
        raise BadRequest(f"`{field}` is not the text of a JSON object.", param=field)
    return arguments
