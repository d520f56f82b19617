"""`POST /v1/chat/completions`, plain and streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llamaleon_server.answers.answering import Item, answering, collected
from llamaleon_server.answers.merge import begin
from llamaleon_server.chat.events import Ended, Text
from llamaleon_server.engine.protocol import Finish
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import services_of
from llamaleon_server.web.sse import EventStream
from llamaleon_server.wire.chat import ChatRequest, parse_chat
from llamaleon_server.wire.chat_answer import (
    ChatChunk,
    ChatCompletion,
    ChunkChoice,
    first_choice,
    last_choice,
    text_choice,
    whole_choice,
)
from llamaleon_server.wire.logprobs import chat_logprobs
from llamaleon_server.wire.usage import Timings, Usage, timings_of, usage_of


async def create(request: Request) -> Response:
    asked = parse_chat(await request.body())
    services = services_of(request)
    target = services.registry.resolve(asked.model, asked.lora)
    events = answering(services.generate, target, asked.ask(), services.settings.engine.parallel_sequences)
    answer = _Answer(asked)
    if not asked.stream:
        return json_response(await while_connected(request, answer.whole(events)))
    begun = await while_connected(request, begin(events))
    return EventStream(answer.chunks(begun), begun)


class _Answer:
    def __init__(self, asked: ChatRequest) -> None:
        self._asked = asked
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def whole(self, events: AsyncIterable[Item]) -> ChatCompletion:
        answers = await collected(events, self._asked.choices)
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._asked.model,
            choices=[
                whole_choice(
                    index,
                    one,
                    chat_logprobs(one.logprobs) if self._asked.logprobs else None,
                    choices=self._asked.choices,
                )
                for index, one in enumerate(answers)
            ],
            usage=usage_of([one.finish for one in answers], self._asked.choices),
            timings=timings_of(answers[0].finish, len(answers)),
        )

    async def chunks(self, events: AsyncIterable[Item]) -> AsyncGenerator[ChatChunk, None]:
        begun: set[int] = set()
        finishes: dict[int, Finish] = {}
        async for index, event in events:
            if index not in begun:
                begun.add(index)
                yield self._chunk([first_choice(index)])
            match event:
                case Text(text, logprobs):
                    yield self._chunk(
                        [text_choice(index, text, chat_logprobs(logprobs) if logprobs else None)]
                    )
                case Ended(_, finish):
                    finishes[index] = finish
                    # In the last chunk, as llama-server has it, unless one with the usage follows.
                    timings = UNSET if self._asked.include_usage else timings_of(finish, self._asked.choices)
                    yield self._chunk([last_choice(index, event, self._asked.choices)], timings=timings)
        if self._asked.include_usage:
            ends = [finishes[index] for index in sorted(finishes)]
            usage = usage_of(ends, self._asked.choices)
            yield self._chunk([], usage, timings_of(ends[0], len(ends)))

    def _chunk(
        self,
        choices: list[ChunkChoice],
        usage: Usage | None = None,
        timings: Timings | UnsetType = UNSET,
    ) -> ChatChunk:
        return ChatChunk(
            id=self._id,
            created=self._created,
            model=self._asked.model,
            choices=choices,
            usage=usage if self._asked.include_usage else UNSET,
            timings=timings,
        )


routes = [Route("/v1/chat/completions", create, methods=["POST"])]
