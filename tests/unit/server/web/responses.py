"""What the tests of `/v1/responses` share: OpenAI's types, and answers that are scripted as events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from tests.api import Api

from llamaleon_server.chat.ask import Ask
from llamaleon_server.chat.events import CallArguments, CallBegun, Ended, Event, Text, Thinking
from llamaleon_server.engine.protocol import Finish, Timings
from llamaleon_server.web import responses_making

_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

FINISH = Finish(
    reason="stop",
    prompt_tokens=10,
    cached_tokens=4,
    completion_tokens=7,
    timings=Timings(queue_s=0.0, prefill_s=0.1, decode_s=0.1),
)
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
THOUGHT_AND_CALLS: Sequence[Event] = [
    Thinking("Where"),
    Thinking(" is it?"),
    Text("Let me look."),
    CallBegun(0, "call_1", "weather"),
    CallArguments(0, '{"city": '),
    CallArguments(0, '"Vigo"}'),
    CallBegun(1, "call_2", "weather"),
    CallArguments(1, '{"city": "Lugo"}'),
    Ended("tool_calls", FINISH, thinking_tokens=3),
]


class Script:
    """Answers with these events instead of the chat core; `asks` is what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Sequence[Event | Exception]) -> None:
        self.asks: list[Ask] = []
        self._answers = list(answers)
        monkeypatch.setattr(responses_making, "answering", self._answering)

    async def _answering(
        self, generate: Any, target: Any, ask: Ask
    ) -> AsyncGenerator[tuple[int, Event], None]:
        self.asks.append(ask)
        for event in self._answers.pop(0):
            if isinstance(event, Exception):
                raise event
            yield 0, event


def whole(response: httpx.Response) -> Response:
    """An answer that OpenAI's types accept, in strict mode."""
    assert response.status_code == 200, response.text
    return Response.model_validate_json(response.text, strict=True)


def streamed(response: httpx.Response) -> list[Any]:
    """Events that OpenAI's types accept; each is named by its type, and they are numbered from 0."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(_EVENTS.validate_json(data.removeprefix("data: "), strict=True))
    assert [event.sequence_number for event in found] == list(
        range(found[0].sequence_number, found[0].sequence_number + len(found))
    )
    return found


async def respond(api: Api, text: Any = "¿Qué tal?", **more: Any) -> httpx.Response:
    return await api.post("/v1/responses", **{"model": "tiny", "input": text, **more})
