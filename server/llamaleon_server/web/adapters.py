"""Hot loading: vLLM's two routes, and the list of every adapter version with its state."""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from llamaleon_server.errors import ModelNotFound, NotFound
from llamaleon_server.registry.hot import load_adapter
from llamaleon_server.web.objects import adapter_object, watched_failure
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.adapters import parse_load, parse_unload


async def load(request: Request) -> Response:
    asked = parse_load(await request.body())
    await load_adapter(
        services_of(request).registry,
        asked.lora_name,
        Path(asked.lora_path),
        asked.base_model_name,
        replace=asked.load_inplace,
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


async def index(request: Request) -> Response:
    registry = services_of(request).registry
    versions = [adapter_object(version) for version in registry.adapters()]
    failures = [watched_failure(file) for file in registry.watched.failures()]
    return JSONResponse({"object": "list", "data": versions + failures})


routes = [
    Route("/v1/load_lora_adapter", load, methods=["POST"]),
    Route("/v1/unload_lora_adapter", unload, methods=["POST"]),
    Route("/llamaleon/adapters", index, methods=["GET"]),
]
