"""`/v1/models`: bases and adapters under OpenAI's model object, with vLLM's `root` and `parent`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llamaleon_server.answers.answering import template_of
from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.records import ModelEntry
from llamaleon_server.registry.registry import Registry
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import services_of


async def index(request: Request) -> Response:
    registry = services_of(request).registry
    return json_response(
        {"object": "list", "data": [_model(registry, entry) for entry in registry.listing()]}
    )


async def retrieve(request: Request) -> Response:
    registry = services_of(request).registry
    return json_response(_model(registry, registry.entry(request.path_params["name"])))


async def delete(request: Request) -> Response:
    """Of an adapter, or one version of it. A base model is another program's file: see `/llamaleon/bases`."""
    name = request.path_params["name"]
    registry = services_of(request).registry
    if any(base.name == name for base in registry.bases()):
        raise BadRequest(
            f"`{name}` is a base model, not an adapter: DELETE /llamaleon/bases/{name} forgets it.",
            param="model",
        )
    await asyncio.to_thread(registry.delete, name)
    return json_response({"id": name, "object": "model", "deleted": True})


def _model(registry: Registry, entry: ModelEntry) -> dict[str, Any]:
    fallback = template_of(registry.base(entry.parent or entry.id)).is_fallback
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": entry.owned_by,
        "root": entry.root,
        "parent": entry.parent,
        "version": entry.version,
        "versions": list(entry.versions),
        "fine_tuned_model": entry.ft_name,
        "chat_template": "fallback" if fallback else "model",
        "bytes": _bytes(entry.root),
        "missing": entry.missing,
    }


def _bytes(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:  # the entry says `missing`
        return None


routes = [
    Route("/v1/models", index, methods=["GET"]),
    Route("/v1/models/{name:path}", retrieve, methods=["GET"]),
    Route("/v1/models/{name:path}", delete, methods=["DELETE"]),
]
