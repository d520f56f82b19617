"""`POST /api/pull`: a model from Ollama's registry or the hub; `POST /api/push` is refused."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.hub.pull import pull as pulled
from llamaleon_server.registry.registry import Registry
from llamaleon_server.web.described import Described
from llamaleon_server.web.ollama.progress import progress
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.decode import decode, refuse
from llamaleon_server.wire.ollama.models import PullRequest, Status


async def pull(request: Request) -> Response:
    """Fetch a model and register it under its name."""
    asked = decode(await request.body(), PullRequest)
    name = asked.wanted()
    if asked.insecure and "://" not in name:
        name = f"http://{name}"
    lines = pulling(services_of(request).registry, name)
    return await progress(request, lines, stream=asked.stream is not False)


async def pulling(registry: Registry, name: str) -> AsyncGenerator[Status, None]:
    """Raises: as `hub.pull`."""
    async with contextlib.aclosing(pulled(registry, name, ollama=True)) as steps:
        async for step in steps:
            yield Status(status=step.status, digest=step.digest, total=step.total, completed=step.completed)


async def push(request: Request) -> Response:
    """Refused: this server publishes nothing."""
    raise refuse("push", "this server publishes nothing. Upload the GGUF to the hub yourself.")


routes = [
    Described("/api/pull", pull, methods=["POST"], body=PullRequest, answer=Status, lines=Status),
    Described("/api/push", push, methods=["POST"], status=400),
]
