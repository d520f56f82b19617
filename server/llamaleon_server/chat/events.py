"""What an answer is made of, in the order in which it becomes certain. One choice's events:

    (Thinking* | Text* | (CallBegun CallArguments*)*)* Ended

Protocols render these; nothing of a dialect's markup is left in them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from llamaleon_server.engine.protocol import Finish, TokenLogprob


class Text(Struct, frozen=True):
    """`logprobs` of the tokens that became this text, if asked for."""

    text: str
    logprobs: list[TokenLogprob] | None = None


class Thinking(Struct, frozen=True):
    text: str


class CallBegun(Struct, frozen=True):
    """Call number `call` of this choice, from 0."""

    call: int
    id: str
    name: str


class CallArguments(Struct, frozen=True):
    """More of the JSON text of a call's arguments."""

    call: int
    text: str


class Ended(Struct, frozen=True):
    """`reason` may differ from the engine's: an answer that called tools ends with `tool_calls`.

    `thinking_tokens` are those of `finish.completion_tokens` that were thinking, its marks included.
    """

    reason: Literal["stop", "length", "tool_calls"]
    finish: Finish
    thinking_tokens: int = 0


Event = Text | Thinking | CallBegun | CallArguments | Ended


@dataclass
class Call:
    id: str
    name: str
    arguments: str = ""


@dataclass
class Answer:
    """One choice, whole."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ended: Ended | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def thinking(self) -> str:
        return "".join(self.thoughts)

    @property
    def finish(self) -> Finish:
        return self.end.finish

    @property
    def end(self) -> Ended:
        assert self.ended is not None, "the stream was read to its end"
        return self.ended

    def add(self, event: Event) -> None:
        match event:
            case Text(text, logprobs):
                self.texts.append(text)
                self.logprobs += logprobs or []
            case Thinking(text):
                self.thoughts.append(text)
            case CallBegun(_, name=name, id=identity):
                self.calls.append(Call(identity, name))
            case CallArguments(call, text):
                self.calls[call].arguments += text
            case Ended():
                self.ended = event
