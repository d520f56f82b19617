"""Tools and the choice among them in `/v1/chat/completions`, the legacy `functions` too."""

from __future__ import annotations

import re
from typing import Any, Literal

from msgspec import Struct

from llamaleon_server.chat.ask import Tool, ToolChoice
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import convert, refuse

MAX_TOOLS = 128
FUNCTIONS_ONLY = "this server calls functions only."

# Names stand unquoted in what some models write.
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


class Function(Struct, frozen=True, kw_only=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolParam(Struct, frozen=True, kw_only=True):
    type: str = "function"
    function: Function | None = None


class Named(Struct, frozen=True, kw_only=True):
    name: str


class NamedTool(Struct, frozen=True, kw_only=True):
    """`{"type": "function", "function": {"name": ...}}`"""

    type: str = "function"
    function: Named | None = None


class AllowedTools(Struct, frozen=True, kw_only=True):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class Choice(Struct, frozen=True, kw_only=True):
    """`function` to call that one, `allowed_tools` to choose among some."""

    type: str = "function"
    function: Named | None = None
    allowed_tools: AllowedTools | None = None


def tools_of(given: list[ToolParam] | None) -> tuple[Tool, ...]:
    """Raises: BadRequest naming the field."""
    tools = []
    for at, tool in enumerate(given or ()):
        if tool.type != "function":
            raise refuse(f"tools[{at}].type", f"tools of type {tool.type!r}; {FUNCTIONS_ONLY}")
        if tool.function is None:
            raise BadRequest(f"`tools[{at}].function` is required.", param=f"tools[{at}].function")
        tools.append(tool_of(tool.function, f"tools[{at}].function"))
    return distinct(tools, "tools")


def legacy_tools(functions: list[Function] | None) -> tuple[Tool, ...]:
    """Raises: BadRequest naming the field."""
    tools = [tool_of(function, f"functions[{at}]") for at, function in enumerate(functions or ())]
    return distinct(tools, "functions")


def choice_of(given: str | dict[str, Any] | None, tools: tuple[Tool, ...]) -> ToolChoice:
    """Raises: BadRequest naming the field."""
    if isinstance(given, dict):
        choice = _chosen(convert(given, Choice, "tool_choice"))
    elif given in (None, "auto", "none", "required"):
        choice = ToolChoice(given or "auto")  # type: ignore[arg-type]  # mypy does not narrow by `in`
    else:
        raise BadRequest(
            f"`tool_choice`: {given!r} is none of none, auto, required; or name a function.",
            param="tool_choice",
        )
    if choice.mode == "required" and not tools:
        raise BadRequest("`tool_choice`: there are no `tools` to call.", param="tool_choice")
    return known_choice(choice, tools, "tool_choice")


def legacy_choice(given: str | dict[str, Any] | None, tools: tuple[Tool, ...]) -> ToolChoice:
    """`function_call`. Raises: BadRequest naming the field."""
    if given in (None, "auto", "none"):
        return ToolChoice("none" if given == "none" else "auto")
    if isinstance(given, str):
        raise BadRequest(
            f"`function_call`: {given!r} is none of none, auto; or name a function.", param="function_call"
        )
    named = convert(given, Named, "function_call")
    return known_choice(ToolChoice("required", (named.name,)), tools, "function_call")


def _chosen(choice: Choice) -> ToolChoice:
    if choice.type == "function":
        if choice.function is None:
            raise BadRequest("`tool_choice.function` is required.", param="tool_choice.function")
        return ToolChoice("required", (choice.function.name,))
    if choice.type != "allowed_tools":
        raise refuse("tool_choice.type", f"{choice.type!r}; {FUNCTIONS_ONLY}")
    if choice.allowed_tools is None or not choice.allowed_tools.tools:
        place = "tool_choice.allowed_tools"
        raise BadRequest(f"`{place}` must name at least one tool.", param=place)
    names = []
    for at, tool in enumerate(choice.allowed_tools.tools):
        if tool.type != "function" or tool.function is None:
            raise refuse(f"tool_choice.allowed_tools.tools[{at}]", FUNCTIONS_ONLY)
        names.append(tool.function.name)
    return ToolChoice(choice.allowed_tools.mode, tuple(names))


def known_choice(choice: ToolChoice, tools: tuple[Tool, ...], field: str) -> ToolChoice:
    """Raises: BadRequest if it names a tool that is not there."""
    known = {tool.name for tool in tools}
    if unknown := [name for name in choice.names if name not in known]:
        raise BadRequest(f"`{field}`: there is no tool named {unknown[0]!r}.", param=field)
    return choice


def tool_of(function: Function, place: str) -> Tool:
    if not _NAME.fullmatch(function.name):
        raise BadRequest(
            f"`{place}.name`: 1 to 128 letters, digits, and any of _ - . : /, got {function.name!r}.",
            param=f"{place}.name",
        )
    return Tool(
        name=function.name,
        description=function.description,
        parameters=function.parameters,
        strict=bool(function.strict),
        field=f"{place}.parameters",
    )


def distinct(tools: list[Tool], field: str) -> tuple[Tool, ...]:
    if len(tools) > MAX_TOOLS:
        raise BadRequest(f"`{field}`: at most {MAX_TOOLS}, got {len(tools)}.", param=field)
    names = [tool.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadRequest(f"`{field}`: two are named {twice!r}.", param=field)
    return tuple(tools)
