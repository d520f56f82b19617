"""A stream of JSON objects, one to a line; a failure is the last of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llamaleon_server.answers.merge import Begun


class LineStream(StreamingResponse):
    """Sends `lines`, which are made from `source`; closes `source` in every case, as `EventStream` does."""

    media_type = "application/x-ndjson"

    def __init__(
        self,
        lines: AsyncGenerator[Any, None],
        source: Begun[Any],
        failed: Callable[[Exception], dict[str, Any]],
    ) -> None:
        super().__init__(_encoded(lines, failed))
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()


async def _encoded(
    lines: AsyncGenerator[Any, None], failed: Callable[[Exception], dict[str, Any]]
) -> AsyncGenerator[bytes, None]:
    try:
        async with contextlib.aclosing(lines):
            async for line in lines:
                yield msgspec.json.encode(line) + b"\n"
    except Exception as error:  # the status line has left: a line is all that can still tell
        yield msgspec.json.encode(failed(error)) + b"\n"
