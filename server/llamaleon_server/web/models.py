"""`/v1/models`: bases and adapters under OpenAI's model object, with vLLM's `root` and `parent`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llamaleon_convert.split import files_of
from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.made import LATEST
from llamaleon_server.registry.models import forget
from llamaleon_server.registry.records import ModelEntry
from llamaleon_server.web import anthropic_models
from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.shown import Deleted, Model, ModelList


async def index(request: Request) -> Response:
    if anthropic_models.asked_by_anthropic(request):
        return await anthropic_models.index(request)
    registry = services_of(request).registry
    return json_response({"object": "list", "data": [_model(entry) for entry in registry.listing()]})


async def retrieve(request: Request) -> Response:
    if anthropic_models.asked_by_anthropic(request):
        return await anthropic_models.retrieve(request)
    registry = services_of(request).registry
    return json_response(_model(registry.entry(request.path_params["name"])))


async def delete(request: Request) -> Response:
    """Of a made model, an adapter or one version of it; a base is another program's file.

    `DELETE /llamaleon/bases/{name}` forgets a base.
    """
    name = request.path_params["name"]
    registry = services_of(request).registry
    made = registry.made(name)
    if made is not None and made.name != made.base:
        await asyncio.to_thread(forget, registry, name)
        return json_response({"id": name, "object": "model", "deleted": True})
    if name.removesuffix(LATEST) in registry.base_names() or name in registry.base_names():
        raise BadRequest(
            f"`{name}` is a base model, not an adapter: DELETE /llamaleon/bases/{name} forgets it.",
            param="model",
        )
    await asyncio.to_thread(registry.delete, name)
    return json_response({"id": name, "object": "model", "deleted": True})


def _model(entry: ModelEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": entry.owned_by,
        "root": entry.root,
        "kind": entry.kind,
        "parent": entry.parent,
        "version": entry.version,
        "versions": list(entry.versions),
        "fine_tuned_model": entry.ft_name,
        "chat_template": "model" if entry.chat_template else "fallback",
        "bytes": _bytes(entry.root),
        "missing": entry.missing,
    }


def _bytes(path: str) -> int | None:
    try:
        return sum(file.stat().st_size for file in files_of(Path(path)))
    except OSError:  # the entry says `missing`
        return None


routes = [
    Described("/v1/models", index, methods=["GET"], answer=ModelList),
    Described("/v1/models/{name:path}", retrieve, methods=["GET"], answer=Model),
    Described("/v1/models/{name:path}", delete, methods=["DELETE"], answer=Deleted),
]
