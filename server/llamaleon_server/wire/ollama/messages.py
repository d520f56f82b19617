"""Ollama's messages and tools in the form that chat templates want."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from llamaleon_server.chat import ask
from llamaleon_server.engine.protocol import MEDIA_MARKER
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import bytes_of, refuse

ROLES = ("system", "user", "assistant", "tool")


class CalledFunction(Struct, frozen=True, kw_only=True):
    name: str
    arguments: dict[str, Any] = {}


class ToolCall(Struct, frozen=True, kw_only=True):
    id: str | None = None
    function: CalledFunction


class Message(Struct, frozen=True, kw_only=True):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Function(Struct, frozen=True, kw_only=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Struct, frozen=True, kw_only=True):
    type: str | None = "function"
    function: Function


class Turns:
    """Messages in template form as they are added, with the images that their markers stand for."""

    def __init__(self) -> None:
        self.messages: list[ask.Message] = []
        self.images: list[bytes] = []
        self.places: list[str] = []
        self._open: list[tuple[str, str]] = []  # (id, name) of calls without a result yet
        self._calls = 0

    def add(self, message: Message, place: str) -> None:
        """Raises: BadRequest naming the field."""
        role = message.role.lower()
        if role not in ROLES:
            raise BadRequest(
                f"`{place}.role`: {message.role!r} is none of {', '.join(ROLES)}.", param=f"{place}.role"
            )
        content = self.seen(message.content or "", message.images or [], f"{place}.images")
        turn: ask.Message = {"role": role, "content": content}
        if role == "assistant":
            if message.thinking:
                turn["reasoning_content"] = message.thinking
            if message.tool_calls:
                turn["tool_calls"] = [self._call(call) for call in message.tool_calls]
        elif role == "tool":
            turn |= self._answered(message)
        self.messages.append(turn)

    def seen(self, text: str, images: list[str], place: str) -> str:
        """The text after the markers of its images. Raises: BadRequest."""
        for index, image in enumerate(images):
            self.images.append(bytes_of(image, f"{place}[{index}]"))
            self.places.append(f"{place}[{index}]")
        return "\n".join([MEDIA_MARKER] * len(images) + ([text] if text else []))

    def _call(self, call: ToolCall) -> dict[str, Any]:
        self._calls += 1
        # Nine letters and digits: what Mistral's templates insist on. Ollama's clients often send none.
        identity = call.id or f"call{self._calls:05d}"
        self._open.append((identity, call.function.name))
        function = {"name": call.function.name, "arguments": call.function.arguments}
        return {"id": identity, "type": "function", "function": function}

    def _answered(self, result: Message) -> dict[str, Any]:
        """Which call this is the result of: by id, else by name, else the first that has none."""
        wanted = (result.tool_call_id, result.tool_name)
        for at, (identity, name) in enumerate(self._open):
            if wanted == (None, None) or identity == wanted[0] or (wanted[0] is None and name == wanted[1]):
                del self._open[at]
                return {"tool_call_id": identity, "name": name}
        given = {"tool_call_id": result.tool_call_id, "name": result.tool_name}
        return {key: value for key, value in given.items() if value is not None}


def tools_of(tools: list[Tool]) -> tuple[ask.Tool, ...]:
    """Raises: BadRequest naming the field."""
    found: dict[str, ask.Tool] = {}
    for index, tool in enumerate(tools):
        if tool.type not in (None, "function"):
            raise refuse(f"tools[{index}].type", f"{tool.type!r}; only `function` is.")
        function = tool.function
        if not function.name or function.name in found:
            place = f"tools[{index}].function.name"
            raise BadRequest(f"`{place}` must be a name of its own.", param=place)
        found[function.name] = ask.Tool(
            name=function.name,
            description=function.description,
            parameters=function.parameters,
            field=f"tools[{index}].function.parameters",
        )
    return tuple(found.values())
