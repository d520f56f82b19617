"""A conversation in OpenAI's items as the messages of a chat template."""

from __future__ import annotations

from collections.abc import Sequence

from llamaleon_server.chat.ask import Message
from llamaleon_server.engine.protocol import MEDIA_MARKER
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.chat_messages import Images, image_of
from llamaleon_server.wire.responses_items import (
    CallItem,
    CallOutputItem,
    InputImage,
    Item,
    MessageItem,
    Part,
    ReasoningItem,
    Refusal,
    arguments_of,
)


def messages_of(instructions: str | None, items: Sequence[Item], images: Images) -> list[Message]:
    """What the model reads; pictures go into `images`, and their marks into the text.

    What one turn of the model consists of (its reasoning, text and calls) is one message. Instructions and
    the system messages that follow them are one too: most templates know only one, and only in front.
    Calls that broke off are left out.

    Raises: BadRequest for the output of a call that is not there.
    """
    messages: list[Message] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    names: dict[str, str] = {}  # of calls, by their id
    for item in items:
        match item:
            case MessageItem(role="assistant"):
                _turn(messages)["content"] = _text(item.content, images)
            case MessageItem():
                _add_message(messages, item, images)
            case ReasoningItem() if item.text:
                _turn(messages)["reasoning_content"] = item.text
            case CallItem(status="completed"):
                names[item.call_id] = item.name
                _add_call(messages, item)
            case CallOutputItem():
                messages.append(_tool_message(item, names, images))
    return messages


def _add_message(messages: list[Message], item: MessageItem, images: Images) -> None:
    role = "user" if item.role == "user" else "system"  # `developer` is OpenAI's newer word for it
    text = _text(item.content, images)
    if role == "system" and len(messages) == 1 and messages[0]["role"] == "system":
        messages[0]["content"] += f"\n\n{text}"
    else:
        messages.append({"role": role, "content": text})


def _turn(messages: list[Message]) -> Message:
    """A message of the model that has said nothing yet, except for its reasoning."""
    last = _last(messages)
    if last["role"] != "assistant" or last["content"] or "tool_calls" in last:
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _last(messages: list[Message]) -> Message:
    return messages[-1] if messages else {"role": ""}


def _add_call(messages: list[Message], item: CallItem) -> None:
    function = {"name": item.name, "arguments": arguments_of(item.arguments, "input")}
    call = {"id": item.call_id, "type": "function", "function": function}
    last = _last(messages)
    turn = last if last["role"] == "assistant" else _turn(messages)
    turn.setdefault("tool_calls", []).append(call)


def _tool_message(item: CallOutputItem, names: dict[str, str], images: Images) -> Message:
    if item.call_id not in names:
        raise BadRequest(
            f"No tool call found for the function call output with call_id {item.call_id}.", param="input"
        )
    text = item.output if isinstance(item.output, str) else _text(item.output, images)
    return {"role": "tool", "tool_call_id": item.call_id, "name": names[item.call_id], "content": text}


def _text(parts: Sequence[Part], images: Images) -> str:
    return "".join(_part(part, images) for part in parts)


def _part(part: Part, images: Images) -> str:
    match part:
        case Refusal(text):
            return text
        case InputImage(image_url=url):
            images.media.append(image_of(url, "input"))
            images.fields.append("input")  # it may have come with an earlier request
            return MEDIA_MARKER
    return part.text
