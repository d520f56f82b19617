"""The messages of `/v1/chat/completions`, and what chat templates make of them."""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct

from llamaleon_server.chat.ask import Message as TemplateMessage
from llamaleon_server.engine.protocol import MEDIA_MARKER
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.arguments import json_object
from llamaleon_server.wire.decode import bytes_of, is_set, refuse

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
WORDS_ONLY = "this server reads and writes text and reads images, nothing else."
MAX_IMAGE_BYTES = 32 * 1024 * 1024

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+(?:;[^;,]*)*;base64,", re.I)


class ImageUrl(Struct, frozen=True, kw_only=True):
    url: str
    detail: str | None = None  # without effect: the projector decides


class ContentPart(Struct, frozen=True, kw_only=True):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None


class CalledFunction(Struct, frozen=True, kw_only=True):
    """`arguments` is JSON text; an object is understood too."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCall(Struct, frozen=True, kw_only=True):
    id: str | None = None
    type: str = "function"
    function: CalledFunction | None = None


class Message(Struct, frozen=True, kw_only=True):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None  # as DeepSeek, llama-server and vLLM have it
    reasoning: str | None = None  # OpenRouter's and newer vLLM's name of it
    function_call: CalledFunction | None = None  # legacy
    audio: Any = None


class Images:
    """Of all messages, in their order: bytes, and where each stands in the request."""

    def __init__(self) -> None:
        self.media: list[bytes] = []
        self.fields: list[str] = []


def template_messages(messages: list[Message], images: Images) -> list[TemplateMessage]:
    """As chat templates want them: `system` for OpenAI's newer `developer`, arguments as objects.

    Raises:
        BadRequest: a role, a content part or a tool call that cannot be honoured, with its place.
    """
    return [_message(message, f"messages[{at}]", images) for at, message in enumerate(messages)]


def _message(message: Message, place: str, images: Images) -> TemplateMessage:
    if message.role not in ROLES:
        raise BadRequest(
            f"`{place}.role`: {message.role!r} is none of {', '.join(ROLES)}.", param=f"{place}.role"
        )
    if is_set(message.audio):
        raise refuse(f"{place}.audio", WORDS_ONLY)
    if message.content is None and message.role != "assistant":
        raise BadRequest(f"`{place}.content` is required.", param=f"{place}.content")
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    rendered: TemplateMessage = {"role": role, "content": _content(message, place, images)}
    if message.name is not None:
        rendered["name"] = message.name
    if role == "tool":
        # A result of a legacy function call has only the function's name.
        rendered["tool_call_id"] = message.tool_call_id or message.name or ""
    if role == "assistant":
        rendered |= _answered(message, place)
    elif is_set(message.tool_calls) or message.function_call is not None:
        raise BadRequest(
            f"`{place}.tool_calls`: only a message of the assistant has calls.", param=f"{place}.tool_calls"
        )
    return rendered


def _answered(message: Message, place: str) -> TemplateMessage:
    more: TemplateMessage = {}
    calls = [_call(call, f"{place}.tool_calls[{at}]") for at, call in enumerate(message.tool_calls or ())]
    if message.function_call is not None:
        function = _function(message.function_call, f"{place}.function_call")
        calls.append({"id": function["name"], "type": "function", "function": function})
    if calls:
        more["tool_calls"] = calls
    if thinking := message.reasoning_content or message.reasoning:
        more["reasoning_content"] = thinking
    return more


def _call(call: ToolCall, place: str) -> dict[str, Any]:
    if call.type != "function":
        raise refuse(f"{place}.type", f"calls of type {call.type!r}; only `function` is.")
    if call.function is None:
        raise BadRequest(f"`{place}.function` is required.", param=f"{place}.function")
    function = _function(call.function, f"{place}.function")
    return {"id": call.id or function["name"], "type": "function", "function": function}


def _function(called: CalledFunction, place: str) -> dict[str, Any]:
    arguments = called.arguments
    if isinstance(arguments, str):
        arguments = json_object(arguments)
    elif arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise BadRequest(f"`{place}.arguments`: not the JSON text of an object.", param=f"{place}.arguments")
    return {"name": called.name, "arguments": arguments}


def _content(message: Message, place: str, images: Images) -> str:
    """Images are marks in the text, as llama-server has them; the engine puts the pictures there."""
    if not isinstance(message.content, list):
        return message.content or message.refusal or ""
    texts = []
    for index, part in enumerate(message.content):
        field = f"{place}.content[{index}]"
        if part.type == "text":
            texts.append(_given(part.text, f"{field}.text"))
        elif part.type == "refusal" and message.role == "assistant":
            texts.append(_given(part.refusal, f"{field}.refusal"))
        elif part.type == "image_url" and message.role in ("user", "tool"):
            url = part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url
            images.media.append(image_of(_given(url, f"{field}.image_url"), f"{field}.image_url.url"))
            images.fields.append(field)
            texts.append(MEDIA_MARKER)
        else:
            raise refuse(f"{field}.type", f"content parts of type {part.type!r}; {WORDS_ONLY}")
    return "".join(texts)


def _given(text: str | None, field: str) -> str:
    if text is None:
        raise BadRequest(f"`{field}` is required.", param=field)
    return text


def image_of(url: str, field: str) -> bytes:
    found = _DATA_URL.match(url)
    if found is None:
        raise BadRequest(
            f"`{field}`: only data URLs of images (data:image/png;base64,...) are read, nothing is fetched.",
            param=field,
        )
    if len(url) > MAX_IMAGE_BYTES * 4 // 3 + 100:
        raise BadRequest(f"`{field}`: an image has at most {MAX_IMAGE_BYTES} bytes.", param=field)
    return bytes_of(url[found.end() :], field)
