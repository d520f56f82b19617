"""Qwen 3 Coder and Qwen 3.5: calls in XML-like marks, texts without quotes.

    <tool_call>
    <function=f>
    <parameter=a>
    value
    </parameter>
    </function>
    </tool_call>

Source: the chat template of Qwen/Qwen3-Coder-30B-A3B-Instruct.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llamaleon_server.chat.ask import Tool
from llamaleon_server.chat.dialects.dialect import Cut, Malformed, Marked, Reading, Setup, Steps, function
from llamaleon_server.chat.dialects.lark import Lark, quoted
from llamaleon_server.chat.dialects.parameters import (
    Schema,
    check_texts,
    choices,
    only_text,
    properties,
    required,
    types,
    value_of,
)

BEGIN, END = "<tool_call>", "</tool_call>"
FUNCTION, PARAMETER = "<function=", "<parameter="
LINE = r'"\n"'
FUNCTION_END, PARAMETER_END = "</function>", "\n</parameter>"


class QwenCoder(Marked):
    name = "qwen-coder"
    mark = BEGIN
    has_control_tokens = True  # in some vocabularies

    def detects(self, template: str) -> bool:
        return BEGIN in template and FUNCTION in template and PARAMETER in template

    def described(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        signatures = "\n".join(json.dumps(function(tool), ensure_ascii=False) for tool in tools)
        example = self.written([("example_function_name", {"example_parameter": "value"})])
        return (
            "# Tools\n\nYou have access to the following functions:\n\n"
            f"<tools>\n{signatures}\n</tools>\n\n"
            "If you choose to call a function ONLY reply in the following format with NO suffix:\n\n"
            f"{example}"
        )

    def written(self, calls: Sequence[tuple[str, Any]]) -> str:
        return "\n".join(_written(name, arguments) for name, arguments in calls)

    def read_calls(self, reading: Reading, setup: Setup) -> Steps[None]:
        yield from reading.space()
        yield from reading.expect(FUNCTION)
        name = yield from _name(reading)
        known = {tool.name: properties(tool) for tool in setup.tools}.get(name, {})
        reading.begin_call(name)
        reading.arguments("{")
        between = ""
        while True:
            yield from reading.space()
            if (yield from reading.expect(PARAMETER, FUNCTION_END)) == FUNCTION_END:
                break
            parameter = yield from _name(reading)
            reading.arguments(f"{between}{json.dumps(parameter, ensure_ascii=False)}: ")
            yield from _read_value(reading, known.get(parameter, {}))
            between = ", "
        reading.arguments("}")
        yield from reading.space()
        yield from reading.expect(END)

    def calls(self, lark: Lark, setup: Setup) -> str:
        functions = lark.either([_function_rule(lark, tool) for tool in setup.tools])
        call = lark.rule(f"{LINE} {functions} {LINE} {lark.mark(END)}")
        return f"{call} ({LINE} {lark.mark(BEGIN)} {call})*" if setup.parallel else call


def _written(name: str, arguments: dict[str, Any]) -> str:
    values = "".join(
        f"{PARAMETER}{key}>\n{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        f"{PARAMETER_END}\n"
        for key, value in arguments.items()
    )
    return f"{BEGIN}\n{FUNCTION}{name}>\n{values}{FUNCTION_END}\n{END}"


def _name(reading: Reading) -> Steps[str]:
    written: list[str] = []
    if (yield from reading.until((">",), written.append)) is None:
        raise Cut
    name = "".join(written)
    if not name or "\n" in name:
        raise Malformed
    return name


def _read_value(reading: Reading, schema: Schema) -> Steps[None]:
    """One line end before the value, and the one before its end mark, are not of it."""
    yield from reading.one_of(("\n",))
    if only_text(schema):
        reading.arguments('"')
        yield from reading.until((PARAMETER_END,), lambda text: reading.arguments(_escaped(text)))
        reading.arguments('"')
        return
    written: list[str] = []
    if (yield from reading.until((PARAMETER_END,), written.append)) is None:
        raise Cut
    reading.arguments(json.dumps(value_of("".join(written), schema), ensure_ascii=False))


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _function_rule(lark: Lark, tool: Tool) -> str:
    check_texts(tool)
    needed = required(tool)
    parts = [quoted(f"{FUNCTION}{tool.name}>\n")]
    for name, schema in properties(tool).items():
        head = quoted(f"{PARAMETER}{name}>\n")
        one = lark.rule(f"{head} {_value_rule(lark, tool, schema)} {LINE}")
        parts.append(one if name in needed else f"{one}?")
    return " ".join([*parts, quoted(FUNCTION_END)])


def _value_rule(lark: Lark, tool: Tool, schema: Schema) -> str:
    """A value with its end mark."""
    listed = choices(schema)
    if listed is not None:
        return f"({' | '.join(quoted(one) for one in listed)}) {quoted(PARAMETER_END)}"
    if not types(schema) or "string" in types(schema):
        return lark.until(PARAMETER_END)
    return f"{lark.value(tool, schema)} {quoted(PARAMETER_END)}"
