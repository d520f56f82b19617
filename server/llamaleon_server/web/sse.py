"""Server-sent events in OpenAI's form: `data:` lines, `[DONE]` at the end, an error as the last event."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from llamaleon_server.answers.merge import Begun
from llamaleon_server.web.errors import stream_error

DONE = "[DONE]"


class EventStream(EventSourceResponse):
    """Sends `chunks`, which are made from `source`; closes `source` in every case.

    The client may go away before the first chunk is asked for: then no generator between has begun, and
    closing those would not reach the source.
    """

    def __init__(self, chunks: AsyncGenerator[Any, None], source: Begun[Any]) -> None:
        super().__init__(_events(chunks), sep="\n")
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()


async def _events(chunks: AsyncGenerator[Any, None]) -> AsyncGenerator[ServerSentEvent, None]:
    try:
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                yield _event(msgspec.json.encode(chunk).decode())
        yield _event(DONE)
    except Exception as error:
        # The status line has left: an event is all that can still tell. Clients read `error` in it as a
        # failure; [DONE] after it would say that the answer is complete.
        yield _event(msgspec.json.encode(stream_error(error)).decode())


def _event(data: str) -> ServerSentEvent:
    return ServerSentEvent(data=data, sep="\n")
