"""Hot loading: vLLM's two routes, pins, versions with promotion and rollback, and the list of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from llamaleon_server.errors import AdapterRefused, BadRequest, ModelNotFound, NotFound
from llamaleon_server.registry.hot import load_adapter
from llamaleon_server.registry.records import AdapterVersion
from llamaleon_server.web.access import allow_path
from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.objects import adapter_object, watched_failure
from llamaleon_server.web.services import Services, services_of
from llamaleon_server.wire.adapters import LoadLora, UnloadLora, parse_load, parse_unload
from llamaleon_server.wire.shown import Adapter, AdapterList, RolledBack, Unpinned, VersionList

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
    return JSONResponse(shown(services, [version])[0])


async def unpin(request: Request) -> Response:
    services = services_of(request)
    name = request.path_params["name"]
    await asyncio.to_thread(services.registry.unpin, name)
    for base in services.registry.bases():
        await services.residents.settle_pins(base)
    return JSONResponse({"id": name, "object": "adapter", "pinned": False})


async def promote(request: Request) -> Response:
    """The version that the name says serves from now on under the bare name. Running requests keep theirs."""
    services = services_of(request)
    name = request.path_params["name"]
    version, number = services.registry.named_version(name)
    if number is None:
        raise BadRequest(
            f"`{name}` names no version: write which, e.g. `{name}@{version.version}`, or the ft: name.",
            param="name",
        )
    base = services.registry.resolve(version.full_name).base  # it fits this file, which is there
    await services.residents.offer(base, version)  # what its engine refuses must not become the served one
    version = await asyncio.to_thread(services.registry.deploy, version)
    await services.residents.settle_pins(base)
    return JSONResponse(shown(services, [version])[0])


async def rollback(request: Request) -> Response:
    """The version that was deployed before serves again. Running requests keep theirs."""
    services = services_of(request)
    left, back = await asyncio.to_thread(services.registry.roll_back, request.path_params["name"])
    await services.residents.settle_pins(services.registry.base(back.base))
    return JSONResponse({**shown(services, [back])[0], "rolled_back_from": left.version})


async def versions(request: Request) -> Response:
    """Every version of an adapter, oldest first, and when which was deployed."""
    services = services_of(request)
    version, _ = services.registry.named_version(request.path_params["name"])
    mine = [
        one
        for one in services.registry.adapters()
        if (one.base, one.adapter) == (version.base, version.adapter)
    ]
    history = services.registry.deployments(version.base, version.adapter)
    return json_response(
        {"object": "list", "id": version.model, "data": shown(services, mine), "deployments": history}
    )


def shown(services: Services, found: Sequence[AdapterVersion]) -> list[dict[str, Any]]:
    """Each with whether it serves and whether it is pinned."""
    registry = services.registry
    pinned = {version.full_name for version in registry.pinned()}
    serving = registry.serving()
    return [
        adapter_object(
            version,
            pinned=version.full_name in pinned,
            serving=(version.base, version.adapter, version.version) in serving,
        )
        for version in found
    ]


async def index(request: Request) -> Response:
    services = services_of(request)
    registry = services.registry
    versions = shown(services, registry.adapters())
    failures = [watched_failure(file) for file in registry.watched.failures()]
    return JSONResponse({"object": "list", "data": versions + failures})


routes = [
    Described("/v1/load_lora_adapter", load, methods=["POST"], body=LoadLora, media=TEXT),
    Described("/v1/unload_lora_adapter", unload, methods=["POST"], body=UnloadLora, media=TEXT),
    Described("/llamaleon/adapters/{name:path}/pin", pin, methods=["POST"], answer=Adapter),
    Described("/llamaleon/adapters/{name:path}/unpin", unpin, methods=["POST"], answer=Unpinned),
    Described("/llamaleon/adapters/{name:path}/promote", promote, methods=["POST"], answer=Adapter),
    Described("/llamaleon/adapters/{name:path}/rollback", rollback, methods=["POST"], answer=RolledBack),
    Described("/llamaleon/adapters/{name:path}/versions", versions, methods=["GET"], answer=VersionList),
    Described("/llamaleon/adapters", index, methods=["GET"], answer=AdapterList),
]
