"""Tools and the choice among them in `/v1/responses`, where a function's fields stand beside its type."""

from __future__ import annotations

from typing import Any

from llamaleon_server.chat.ask import Tool, ToolChoice
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.chat_tools import Function, distinct, known_choice, tool_of
from llamaleon_server.wire.decode import convert, refuse


def tools_of(given: list[dict[str, Any]]) -> tuple[Tool, ...]:
    """Raises: BadRequest naming the field; those that OpenAI hosts are refused by their type."""
    tools = []
    for at, tool in enumerate(given):
        place = f"tools[{at}]"
        if tool.get("type") != "function":
            raise refuse(
                f"{place}.type",
                f"tools of type {tool.get('type')!r}: this server runs none. Send `function` tools.",
            )
        tools.append(tool_of(convert(tool, Function, place), place))
    return distinct(tools, "tools")


def choice_of(given: str | dict[str, Any] | None, tools: tuple[Tool, ...]) -> ToolChoice:
    """Raises: BadRequest naming the field."""
    choice = _choice(given)
    if choice.mode == "required" and not tools:
        raise BadRequest("`tool_choice`: there are no `tools` to call.", param="tool_choice")
    return known_choice(choice, tools, "tool_choice")


def _choice(given: str | dict[str, Any] | None) -> ToolChoice:
    match given:
        case None:
            return ToolChoice()
        case "none" | "auto" | "required":
            return ToolChoice(given)
        case {"type": "function", "name": str(name)}:
            return ToolChoice("required", (name,))
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": [_, *_] as tools}:
            return ToolChoice(mode, tuple(_allowed(tool, at) for at, tool in enumerate(tools)))
        case {"type": "function" | "allowed_tools" as kind}:
            needed = "`name`" if kind == "function" else "`mode`, auto or required, and `tools`"
            raise BadRequest(f"`tool_choice` of type {kind!r} has {needed}.", param="tool_choice")
        case {"type": kind}:
            raise refuse("tool_choice.type", f"tools of type {kind!r}: this server runs none.")
    raise BadRequest(
        "`tool_choice` must be none, auto, required or an object with a `type`.", param="tool_choice"
    )


def _allowed(tool: Any, at: int) -> str:
    match tool:
        case {"type": "function", "name": str(name)}:
            return name
    raise refuse(f"tool_choice.tools[{at}]", "only functions can be allowed, each by its `name`.")
