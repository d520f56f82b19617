"""`POST /v1/chat/completions`, plain and streamed."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.answers.answering import Item, answering, collected
from llamaleon_server.answers.merge import begin
from llamaleon_server.chat.events import Answer, Ended
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import services_of
from llamaleon_server.web.sse import EventStream
from llamaleon_server.wire.chat import ChatRequest, parse_chat
from llamaleon_server.wire.chat_answer import (
    ChatChunk,
    ChatCompletion,
    ChunkChoice,
    event_choice,
    first_choice,
    last_choice,
    whole_choice,
)
from llamaleon_server.wire.keep_alive import parse_keep_alive
from llamaleon_server.wire.stored import Exchange, exchange_of
from llamaleon_server.wire.usage import Timings, Usage, timings_of, usage_of


async def create(request: Request) -> Response:
    asked = parse_chat(await request.body())
    services = services_of(request)
    target = services.registry.resolve(asked.model, asked.lora)
    ask = asked.ask()
    if asked.keep_alive is not None:
        services.residents.keep(target.base.name, parse_keep_alive(asked.keep_alive))
    events = answering(services.generate, target, ask, services.settings.engine.parallel_sequences)
    answer = _Answer(asked, services.registry.stored.add if asked.store else None)
    if not asked.stream:
        return json_response(await while_connected(request, answer.whole(events)))
    begun = await while_connected(request, begin(events))
    return EventStream(answer.chunks(begun), begun)


class _Answer:
    """`keep` stores what was asked and answered. Blocks."""

    def __init__(self, asked: ChatRequest, keep: Callable[[Exchange], None] | None) -> None:
        self._asked = asked
        self._keep = keep
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def whole(self, events: AsyncIterable[Item]) -> ChatCompletion:
        return await self._kept(await collected(events, self._asked.choices))

    async def _kept(self, answers: Sequence[Answer]) -> ChatCompletion:
        completion = self._completion(answers)
        if self._keep is not None:
            await asyncio.to_thread(self._keep, exchange_of(self._asked, completion))
        return completion

    def _completion(self, answers: Sequence[Answer]) -> ChatCompletion:
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._asked.model,
            choices=[
                whole_choice(
                    index,
                    one,
                    logprobs=bool(self._asked.logprobs),
                    choices=self._asked.choices,
                    legacy=self._asked.is_legacy,
                )
                for index, one in enumerate(answers)
            ],
            usage=self._usage([one.end for one in answers]),
            timings=timings_of(answers[0].finish, len(answers)),
        )

    async def chunks(self, events: AsyncIterable[Item]) -> AsyncGenerator[ChatChunk, None]:
        begun: set[int] = set()
        ends: dict[int, Ended] = {}
        answers = [Answer() for _ in range(self._asked.choices)]
        async for index, event in events:
            if self._keep is not None:
                answers[index].add(event)
            if index not in begun:
                begun.add(index)
                yield self._chunk([first_choice(index)])
            if isinstance(event, Ended):
                ends[index] = event
                yield self._last_chunk(index, event)
            else:
                yield self._chunk([event_choice(index, event, legacy=self._asked.is_legacy)])
        if self._keep is not None:
            await self._kept(answers)
        if self._asked.include_usage:
            usage = self._usage([ends[index] for index in sorted(ends)])
            yield self._chunk([], usage, timings_of(ends[0].finish, len(ends)))

    def _last_chunk(self, index: int, ended: Ended) -> ChatChunk:
        """With the timings, as llama-server has them, unless a chunk with the usage follows."""
        asked = self._asked
        timings = UNSET if asked.include_usage else timings_of(ended.finish, asked.choices)
        return self._chunk(
            [last_choice(index, ended, asked.choices, legacy=asked.is_legacy)], timings=timings
        )

    def _usage(self, ends: Sequence[Ended]) -> Usage:
        thinking = sum(ended.thinking_tokens for ended in ends)
        return usage_of([ended.finish for ended in ends], self._asked.choices, thinking)

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


routes = [
    Described(
        "/v1/chat/completions",
        create,
        methods=["POST"],
        body=ChatRequest,
        answer=ChatCompletion,
        events=ChatChunk,
    )
]
