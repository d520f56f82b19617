"""For models whose own way is not known: the tools are described in the system message, and an answer that is
a JSON list calls them.

    [{"name": ..., "arguments": {...}}, ...]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llamaleon_server.chat.ask import Tool
from llamaleon_server.chat.dialects.at_start import AtStart
from llamaleon_server.chat.dialects.dialect import Setup, function
from llamaleon_server.chat.dialects.lark import Lark
from llamaleon_server.chat.dialects.objects import as_json, list_rule


class Generic(AtStart):
    name = "generic"
    before = ("```json", "```")
    head = '[{"name": '

    def detects(self, template: str) -> bool:
        return True

    def described(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        listed = "\n".join(json.dumps(function(tool)["function"], ensure_ascii=False) for tool in tools)
        several = "To call one or several" if parallel else "To call one"
        return (
            f"You can call these functions:\n\n{listed}\n\n"
            f"{several} of them, answer with nothing but a JSON list of calls:\n"
            '[{"name": <name of the function>, "arguments": <object of its parameters>}]\n'
            "Their results are then given to you. Where no function is needed, answer as usual."
        )

    def written(self, calls: Sequence[tuple[str, Any]]) -> str:
        return f"[{', '.join(as_json(calls))}]"

    def result(self, name: str, text: str) -> str:
        return f"Result of {name}:\n{text}"

    def calls(self, lark: Lark, setup: Setup) -> str:
        return list_rule(lark, setup)
