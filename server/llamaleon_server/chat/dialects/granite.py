"""Granite 3: `<|tool_call|>[{"name": ..., "arguments": {...}}, ...]`. Granite 4 writes as Hermes does.

Source: the chat template of ibm-granite/granite-3.3-2b-instruct, whose words `described` uses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llamaleon_server.chat.ask import Tool
from llamaleon_server.chat.dialects.dialect import Marked, Reading, Setup, Steps, function
from llamaleon_server.chat.dialects.lark import Lark
from llamaleon_server.chat.dialects.objects import as_json, list_rule, read_list


class Granite(Marked):
    name = "granite"
    mark = "<|tool_call|>"
    has_control_tokens = True

    def detects(self, template: str) -> bool:
        return self.mark in template or ("<|start_of_role|>" in template and "<tool_call>" not in template)

    def described(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        listed = json.dumps([function(tool) for tool in tools], ensure_ascii=False, indent=4)
        return (
            "You are a helpful assistant with access to the following tools. When a tool is required to "
            f"answer the user's query, respond only with {self.mark} followed by a JSON list of tools used. "
            "If a tool does not exist in the provided list of tools, notify the user that you do not have "
            f"the ability to fulfill the request.\n\n{listed}"
        )

    def written(self, calls: Sequence[tuple[str, Any]]) -> str:
        return f"{self.mark}[{', '.join(as_json(calls))}]"

    def read_calls(self, reading: Reading, setup: Setup) -> Steps[None]:
        yield from reading.space()
        yield from read_list(reading)

    def calls(self, lark: Lark, setup: Setup) -> str:
        return f"{lark.space()} {list_rule(lark, setup)}"
