"""Server-sent events: OpenAI's chunks with `[DONE]` at the end, and events with names as newer APIs do.

A failure is the last event of either.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, ClassVar

import msgspec
from msgspec import Struct
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

    done: ClassVar[str | None] = DONE  # the last event's data; None: the last chunk says that it is the last

    def __init__(self, chunks: AsyncGenerator[Any, None], source: Begun[Any]) -> None:
        super().__init__(self._events(chunks), sep="\n")
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()

    async def _events(self, chunks: AsyncGenerator[Any, None]) -> AsyncGenerator[ServerSentEvent, None]:
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    yield _event(chunk, self.name_of(chunk))
            if self.done is not None:
                yield ServerSentEvent(data=self.done, sep="\n")
        except Exception as error:
            # The status line has left: an event is all that can still tell. Clients read `error` in it as a
            # failure; [DONE] after it would say that the answer is complete.
            yield self.failure(error)

    def name_of(self, chunk: Any) -> str | None:
        return None

    def failure(self, error: Exception) -> ServerSentEvent:
        return _event(stream_error(error))


class NamedEventStream(EventStream):
    """Each event carries the name of its kind, which is the `type` of its data; nothing follows the last one.

    `failed` makes the event named "error" of what went wrong.
    """

    done = None

    def __init__(
        self,
        events: AsyncGenerator[Struct, None],
        source: Begun[Any],
        failed: Callable[[Exception], dict[str, Any]],
    ) -> None:
        self._failed = failed
        super().__init__(events, source)

    def name_of(self, chunk: Any) -> str | None:
        name: str = chunk.__struct_config__.tag or chunk.type
        return name

    def failure(self, error: Exception) -> ServerSentEvent:
        return _event(self._failed(error), "error")


def _event(data: Any, name: str | None = None) -> ServerSentEvent:
    return ServerSentEvent(data=msgspec.json.encode(data).decode(), event=name, sep="\n")
