"""Llama 3.1 and later: the answer is `{"name": ..., "parameters": {...}}`; several are separated by `;`.

Source: the chat template of meta-llama/Llama-3.1-8B-Instruct.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llamaleon_server.chat.ask import Message, Tool
from llamaleon_server.chat.dialects.at_start import AtStart
from llamaleon_server.chat.dialects.dialect import Setup, function, one_call_each
from llamaleon_server.chat.dialects.lark import Lark
from llamaleon_server.chat.dialects.objects import object_rule


class Llama(AtStart):
    name = "llama"
    has_control_tokens = True
    before = ("<|python_tag|>",)
    head = '{"name": '

    def detects(self, template: str) -> bool:
        return "<|start_header_id|>" in template

    def prepared(self, messages: list[Message]) -> list[Message]:
        """The templates take one call at a time."""
        return one_call_each(messages)

    def described(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        listed = "\n\n".join(json.dumps(function(tool), ensure_ascii=False, indent=4) for tool in tools)
        return (
            "You have access to the following functions. To call a function, please respond with JSON for "
            'a function call. Respond in the format {"name": function name, "parameters": dictionary of '
            f"argument name and its value}}. Do not use variables.\n\n{listed}"
        )

    def written(self, calls: Sequence[tuple[str, Any]]) -> str:
        return "; ".join(
            json.dumps({"name": name, "parameters": arguments}, ensure_ascii=False)
            for name, arguments in calls
        )

    def calls(self, lark: Lark, setup: Setup) -> str:
        if setup.form is not None:
            # The answer may be JSON too: only as JSON of one kind can the two go on side by side.
            call = lark.either([lark.call(tool, "parameters") for tool in setup.tools])
        else:
            call = object_rule(lark, setup, "parameters")
        return f'{call} ("; " {call})*' if setup.parallel else call
