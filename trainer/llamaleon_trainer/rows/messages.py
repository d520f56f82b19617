"""Messages as the shapes write them, made OpenAI's."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from .row import Malformed, kind

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
CALLING = "function_call"  # ShareGPT's role of an answer that is nothing but a call


class Keys(NamedTuple):
    """What a shape calls a message's role and its content, and its roles by ours."""

    role: str
    content: str
    roles: dict[str, str]


OPENAI = Keys("role", "content", {role: role for role in ROLES})
SHAREGPT = Keys(
    "from",
    "value",
    {
        **dict.fromkeys(("human", "user"), "user"),
        **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "bing", "bard", "chatbot"), "assistant"),
        "system": "system",
        **dict.fromkeys(("tool", "observation", "function_response", "ipython"), "tool"),
        CALLING: "assistant",
    },
)
VERTEX = Keys(
    "author", "content", {"user": "user", "model": "assistant", "bot": "assistant", "system": "system"}
)


def read_messages(value: Any, field: str, keys: Keys = OPENAI) -> list[dict[str, Any]]:
    """Raises: Malformed, naming the message and its field."""
    if not isinstance(value, list):
        raise Malformed(f"`{field}` must be a list of messages, not {kind(value)}")
    if not value:
        raise Malformed(f"`{field}` is empty")
    return [_message(message, f"{field}[{index}]", keys) for index, message in enumerate(value)]


def keys_of(value: Any) -> Keys:
    """By what the first of some messages has."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, dict) and "role" not in first:
        return SHAREGPT if "from" in first else VERTEX if "author" in first else OPENAI
    return OPENAI


def as_context(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "weight": 0} if message["role"] == "assistant" else message


def require_answer(messages: list[dict[str, Any]], field: str) -> None:
    """Raises: Malformed."""
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise Malformed(f"`{field}` has no assistant message: nothing to learn")
    if all(message.get("weight") == 0 for message in answers):
        raise Malformed(f"every assistant message of `{field}` has weight 0: nothing to learn")


def read_tools(value: Any) -> list[dict[str, Any]] | None:
    """A list, or the same written as JSON in a string. Raises: Malformed."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise Malformed(f"`tools` must be a list of objects, or that as JSON: {error}") from error
    if value and not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
        raise Malformed("`tools` must be a list of objects")
    return value or None


def _message(value: Any, where: str, keys: Keys) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(
            f"`{where}` must be an object with `{keys.role}` and `{keys.content}`, not {kind(value)}"
        )
    given = value.get(keys.role)
    role = keys.roles.get(given) if isinstance(given, str) else None
    if role is None:
        shown = "missing" if given is None else json.dumps(given, ensure_ascii=False, default=str)
        raise Malformed(f"`{where}.{keys.role}` is {shown}; expected one of {', '.join(keys.roles)}")
    if keys is not OPENAI:
        value = _renamed(value, where, keys, role)
    calls = value.get("tool_calls") or value.get("function_call")
    if calls is not None and role != "assistant":
        raise Malformed(f"`{where}` calls a tool, which only an assistant message may")
    if value.get("tool_calls") is not None:
        value = {**value, "tool_calls": _calls(value["tool_calls"], f"{where}.tool_calls")}
    content = _content(value.get("content"), f"{where}.{keys.content}")
    if not content.strip() and not calls and role not in ("tool", "function"):
        missing = value.get("content") is None
        raise Malformed(f"`{where}.{keys.content}` is {'missing' if missing else 'empty'}")
    weight = value.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1) or role != "assistant"):
        raise Malformed(f"`{where}.weight` must be 0 or 1, on an assistant message")
    return {**value, "content": content}


def _renamed(value: dict[str, Any], where: str, keys: Keys, role: str) -> dict[str, Any]:
    content = value.get(keys.content)
    rest = {key: one for key, one in value.items() if key not in (keys.role, keys.content)}
    if keys is SHAREGPT and value[keys.role] == CALLING:
        return {**rest, "role": role, "content": "", "tool_calls": _written_calls(content, where)}
    return {**rest, "role": role, "content": content}


def _written_calls(content: Any, where: str) -> list[dict[str, Any]]:
    """LLaMA-Factory's: `{"name", "arguments"}` as JSON in the value, or a list of them."""
    found: Any = None
    try:
        found = json.loads(content) if isinstance(content, str) else None
    except ValueError as error:
        raise Malformed(f"`{where}.value` must be a function call as JSON: {error}") from error
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise Malformed(f'`{where}.value` must be {{"name": ..., "arguments": ...}} as JSON')
    return [{"function": {"name": call["name"], "arguments": call.get("arguments", {})}} for call in calls]


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    """With the ids that templates refer to, where a file leaves them out."""
    if not isinstance(value, list):
        raise Malformed(f"`{where}` must be a list, not {kind(value)}")
    calls = []
    for index, call in enumerate(value):
        function = call.get("function") if isinstance(call, dict) else None
        if (
            not isinstance(call, dict)
            or not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
        ):
            raise Malformed(f"`{where}[{index}]` must be an object whose `function` has a `name`")
        function = {**function, "arguments": function.get("arguments") or "{}"}
        given = {"id": f"call_{index}", "type": "function"}
        present = {key: one for key, one in call.items() if one is not None}
        calls.append({**given, **present, "function": function})
    return calls


def _content(value: Any, where: str) -> str:
    """A message's text: a string, nothing, or OpenAI's list of text parts joined."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise Malformed(f"`{where}` must be a string or a list of text parts, not {kind(value)}")
    for index, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise Malformed(f'`{where}[{index}]` must be {{"type": "text", "text": ...}}')
    return "".join(part["text"] for part in value)
