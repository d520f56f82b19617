"""A conversation with tools, as one model's template and dialect write it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from os.path import commonprefix
from typing import Any

from msgspec import Struct

from llamaleon_server.chat.ask import Message, Tool
from llamaleon_server.chat.dialects.dialect import Dialect, Setup, Tags, function
from llamaleon_server.chat.dialects.known import GENERIC, dialects
from llamaleon_server.chat.dialects.reading import Reading
from llamaleon_server.chat.events import Answer
from llamaleon_server.chat.reasoning import tags_of
from llamaleon_server.chat.template import ChatTemplate, TemplateRefused

_PROBE = Tool(
    name="probe_tool",
    description="A probe.",
    parameters={
        "type": "object",
        "properties": {"probe_key": {"type": "string", "description": "A key."}},
        "required": ["probe_key"],
    },
)
_ARGUMENTS = {"probe_key": "probe value"}
_CALL = {"id": "probe0001", "type": "function", "function": {"name": "probe_tool", "arguments": _ARGUMENTS}}
_OPEN_MARK = re.compile(r"[<\[][^<>\[\]]*$")  # two different marks may begin alike
_USER = {"role": "user", "content": "Probe?"}
_CALLING = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_RESULT = {"role": "tool", "content": "probe result", "tool_call_id": "probe0001", "name": "probe_tool"}


class Manner(Struct, frozen=True):
    """How a model writes, and what of tools its own template shows."""

    dialect: Dialect
    tags: Tags | None  # of thinking
    shows_tools: bool
    shows_calls: bool
    shows_results: bool

    def render(
        self,
        template: ChatTemplate,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        parallel: bool = True,
        generation: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Raises: TemplateRefused."""
        shown = list(messages)
        if tools and not self.shows_tools:
            shown = with_system(shown, self.dialect.described(tools, parallel=parallel))
        shown = self.dialect.prepared(self._told(_complete(shown)))
        return template.render(
            shown,
            add_generation_prompt=generation,
            tools=[function(tool) for tool in tools] if self.shows_tools else None,
            options=options,
        )

    def _told(self, messages: Sequence[Message]) -> list[Message]:
        """Calls and results as plain text where the template has no place for them."""
        told: list[Message] = []
        after_result = False  # the last message is a result told as a user's: what a user says joins it
        for message in messages:
            one = message
            if message.get("tool_calls") and not self.shows_calls:
                calls = [
                    (call["function"]["name"], call["function"]["arguments"])
                    for call in message["tool_calls"]
                ]
                text = "\n\n".join(filter(None, (message["content"], self.dialect.written(calls))))
                one = {**message, "content": text}
                del one["tool_calls"]
            if message["role"] == "tool" and not self.shows_results:
                one = {"role": "user", "content": self.dialect.result(message["name"], message["content"])}
            if after_result and one["role"] == "user":
                told[-1] = {**told[-1], "content": f"{told[-1]['content']}\n\n{one['content']}"}
            else:
                told.append(one)
            after_result = one["role"] == "user" and (message["role"] == "tool" or after_result)
        return told


@lru_cache(maxsize=64)
def manner_of(template: ChatTemplate) -> Manner:
    """Found out once for a template, by what it makes of a conversation with a tool."""
    source = template.source
    for dialect in dialects():
        if not template.is_fallback and dialect.detects(source):
            found = _manner(template, dialect)
            if _understands(template, found):
                return found
    return Manner(GENERIC, tags_of(source), False, False, False)


def with_system(messages: Sequence[Message], text: str) -> list[Message]:
    """`text` at the end of the system message; that is made if there is none."""
    if messages and messages[0]["role"] == "system":
        first = messages[0]
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def tools_of(given: Sequence[Mapping[str, Any]]) -> list[Tool]:
    """OpenAI's tools as datasets have them; what is none of them is left out."""
    functions = [tool.get("function", tool) for tool in given]
    return [
        Tool(
            name=function["name"],
            description=function.get("description"),
            parameters=function.get("parameters"),
        )
        for function in functions
        if isinstance(function, Mapping) and isinstance(function.get("name"), str)
    ]


def as_templates_want(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """OpenAI's messages as datasets have them: newer and legacy roles, arguments as text."""
    wanted = []
    for message in messages:
        one = dict(message)
        one["role"] = {"developer": "system", "function": "tool"}.get(one["role"], one["role"])
        calls = list(one.pop("tool_calls", None) or ())
        if legacy := one.pop("function_call", None):
            calls.append({"function": legacy})
        if calls:
            one["tool_calls"] = [_call(call) for call in calls]
        if one["role"] == "tool":
            one.setdefault("tool_call_id", one.get("name", ""))
        wanted.append(one)
    return wanted


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            arguments = {"__arguments__": arguments}
    name = function.get("name", "")
    return {
        "id": call.get("id") or name,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _complete(messages: Sequence[Message]) -> list[Message]:
    """With contents that are text, and the names of the tools that results are of."""
    names: dict[str, str] = {}
    completed = []
    for message in messages:
        one = {**message, "content": "" if message.get("content") is None else message["content"]}
        for call in message.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
        if one["role"] == "tool":
            one.setdefault("name", names.get(one.get("tool_call_id", ""), "tool"))
        completed.append(one)
    return completed


# ---------------------------------------------------------------- finding out


def _manner(template: ChatTemplate, dialect: Dialect) -> Manner:
    tags = dialect.tags or tags_of(template.source)
    rest = {"tools": (_PROBE,), "generation": False}
    every = Manner(dialect, tags, True, True, True)
    return Manner(
        dialect,
        tags,
        "probe_key" in _rendered(template, every, [_USER], **rest),
        "probe value" in _rendered(template, every, [_USER, _CALLING], **rest),
        "probe result" in _rendered(template, every, [_USER, _CALLING, _RESULT], **rest),
    )


def _rendered(template: ChatTemplate, manner: Manner, messages: list[Message], **rest: Any) -> str:
    try:
        return manner.render(template, messages, **rest)
    except TemplateRefused:
        return ""


def _understands(template: ChatTemplate, manner: Manner) -> bool:
    """Whether the dialect reads a call as the template writes it, or at least its mark is in the template.

    Where the template says nothing of tools at all, the dialect's own words are as good as any.
    """
    if not manner.shows_calls:
        mark = manner.dialect.mark
        return not manner.shows_tools or (bool(mark) and mark in template.source)
    asked = _rendered(template, manner, [_USER], tools=(_PROBE,))
    answered = _rendered(template, manner, [_USER, _CALLING], tools=(_PROBE,), generation=False)
    shared = commonprefix([asked, answered])  # noqa: RUF071 (character by character is what is wanted)
    shared = _OPEN_MARK.sub("", shared)
    opened = manner.dialect.opens(shared, manner.tags)
    setup = Setup(tools=(_PROBE,), tags=manner.tags, opened=opened)
    answer = whole(manner.dialect, setup, answered[len(shared) :])
    try:
        return [(call.name, json.loads(call.arguments)) for call in answer.calls] == [
            ("probe_tool", _ARGUMENTS)
        ]
    except ValueError:
        return False


def whole(dialect: Dialect, setup: Setup, text: str) -> Answer:
    """An answer that is there at once."""
    reading, answer = Reading(), Answer()
    reading.add(text)
    reading.end()
    for _ in dialect.read(reading, setup):
        raise AssertionError(f"{dialect.name} waits for more than the whole answer")
    for piece in reading.pieces:
        answer.add(piece.event)
    return answer
