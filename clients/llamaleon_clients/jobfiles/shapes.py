"""Rows in the shapes of Axolotl's data set types, as rows of ours. Pure.

Every function takes a row and gives one of ours; what a row lacks is a `Lacking` with the column's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamaleon_clients.words import say

Row = dict[str, Any]
Rewrite = Callable[[Row], Row]
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}


class Lacking(ValueError):
    """A row without something; the message says what."""


# Axolotl's instruction types: the columns of the system prompt, instruction, input and answer.
COLUMNS: dict[str, tuple[str | None, str, str | None, str]] = {
    "alpaca": (None, "instruction", "input", "output"),
    "alpaca_chat.load_concise": (None, "instruction", "input", "output"),
    "alpaca_chat.load_qa": (None, "question", None, "answer"),
    "alpaca_chat.load_camel_ai": (None, "message_1", None, "message_2"),
    "alpaca_w_system.load": ("system", "instruction", "input", "output"),
    "alpaca_w_system.load_open_orca": ("system_prompt", "question", None, "response"),
    "gpteacher": (None, "instruction", "input", "response"),
    "oasst": (None, "INSTRUCTION", None, "RESPONSE"),
}
# Its preference types: the columns of the system prompt, prompt, liked and disliked answer.
PREFERENCES: dict[str, tuple[str | None, str, str, str]] = {
    "intel": ("system", "question", "chosen", "rejected"),
    "intel_apply_chatml": ("system", "question", "chosen", "rejected"),
    "argilla": (None, "instruction", "chosen_response", "rejected_response"),
    "argilla_chat": (None, "instruction", "chosen_response", "rejected_response"),
    "prompt_pairs": ("system", "prompt", "chosen", "rejected"),
    "ultra": (None, "prompt", "chosen", "rejected"),
    "icr": ("system", "input", "chosen", "rejected"),
}


def instruction(columns: tuple[str | None, str, str | None, str]) -> Rewrite:
    system, asked, given, answer = columns

    def rewrite(row: Row) -> Row:
        content = _text(row, asked)
        if given is not None and str(row.get(given) or "").strip():
            content = f"{content}\n\n{row[given]}"
        messages = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": _text(row, answer)},
        ]
        if system is not None and row.get(system):
            messages.insert(0, {"role": "system", "content": _text(row, system)})
        return {"messages": messages}

    return rewrite


def chat(
    field: str | None = None,
    properties: Mapping[str, str] | None = None,
    roles: Mapping[str, Sequence[str]] | None = None,
    trained: str | None = None,
    tools: str | None = None,
    *,
    drop_system: bool = False,
) -> Rewrite:
    """`messages` or ShareGPT's `conversations`; `properties` and `roles` as Axolotl writes them.

    `trained`: the key of a message that says whether it is learnt.
    """
    properties = properties or {}
    names = {**ROLES, **{source: role for role, sources in (roles or {}).items() for source in sources}}

    def message(value: Any) -> Row:
        if not isinstance(value, dict):
            raise Lacking(say("a message must be an object"))
        role = _first(value, properties.get("role"), "role", "from")
        content = _first(value, properties.get("content"), "content", "value")
        made = {key: kept for key, kept in value.items() if key in ("tool_calls", "tool_call_id", "name")}
        made |= {"role": names.get(str(role), str(role)), "content": content}
        if trained is not None and trained in value and made["role"] == "assistant":
            made["weight"] = int(bool(value[trained]))
        return made

    def rewrite(row: Row) -> Row:
        found = _first(row, field, "messages", "conversations")
        if not isinstance(found, list):
            raise Lacking(say("its messages must be a list"))
        messages = [message(value) for value in found]
        if drop_system:
            messages = [one for one in messages if one["role"] != "system"]
        listed = row.get(tools or "tools")
        return {"messages": messages, **({"tools": listed} if listed else {})}

    return rewrite


def text(field: str) -> Rewrite:
    return lambda row: {"text": _text(row, field)}


def formatted(settings: Mapping[str, Any]) -> Rewrite:
    """Axolotl's own prompt format: raw text before the answer, no chat template."""
    asked = str(settings.get("field_instruction") or "instruction")
    given = str(settings.get("field_input") or "input")
    answer = str(settings.get("field_output") or "output")
    with_input = str(settings.get("format") or "{instruction} {input}")
    without = str(settings.get("no_input_format") or "{instruction}")
    before = str(settings.get("system_prompt") or "")
    if before and settings.get("system_format"):
        before = _filled(str(settings["system_format"]), {"system": before})

    def rewrite(row: Row) -> Row:
        extra = str(row.get(given) or "")
        fields = {"instruction": _text(row, asked), "input": extra}
        return {
            "prompt": before + _filled(with_input if extra else without, fields),
            "completion": _text(row, answer),
        }

    return rewrite


def preference(columns: tuple[str | None, str, str, str]) -> Rewrite:
    """Into OpenAI's shape, where it is certain that the chat template is applied."""
    system, prompt, chosen, rejected = columns

    def rewrite(row: Row) -> Row:
        messages = [{"role": "user", "content": _text(row, prompt)}]
        if system is not None and row.get(system):
            messages.insert(0, {"role": "system", "content": _text(row, system)})
        return {
            "input": {"messages": messages},
            "preferred_output": [_answer(row, chosen)],
            "non_preferred_output": [_answer(row, rejected)],
        }

    return rewrite


def _answer(row: Row, column: str) -> Row:
    """A text, a message, or a conversation that ends with it."""
    value = row.get(column)
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        value = value.get("content", value.get("value"))
    if not isinstance(value, str) or not value.strip():
        raise Lacking(say("`{column}` is missing or empty", column=column))
    return {"role": "assistant", "content": value}


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise Lacking(say("`{column}` is missing or empty", column=column))
    return value


def _first(value: Row, *names: str | None) -> Any:
    """Of the first name that is given and there; one that was asked for by name must be there."""
    if names[0] is not None:
        names = names[:1]
    for name in names:
        if name is not None and value.get(name) is not None:
            return value[name]
    asked = " / ".join(f"`{name}`" for name in names if name is not None)
    raise Lacking(say("{columns} is missing", columns=asked))


def _filled(template: str, fields: Mapping[str, str]) -> str:
    """Only `{name}` of a known field is one, `{{` and `}}` are braces; any other brace is text."""

    def put(found: re.Match[str]) -> str:
        return found[0][0] if found["name"] is None else fields.get(found["name"], found[0])

    return re.sub(r"\{\{|\}\}|\{(?P<name>\w+)\}", put, template)
