"""Adapters to and from the Hugging Face hub: `POST /llamaleon/push`, `POST /llamaleon/pull_adapter`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypeVar

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llamaleon_server.errors import AdapterRefused
from llamaleon_server.hub.adapter_pull import fetch_adapter
from llamaleon_server.hub.progress import Source
from llamaleon_server.hub.publish import Published, Wish, publish
from llamaleon_server.registry.hot import load_adapter
from llamaleon_server.web.adapters import shown
from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.hub import Address, Token
from llamaleon_server.wire.shown import Adapter

# Not the default pool's threads: an upload lasts, and others wait for those.
TRANSFERS = ThreadPoolExecutor(2, "hub")
Result = TypeVar("Result")
Text = Annotated[str, Meta(min_length=1)]


class PushRequest(Struct, frozen=True, kw_only=True):
    """`token` goes to the hub; without it this server's own, unless a mirror is named. It is never logged."""

    model: Text
    repo: Text
    private: bool = False
    license: Text | None = None
    base_model: Text | None = None
    revision: Text = "main"
    message: Text | None = None
    token: Token | None = None
    mirror: Address | None = None


class PullAdapterRequest(Struct, frozen=True, kw_only=True):
    """`base`: its base model here; without it the one that it fits."""

    repo: Text
    name: Text
    base: Text | None = None
    replace: bool = False
    token: Token | None = None
    mirror: Address | None = None


async def push(request: Request) -> Response:
    """Upload one version of an adapter with a model card: the deployed one, or the one that is named."""
    asked = decode(await request.body(), PushRequest)
    registry = services_of(request).registry
    version, _ = registry.named_version(asked.model)
    wish = Wish(
        repo=asked.repo,
        private=asked.private,
        license=asked.license,
        base_model=asked.base_model,
        revision=asked.revision,
        message=asked.message,
    )
    source = Source(token=asked.token, mirror=asked.mirror)
    return json_response(await _in_thread(functools.partial(publish, registry, version, wish, source)))


async def pull_adapter(request: Request) -> Response:
    """Download an adapter, check it against its base, and deploy it under a name."""
    asked = decode(await request.body(), PullAdapterRequest)
    services = services_of(request)
    source = Source(token=asked.token, mirror=asked.mirror)
    path = await _in_thread(functools.partial(fetch_adapter, asked.repo, source))
    try:
        version = await load_adapter(
            services.registry,
            asked.name,
            path,
            asked.base,
            replace=asked.replace,
            offer=services.residents.offer,
        )
    except AdapterRefused as error:  # by its place in the hub, not by that in the cache
        raise AdapterRefused(error.message.replace(str(path), asked.repo), param="repo") from error
    return JSONResponse(shown(services, [version])[0])


async def _in_thread(work: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(TRANSFERS, work)


routes = [
    Described("/llamaleon/push", push, methods=["POST"], body=PushRequest, answer=Published),
    Described(
        "/llamaleon/pull_adapter", pull_adapter, methods=["POST"], body=PullAdapterRequest, answer=Adapter
    ),
]
