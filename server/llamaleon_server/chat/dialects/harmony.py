"""Harmony, gpt-oss's: an answer is several messages, each with a channel, and calls are addressed.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant
    <|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}<|call|>
    <|channel|>final<|message|>...<|return|>

The prompt ends with `<|start|>assistant`. Source: openai/harmony, `docs/format.md`; llama.cpp,
`common/parsers/gpt-oss.cpp`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from llamaleon_server.chat.ask import Message, Tool
from llamaleon_server.chat.dialects.dialect import (
    Dialect,
    Reading,
    Setup,
    Steps,
    Tags,
    function,
    one_call_each,
)
from llamaleon_server.chat.dialects.lark import Lark, quoted

START, CHANNEL, MESSAGE, END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"
CONSTRAIN, CALL, RETURN = "<|constrain|>", "<|call|>", "<|return|>"

_ENDS = (END, CALL, RETURN, START)
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")


class Harmony(Dialect):
    name = "harmony"
    has_control_tokens = True
    tags = Tags(f"{CHANNEL}analysis{MESSAGE}", END)
    efforts = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}  # noqa: RUF012 (read only)

    def detects(self, template: str) -> bool:
        return CHANNEL in template and MESSAGE in template and "analysis" in template

    def prepared(self, messages: list[Message]) -> list[Message]:
        """One call in a message; thinking under the template's own name for it."""
        prepared = []
        for message in one_call_each(messages):
            changed = dict(message)
            thinking = changed.pop("reasoning_content", None)
            if thinking:
                changed["thinking"] = thinking
                if changed.get("tool_calls"):
                    changed["content"] = ""  # the template takes one of the two
            prepared.append(changed)
        return prepared

    def described(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        listed = "\n".join(json.dumps(function(tool)["function"], ensure_ascii=False) for tool in tools)
        return f"# Tools\n\nCalls to these tools must go to the commentary channel: 'functions'.\n\n{listed}"

    def written(self, calls: Sequence[tuple[str, Any]]) -> str:
        return "".join(
            f"{CHANNEL}commentary to=functions.{name} {CONSTRAIN}json{MESSAGE}"
            f"{json.dumps(arguments, ensure_ascii=False)}{CALL}"
            for name, arguments in calls
        )

    def begun(self, prompt: str, tags: Tags | None, message: Message) -> str:
        return f"{CHANNEL}final{MESSAGE}{message.get('content') or ''}"

    def opens(self, prompt: str, tags: Tags | None) -> bool:
        """Here: whether the answer itself has begun."""
        return not prompt.rstrip().endswith(f"{START}assistant")

    def reads(self, setup: Setup) -> bool:
        return True

    def read(self, reading: Reading, setup: Setup) -> Steps[None]:
        if setup.opened:  # somebody began the answer: its text goes on
            yield from reading.until(_ENDS, reading.text)
        thoughts = messages = 0
        while True:
            header: list[str] = []
            mark = yield from reading.until((MESSAGE,), header.append)
            text = "".join(header)
            if mark is None:
                if not messages and not setup.opened and CHANNEL not in text:
                    reading.text(text)  # no harmony at all
                return
            messages += 1
            channel, recipient = _CHANNEL.search(text), _RECIPIENT.search(text)
            called = "" if recipient is None or not setup.tools else _called(recipient[1])
            if called:
                reading.begin_call(called)
                yield from reading.until(_ENDS, reading.arguments)
            elif recipient is not None or (channel and channel[1] == "analysis"):
                reading.is_thinking = True
                if thoughts:
                    reading.thinking("\n")
                yield from reading.until(_ENDS, reading.thinking)
                reading.is_thinking = False
                thoughts += 1
            else:
                yield from reading.until(_ENDS, reading.text)

    # ------------------------------------------------------------ the grammar

    def grammar(self, lark: Lark, setup: Setup) -> str:
        if setup.opened:
            return setup.form or lark.anything()
        again = f'{lark.mark(START)} "assistant"'
        analysis = f'{lark.mark(CHANNEL)} "analysis" {lark.mark(MESSAGE)} {lark.until(END)} {again}'
        kind = f'(" " {lark.mark(CONSTRAIN)} "json" | " json")?'
        text = setup.form or lark.anything()
        final = f'{lark.mark(CHANNEL)} "final" {kind} {lark.mark(MESSAGE)} {text}'
        if not setup.tools:
            return f"{lark.rule(analysis)}* {final}"
        preamble = f'{lark.mark(CHANNEL)} "commentary" {lark.mark(MESSAGE)} {lark.until(END)} {again}'
        calls = [
            f"({lark.mark(CHANNEL)} {quoted(f'commentary to=functions.{tool.name}')} {kind} | "
            f'{quoted(f" to=functions.{tool.name}")} {lark.mark(CHANNEL)} "commentary" {kind}) '
            f"{lark.mark(MESSAGE)} {lark.json(tool)}"
            for tool in setup.tools
        ]
        answers = calls if setup.required else [*calls, final]
        return f"({lark.rule(analysis)} | {lark.rule(preamble)})* {lark.either(answers)}"


def _called(recipient: str) -> str:
    """The function's name; nothing where the message is for somebody else."""
    return recipient.removeprefix("functions.") if recipient.startswith("functions.") else ""
