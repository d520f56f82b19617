"""Hot loading: vLLM's two routes, pins, and the list of every adapter version with its state."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from llamaleon_server.errors import AdapterRefused, ModelNotFound, NotFound
from llamaleon_server.registry.hot import load_adapter
from llamaleon_server.web.access import allow_path
from llamaleon_server.web.described import Described
from llamaleon_server.web.objects import adapter_object, watched_failure
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.adapters import LoadLora, UnloadLora, parse_load, parse_unload
from llamaleon_server.wire.shown import Adapter, AdapterList, Unpinned

TEXT = "text/plain; charset=utf-8"


async def load(request: Request) -> Response:
    asked = parse_load(await request.body())
    path = allow_path(request, asked.lora_path, "lora_path")
    services = services_of(request)
    await load_adapter(
        services.registry,
        asked.lora_name,
        path,
        asked.base_model_name,
        replace=asked.load_inplace,
        offer=services.residents.offer,
    )
    return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")


async def unload(request: Request) -> Response:
    name = parse_unload(await request.body()).lora_name
    try:
        await asyncio.to_thread(services_of(request).registry.delete, name)
    except ModelNotFound as error:
        hint = f" Nearest names: {', '.join(error.nearest)}." if error.nearest else ""
        raise NotFound(f"The lora adapter '{name}' cannot be found.{hint}", param="lora_name") from error
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


async def pin(request: Request) -> Response:
    """Keep an adapter in the bank of its engine: now if that runs, and whenever it starts."""
    services = services_of(request)
    name = request.path_params["name"]
    version = await asyncio.to_thread(services.registry.pin, name)
    failures = await services.residents.settle_pins(services.registry.base(version.base))
    refusal = failures.get(version.key)
    if isinstance(refusal, AdapterRefused):
        await asyncio.to_thread(services.registry.unpin, name)
        raise refusal
    return JSONResponse(adapter_object(version, pinned=True))


async def unpin(request: Request) -> Response:
    services = services_of(request)
    name = request.path_params["name"]
    await asyncio.to_thread(services.registry.unpin, name)
    for base in services.registry.bases():
        await services.residents.settle_pins(base)
    return JSONResponse({"id": name, "object": "adapter", "pinned": False})


async def index(request: Request) -> Response:
    registry = services_of(request).registry
    pinned = {version.full_name for version in registry.pinned()}
    versions = [
        adapter_object(version, pinned=version.full_name in pinned) for version in registry.adapters()
    ]
    failures = [watched_failure(file) for file in registry.watched.failures()]
    return JSONResponse({"object": "list", "data": versions + failures})


routes = [
    Described("/v1/load_lora_adapter", load, methods=["POST"], body=LoadLora, media=TEXT),
    Described("/v1/unload_lora_adapter", unload, methods=["POST"], body=UnloadLora, media=TEXT),
    Described("/llamaleon/adapters/{name:path}/pin", pin, methods=["POST"], answer=Adapter),
    Described("/llamaleon/adapters/{name:path}/unpin", unpin, methods=["POST"], answer=Unpinned),
    Described("/llamaleon/adapters", index, methods=["GET"], answer=AdapterList),
]
