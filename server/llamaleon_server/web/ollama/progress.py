"""What takes a while and says how far it is: line by line, or only how it ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable

from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.answers.merge import begin
from llamaleon_server.web.bodies import failed_stream
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.ndjson import LineStream
from llamaleon_server.wire.ollama.models import Status


async def progress(request: Request, lines: AsyncGenerator[Status, None], *, stream: bool) -> Response:
    """Closing the connection closes `lines`. What fails before the first line is a plain error answer."""
    if not stream:
        return json_response(await while_connected(request, _last(lines)))
    begun = await while_connected(request, begin(lines))
    return LineStream(_each(begun), begun, lambda error: failed_stream(request.scope, error))


async def _each(lines: AsyncIterable[Status]) -> AsyncGenerator[Status, None]:
    async for line in lines:
        yield line


async def _last(lines: AsyncIterable[Status]) -> Status:
    last = Status(status="success")
    async for line in lines:
        last = line
    return last
