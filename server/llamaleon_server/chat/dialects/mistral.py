"""Mistral, in its three forms:

    [TOOL_CALLS][{"name": "f", "arguments": {...}, "id": "..."}]     Nemo and other models of 2024
    [TOOL_CALLS]f[CALL_ID]...[ARGS]{...}                             Small 3.2
    [TOOL_CALLS]f[ARGS]{...}                                         Devstral, Ministral 3, Magistral

Source: the models' chat templates. The ids are the model's own invention and are not read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from llamaleon_server.chat.ask import Message, Tool
from llamaleon_server.chat.dialects.dialect import Cut, Malformed, Marked, Reading, Setup, Steps, function
from llamaleon_server.chat.dialects.lark import Lark, quoted
from llamaleon_server.chat.dialects.objects import as_json, list_rule, read_list

ARGS, CALL_ID = "[ARGS]", "[CALL_ID]"
_ID = re.compile(r"[A-Za-z0-9]{9}")


class Mistral(Marked):
    """The first form."""

    name = "mistral"
    mark = "[TOOL_CALLS]"
    has_control_tokens = True

    def detects(self, template: str) -> bool:
        return self.mark in template and ARGS not in template

    def prepared(self, messages: list[Message]) -> list[Message]:
        """With ids of nine characters, as these templates insist on."""
        return [_with_short_ids(message) for message in messages]

    def described(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        listed = json.dumps([function(tool) for tool in tools], ensure_ascii=False)
        return (
            f"You can call these functions:\n{listed}\n\n"
            f"To call some, answer only with {self.mark}"
            '[{"name": <function-name>, "arguments": <args-json-object>}]'
        )

    def written(self, calls: Sequence[tuple[str, Any]]) -> str:
        return f"{self.mark}[{', '.join(as_json(calls))}]"

    def read_calls(self, reading: Reading, setup: Setup) -> Steps[None]:
        yield from reading.space()
        if (yield from reading.character()) in ("[", "{", ""):
            yield from read_list(reading)
        else:
            yield from _read_named(reading)

    def calls(self, lark: Lark, setup: Setup) -> str:
        return list_rule(lark, setup)


class MistralNamed(Mistral):
    """The third form; the second one is read, too."""

    name = "mistral-named"

    def detects(self, template: str) -> bool:
        return self.mark in template and ARGS in template

    def calls(self, lark: Lark, setup: Setup) -> str:
        call = lark.either(
            [f"{quoted(tool.name)} {lark.mark(ARGS)} {lark.json(tool)}" for tool in setup.tools]
        )
        return f"{call} ({lark.mark(self.mark)} {call})*" if setup.parallel else call


class MistralIdentified(MistralNamed):
    """The second form."""

    name = "mistral-identified"

    def detects(self, template: str) -> bool:
        return super().detects(template) and CALL_ID in template

    def calls(self, lark: Lark, setup: Setup) -> str:
        identity = f"{lark.mark(CALL_ID)} /[a-zA-Z0-9]{{9}}/ {lark.mark(ARGS)}"
        call = lark.either([f"{quoted(tool.name)} {identity} {lark.json(tool)}" for tool in setup.tools])
        return f"{call} ({lark.mark(self.mark)} {call})*" if setup.parallel else call


def _read_named(reading: Reading) -> Steps[None]:
    written: list[str] = []
    mark = yield from reading.until((ARGS, CALL_ID), written.append)
    name = "".join(written)
    if not re.fullmatch(r"[^\s{}\[\]]+" if mark else r"[^\s{}\[\]]+(\[[A-Z_]*)?", name):
        raise Malformed
    if mark == CALL_ID:
        mark = yield from reading.until((ARGS,), lambda _: None)
    if mark is None:
        raise Cut
    reading.begin_call(name)
    yield from reading.space()
    yield from reading.json_value(reading.arguments)


def _with_short_ids(message: Message) -> Message:
    changed = dict(message)
    if "tool_call_id" in message:
        changed["tool_call_id"] = _short(message["tool_call_id"])
    if "tool_calls" in message:
        changed["tool_calls"] = [{**call, "id": _short(call["id"])} for call in message["tool_calls"]]
    return changed


def _short(identity: str) -> str:
    return identity if _ID.fullmatch(identity) else hashlib.sha256(identity.encode()).hexdigest()[:9]
