"""`POST /v1/chat/completions`, plain and streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llamaleon_server.engine.protocol import Finish, GenerateRequest
from llamaleon_server.registry.records import Base
from llamaleon_server.web.collect import Collected
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.merge import Item, begin, merged
from llamaleon_server.web.models import template_of
from llamaleon_server.web.services import services_of
from llamaleon_server.web.sse import EventStream
from llamaleon_server.wire.chat import ChatRequest, parse_chat, template_messages
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
    measured = services.metrics.generate
    runs = [measured(services.residents, target, run) for run in _runs(asked, target.base)]
    stream = merged(runs, services.settings.engine.parallel_sequences)
    answer = _Answer(asked)
    if not asked.stream:
        return json_response(await while_connected(request, answer.whole(stream)))
    begun = await while_connected(request, begin(stream))
    return EventStream(answer.chunks(begun), begun)


def _runs(asked: ChatRequest, base: Base) -> list[GenerateRequest]:
    template = template_of(base)
    prompt = template.render(template_messages(asked.messages))
    return asked.generate(prompt, add_special=not template.begins_with_bos(prompt))


class _Answer:
    def __init__(self, asked: ChatRequest) -> None:
        self._asked = asked
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def whole(self, stream: AsyncIterable[Item]) -> ChatCompletion:
        collected = await Collected.of(stream, self._asked.choices)
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._asked.model,
            choices=[
                whole_choice(
                    index,
                    one.texts,
                    chat_logprobs(one.logprobs) if self._asked.logprobs else None,
                    one.finish,
                    choices=self._asked.choices,
                )
                for index, one in enumerate(collected)
            ],
            usage=usage_of([one.finish for one in collected], self._asked.choices),
            timings=timings_of(collected[0].finish, len(collected)),
        )

    async def chunks(self, stream: AsyncIterable[Item]) -> AsyncGenerator[ChatChunk, None]:
        begun: set[int] = set()
        finishes: dict[int, Finish] = {}
        async for index, delta in stream:
            if index not in begun:
                begun.add(index)
                yield self._chunk([first_choice(index)])
            if delta.text or delta.logprobs:
                logprobs = chat_logprobs(delta.logprobs) if delta.logprobs else None
                yield self._chunk([text_choice(index, delta.text, logprobs)])
            if delta.finish is not None:
                finishes[index] = delta.finish
                # In the last chunk, as llama-server has it; one with the usage follows if it was asked for.
                timings = (
                    UNSET if self._asked.include_usage else timings_of(delta.finish, self._asked.choices)
                )
                yield self._chunk([last_choice(index, delta.finish, self._asked.choices)], timings=timings)
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
