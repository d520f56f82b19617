"""What a dialect is: how tools, calls and results are written, and how an answer in it is read.

A dialect of your own: derive from `Dialect`, and name an instance of it in the entry point group
`llamaleon.dialects` of your package. It is asked before ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from msgspec import Struct

from llamaleon_server.chat.ask import Message, Tool
from llamaleon_server.chat.dialects.lark import Lark
from llamaleon_server.chat.dialects.reading import Cut, Malformed, Reading, Steps


class Tags(Struct, frozen=True):
    """The marks around thinking."""

    begin: str
    end: str


class Setup(Struct, frozen=True, kw_only=True):
    """What an answer may be: known before it begins."""

    tools: tuple[Tool, ...] = ()  # that may be called
    required: bool = False  # at least one call
    parallel: bool = True  # more than one
    tags: Tags | None = None  # of thinking, where there may be any
    opened: bool = False  # the prompt ends inside of thinking
    form: str | None = None  # reference in Lark to what an answer in text must look like


class Dialect:
    name: ClassVar[str] = ""
    mark: ClassVar[str] = ""  # before a call, if there is one
    has_control_tokens: ClassVar[bool] = False  # marks may be control tokens: the engine must show them
    tags: ClassVar[Tags | None] = None  # of thinking, where they are the dialect's own
    efforts: ClassVar[Mapping[str, str]] = {}  # a client's word for the effort -> the template's

    # ------------------------------------------------------------ the prompt

    def detects(self, template: str) -> bool:
        """Whether a chat template (its Jinja text) belongs to a model that writes this."""
        raise NotImplementedError

    def prepared(self, messages: list[Message]) -> list[Message]:
        """As the dialect's own templates want them."""
        return messages

    def described(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        """Tools for the system message, where the template does not show them."""
        raise NotImplementedError

    def written(self, calls: Sequence[tuple[str, Any]]) -> str:
        """Calls (names, arguments) as an answer's text, where the template does not show them."""
        raise NotImplementedError

    def result(self, name: str, text: str) -> str:
        """A tool's result as a user's text, where the template does not show it."""
        return f"<tool_response>\n{text}\n</tool_response>"

    def opens(self, prompt: str, tags: Tags | None) -> bool:
        """Whether a prompt ends inside of thinking."""
        return tags is not None and prompt.rstrip().endswith(tags.begin.rstrip())

    def begun(self, prompt: str, tags: Tags | None, message: Message) -> str:
        """What follows a prompt for an answer that goes on from what `message` has of it."""
        thought, text = message.get("reasoning_content") or "", message.get("content") or ""
        if not self.opens(prompt, tags) or tags is None:
            return str(text)
        return f"{thought}\n{tags.end}\n\n{text}" if text else str(thought)

    # ------------------------------------------------------------ the answer

    def reads(self, setup: Setup) -> bool:
        """Whether an answer has anything but text in it."""
        return bool(setup.tools or setup.tags)

    def read(self, reading: Reading, setup: Setup) -> Steps[None]:
        """The whole answer."""
        if setup.tags is not None:
            yield from read_thinking(reading, setup.tags, setup.opened)
        if setup.tools:
            yield from self.read_answer(reading, setup)
        else:
            yield from reading.until((), reading.text)

    def read_answer(self, reading: Reading, setup: Setup) -> Steps[None]:
        """What follows thinking, where tools may be called."""
        raise NotImplementedError

    def grammar(self, lark: Lark, setup: Setup) -> str:
        """The grammar's start: what an answer may be, thinking included."""
        answer = self.answer(lark, setup) if setup.tools else setup.form or lark.anything()
        return before(lark, setup) + f"({answer})"

    def answer(self, lark: Lark, setup: Setup) -> str:
        """What follows thinking, where tools may be called."""
        raise NotImplementedError


class Marked(Dialect):
    """A dialect whose calls follow a mark."""

    def read_answer(self, reading: Reading, setup: Setup) -> Steps[None]:
        while (yield from reading.until((self.mark,), reading.text, trim=True)) is not None:
            before = reading.trimmed
            if (yield from reading.attempt(self.read_calls(reading, setup))):
                yield from reading.space()
            else:
                reading.text(before + self.mark)

    def read_calls(self, reading: Reading, setup: Setup) -> Steps[None]:
        """What follows a mark. Raises: Malformed; Cut."""
        raise NotImplementedError

    def answer(self, lark: Lark, setup: Setup) -> str:
        calls = self.calls(lark, setup)
        if setup.required:
            return f"{lark.mark(self.mark)} {calls}"
        if setup.form is not None:
            return f"{lark.mark(self.mark)} {calls} | {setup.form}"
        return f"{lark.until(self.mark)} {calls} | {lark.anything()}"

    def calls(self, lark: Lark, setup: Setup) -> str:
        """What follows the first mark: one call, or several where they may be parallel."""
        raise NotImplementedError


def before(lark: Lark, setup: Setup) -> str:
    """The part of a grammar that thinking is."""
    if setup.tags is None:
        return ""
    ended = f"{lark.until(setup.tags.end)} {lark.space()} "
    return ended if setup.opened else f"({lark.mark(setup.tags.begin)} {ended})? "


def read_thinking(reading: Reading, tags: Tags, opened: bool) -> Steps[None]:
    def begin() -> Steps[None]:
        yield from reading.space()
        yield from reading.expect(tags.begin)

    if not opened and not (yield from reading.attempt(begin(), or_text=True)):
        return
    reading.is_thinking = True
    yield from reading.space()
    yield from reading.until((tags.end,), reading.thinking, trim=True)
    reading.is_thinking = False
    yield from reading.space()


def function(tool: Tool) -> dict[str, Any]:
    """A tool as templates want it: OpenAI's form."""
    described: dict[str, Any] = {"name": tool.name, "description": tool.description or ""}
    described["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": described}


def one_call_each(messages: Sequence[Message]) -> list[Message]:
    """Messages with several calls as several messages, each followed by its result."""
    messages = list(messages)
    split: list[Message] = []
    while messages:
        message = messages.pop(0)
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            split.append(message)
            continue
        results = []
        while messages and messages[0]["role"] == "tool":
            results.append(messages.pop(0))
        for at, call in enumerate(calls):
            first = {} if at == 0 else {"content": "", "reasoning_content": None}
            one = {key: value for key, value in {**message, **first}.items() if value is not None}
            split.append({**one, "tool_calls": [call]})
            split += [result for result in results if result.get("tool_call_id") == call.get("id")]
        known = {call.get("id") for call in calls}
        split += [result for result in results if result.get("tool_call_id") not in known]
    return split


__all__ = ["Cut", "Dialect", "Malformed", "Marked", "Reading", "Setup", "Steps", "Tags"]
