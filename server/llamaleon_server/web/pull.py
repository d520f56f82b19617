"""`POST /llamaleon/pull` and `GET /llamaleon/search`: models from the hub and from Ollama registries."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.answers.merge import Begun, begin
from llamaleon_server.errors import BadRequest
from llamaleon_server.hub.progress import SUCCESS, Progress, Source
from llamaleon_server.hub.pull import pull
from llamaleon_server.hub.search import FoundRepo, search
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import Services, services_of
from llamaleon_server.web.sse import EventStream
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.hub import Address, Text, Token

# Not the default pool's threads: a hub that does not answer must not hold up what writes to the disk.
SEARCHES = ThreadPoolExecutor(2, "search")


class PullRequest(Struct, frozen=True):
    """`token` goes to the hub or registry; without it this server's own, unless a mirror is named."""

    model: Text
    token: Token | None = None
    mirror: Address | None = None  # URL, in place of the public hub or registry
    stream: bool = True


class SearchQuery(Struct, frozen=True):
    q: str = ""
    limit: int = 10


class SearchAnswer(Struct, frozen=True):
    data: list[FoundRepo]
    object: str = "list"


async def fetch(request: Request) -> Response:
    """Fetch a model and register it, with the progress as server-sent events; the last one has its name."""
    asked = decode(await request.body(), PullRequest)
    services = services_of(request)
    source = Source(token=asked.token, mirror=asked.mirror)
    begun = await while_connected(request, begin(pull(services.registry, asked.model, source=source)))
    if asked.stream:
        return EventStream(_steps(begun, services), begun)
    return json_response(await while_connected(request, _last(begun, services)))


async def _steps(begun: Begun[Progress], services: Services) -> AsyncGenerator[Progress, None]:
    async for progress in begun:
        if progress.status == SUCCESS:
            services.watcher.rescan()  # what was refused before may fit this base
        yield progress


async def _last(begun: Begun[Progress], services: Services) -> Progress:
    async with contextlib.aclosing(begun):
        return [progress async for progress in _steps(begun, services)][-1]


async def find(request: Request) -> Response:
    """GGUF repositories of the Hugging Face hub, the most downloaded first, with what of each fits here."""
    try:
        query = msgspec.convert(dict(request.query_params), SearchQuery, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"`limit`: {error}.", param="limit") from error
    asked = functools.partial(search, query.q, limit=query.limit)
    found = await asyncio.get_running_loop().run_in_executor(SEARCHES, asked)
    return json_response(SearchAnswer(found))


routes = [
    Described("/llamaleon/pull", fetch, methods=["POST"], body=PullRequest, answer=Progress, events=Progress),
    Described("/llamaleon/search", find, methods=["GET"], query=SearchQuery, answer=SearchAnswer),
]
