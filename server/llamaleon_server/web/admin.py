"""`/llamaleon/...`: what OpenAI's API has no word for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.answers.answering import template_of
from llamaleon_server.errors import NotFound
from llamaleon_server.hub.recording import release
from llamaleon_server.registry.made import LATEST
from llamaleon_server.registry.modelfile import printed
from llamaleon_server.registry.models import describe
from llamaleon_server.registry.records import AdapterVersion, Base
from llamaleon_server.web.access import allow_path
from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.made import engine_shown, preset_shown, shown
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.shown import Deleted, Unloaded

log = logging.getLogger(__name__)

Text = Annotated[str, Meta(min_length=1)]


class AddBase(Struct, frozen=True):
    path: Text
    name: str | None = None
    projector: Text | None = None  # the mmproj file of a model that sees


class Unload(Struct, frozen=True):
    model: Text


async def add_base(request: Request) -> Response:
    asked = decode(await request.body(), AddBase)
    path = allow_path(request, asked.path, "path")
    projector = None
    if asked.projector is not None:
        projector = allow_path(request, asked.projector, "projector")
    services = services_of(request)
    add = services.registry.add_base
    base = await asyncio.to_thread(add, path, asked.name, projector=projector)
    note_fallback(base)
    services.watcher.rescan()  # what was refused before may fit this base
    return json_response(_base(base))


async def remove_base(request: Request) -> Response:
    """Forget the name and free its memory; the file stays."""
    name = request.path_params["name"]
    services = services_of(request)
    services.registry.remove_base(name)
    with contextlib.suppress(NotFound):  # it was not in memory
        await services.residents.unload(name)
    await asyncio.to_thread(release, services.registry, name)
    return json_response({"id": name, "object": "model", "deleted": True})


async def unload(request: Request) -> Response:
    """Free the memory of a base now, given its name or that of one of its adapters."""
    asked = decode(await request.body(), Unload)
    services = services_of(request)
    base = services.registry.resolve(asked.model).base
    await services.residents.unload(base.name)
    return json_response({"id": base.name, "object": "model", "unloaded": True})


async def show(request: Request) -> Response:
    """Everything known about a base, or about an adapter with its versions, training and evaluation.

    Also about what cannot be served now: a base whose file is gone, an adapter that no longer fits.
    """
    name = request.path_params["name"]
    services = services_of(request)
    registry = services.registry
    if request.query_params.get("modelfile", "0") not in {"", "0", "false"}:
        described = await asyncio.to_thread(describe, registry, name)
        return json_response({"name": name, "modelfile": printed(described.modelfile)})
    made = registry.made(name)
    if made is not None and made.name != made.base:
        return json_response({**shown(services, made), "name": name})
    for base in registry.bases():
        if base.name in {name, name.removesuffix(LATEST)}:
            adapters = sorted({v.model for v in registry.adapters() if v.base == base.name})
            preset = preset_shown(registry.preset(base.name))
            return json_response(
                {**_base(base), "adapters": adapters, **preset, **engine_shown(services, base.name)}
            )
    versions = registry.versions(name)
    newest = registry.deployed(versions[-1].base, versions[-1].adapter)
    if newest is None or newest not in versions:  # none is deployed, or one version was asked for
        newest = versions[-1]
    pinned = {version.full_name for version in registry.pinned(newest.base)}
    return json_response(
        {
            "name": name,
            "kind": "adapter",
            "base": newest.base,
            "fine_tuned_model": newest.ft_name,
            "version": newest.version,
            "manifest": newest.manifest,
            "versions": [_version(version, pinned) for version in versions],
        }
    )


def _version(version: AdapterVersion, pinned: Collection[str]) -> dict[str, Any]:
    manifest = version.manifest
    return {
        "version": version.version,
        "state": version.state,
        "reason": version.reason,
        "pinned": version.full_name in pinned,
        "created": version.created,
        "sha256": version.key,
        "path": str(version.path),
        "fine_tuned_model": version.ft_name,
        "rank": manifest.rank,
        "source": manifest.source,
        "training": manifest.training,
        "evaluation": manifest.evaluation,
    }


def _base(base: Base) -> dict[str, Any]:
    template = template_of(base)
    return {
        "name": base.name,
        "kind": "base",
        "path": str(base.path),
        "architecture": base.architecture,
        "context_tokens": base.n_ctx_train,
        "weight_type": base.weight_type,
        "bytes": base.bytes,
        "created": base.created,
        "missing": base.missing,
        "found_in": base.found_in,
        "projector": None if base.projector is None else str(base.projector),
        "chat_template": "fallback" if template.is_fallback else "model",
        "chat_template_problem": template.problem,
        "fingerprint": msgspec.to_builtins(base.fingerprint),
    }


def note_fallback(base: Base) -> None:
    """Say in the log when chats with a base use the plain fallback, and why."""
    template = template_of(base)
    if template.problem is not None:
        log.warning(
            "%s: its chat template is broken (%s): chats use the plain fallback", base.name, template.problem
        )
    elif template.is_fallback:
        log.warning("%s has no chat template: chats use the plain fallback", base.name)


routes = [
    Described("/llamaleon/bases", add_base, methods=["POST"], body=AddBase, answer=dict[str, Any]),
    Described("/llamaleon/bases/{name:path}", remove_base, methods=["DELETE"], answer=Deleted),
    Described("/llamaleon/unload", unload, methods=["POST"], body=Unload, answer=Unloaded),
    Described("/llamaleon/models/{name:path}", show, methods=["GET"], answer=dict[str, Any]),
]
