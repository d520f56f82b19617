"""Hermes: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`. Also Qwen 2.5 and 3, Granite 4, others.

Source: NousResearch/Hermes-Function-Calling; the chat template of Qwen 2.5, whose words `described` uses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llamaleon_server.chat.ask import Tool
from llamaleon_server.chat.dialects.dialect import Marked, Reading, Setup, Steps, function
from llamaleon_server.chat.dialects.lark import Lark
from llamaleon_server.chat.dialects.objects import as_json, object_rule, read_object

BEGIN, END = "<tool_call>", "</tool_call>"


class Hermes(Marked):
    name = "hermes"
    mark = BEGIN
    has_control_tokens = True  # in some vocabularies

    def detects(self, template: str) -> bool:
        if BEGIN in template:
            return '"arguments"' in template or '\\"arguments\\"' in template
        return "<|im_start|>" in template  # ChatML with no tools of its own: most such models know these

    def described(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        signatures = "\n".join(json.dumps(function(tool), ensure_ascii=False) for tool in tools)
        return (
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n"
            f"<tools>\n{signatures}\n</tools>\n\n"
            "For each function call, return a json object with function name and arguments within "
            f"{BEGIN}{END} XML tags:\n"
            f'{BEGIN}\n{{"name": <function-name>, "arguments": <args-json-object>}}\n{END}'
        )

    def written(self, calls: Sequence[tuple[str, Any]]) -> str:
        return "\n".join(f"{BEGIN}\n{call}\n{END}" for call in as_json(calls))

    def read_calls(self, reading: Reading, setup: Setup) -> Steps[None]:
        yield from reading.space()
        yield from read_object(reading)
        yield from reading.space()
        yield from reading.expect(END)

    def calls(self, lark: Lark, setup: Setup) -> str:
        call = lark.rule(f"{lark.space()} {object_rule(lark, setup)} {lark.space()} {lark.mark(END)}")
        return f"{call} ({lark.space()} {lark.mark(BEGIN)} {call})*" if setup.parallel else call
