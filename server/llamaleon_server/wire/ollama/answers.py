"""Ollama's `/api/chat` and `/api/generate`: answers, whole or line by line.

Durations are in nanoseconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from llamaleon_server.chat.events import Answer, Call, CallArguments, CallBegun, Ended, Event, Text, Thinking
from llamaleon_server.engine.protocol import Finish, TokenLogprob
from llamaleon_server.wire.arguments import arguments_of
from llamaleon_server.wire.logprobs import ChatLogprob, chat_logprobs


class Line(Struct, frozen=True, kw_only=True):
    """What every line has, and the figures of the last one."""

    model: str
    created_at: str
    done: bool
    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    logprobs: list[ChatLogprob] | UnsetType = UNSET


class FunctionCall(Struct, frozen=True, kw_only=True):
    index: int
    name: str
    arguments: dict[str, Any]


class ToolCall(Struct, frozen=True, kw_only=True):
    id: str
    function: FunctionCall


class AnswerMessage(Struct, frozen=True, kw_only=True):
    role: str = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatLine(Line, frozen=True, kw_only=True):
    message: AnswerMessage


class GenerateLine(Line, frozen=True, kw_only=True):
    response: str
    thinking: str | UnsetType = UNSET
    context: list[int] | UnsetType = UNSET


@dataclass
class Clock:
    """When a request began, and when its model was there."""

    began: int = field(default_factory=time.perf_counter_ns)
    loaded: int = 0

    def load_ends(self) -> None:
        self.loaded = time.perf_counter_ns()

    @property
    def load(self) -> int:
        return max(0, self.loaded - self.began)

    @property
    def total(self) -> int:
        return time.perf_counter_ns() - self.began

    def figures(self, finish: Finish) -> dict[str, int]:
        spent = finish.timings
        return {
            "total_duration": self.total,
            "load_duration": self.load,
            "prompt_eval_count": finish.prompt_tokens,
            "prompt_eval_duration": round(spent.prefill_s * 1e9),
            "eval_count": finish.completion_tokens,
            "eval_duration": round(spent.decode_s * 1e9),
        }


class Lines:
    """The lines of one answer. `chat` says of which route."""

    def __init__(self, model: str, clock: Clock, *, chat: bool) -> None:
        self._model = model
        self._clock = clock
        self._chat = chat
        self._call: tuple[int, Call] | None = None  # whose arguments are still coming

    def add(self, event: Event) -> list[Line]:
        match event:
            case Text(text, logprobs):
                return [*self._called(), self._line(text, logprobs=logprobs)]
            case Thinking(text):
                return [*self._called(), self._line(thinking=text)]
            case CallBegun(number, identity, name):
                called = self._called()
                self._call = (number, Call(identity, name))
                return called
            case CallArguments(_, text):
                assert self._call is not None, "arguments follow the beginning of their call"
                self._call[1].arguments += text
                return []
            case Ended():
                return [*self._called(), self._line(ended=event)]

    def whole(self, answer: Answer) -> Line:
        calls = [_tool_call(number, call) for number, call in enumerate(answer.calls)]
        return self._line(
            answer.text,
            thinking=answer.thinking,
            calls=calls,
            logprobs=answer.logprobs,
            ended=answer.end,
        )

    def empty(self, reason: str) -> Line:
        """Of a request that only loads or unloads."""
        return self._shaped("", UNSET, UNSET, {"done": True, "done_reason": reason})

    def _called(self) -> list[Line]:
        """A call is complete when something else follows."""
        if self._call is None:
            return []
        call, self._call = _tool_call(*self._call), None
        return [self._line(calls=[call])]

    def _line(
        self,
        text: str = "",
        *,
        thinking: str = "",
        calls: list[ToolCall] | None = None,
        logprobs: list[TokenLogprob] | None = None,
        ended: Ended | None = None,
    ) -> Line:
        rest: dict[str, Any] = {"done": ended is not None}
        if logprobs:
            rest["logprobs"] = chat_logprobs(logprobs).content
        if ended is not None:
            rest["done_reason"] = "length" if ended.reason == "length" else "stop"
            rest |= self._clock.figures(ended.finish)
        return self._shaped(text, thinking or UNSET, calls or UNSET, rest)

    def _shaped(
        self,
        text: str,
        thinking: str | UnsetType,
        calls: list[ToolCall] | UnsetType,
        rest: dict[str, Any],
    ) -> Line:
        created = now()
        if not self._chat:
            return GenerateLine(
                model=self._model, created_at=created, response=text, thinking=thinking, **rest
            )
        message = AnswerMessage(content=text, thinking=thinking, tool_calls=calls)
        return ChatLine(model=self._model, created_at=created, message=message, **rest)


def now() -> str:
    return rfc3339(time.time())


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _tool_call(number: int, call: Call) -> ToolCall:
    function = FunctionCall(index=number, name=call.name, arguments=arguments_of(call.arguments))
    return ToolCall(id=call.id, function=function)
