"""What models there are: `/api/tags`, `/api/show`, `/api/ps`, `/api/copy`, `/api/delete`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.errors import LlamaleonError, NotFound
from llamaleon_server.hub.recording import release as release_pulled
from llamaleon_server.registry import models
from llamaleon_server.registry.modelfile import printed, written
from llamaleon_server.registry.records import Base, ModelEntry, Target
from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.residents import ResidentInfo
from llamaleon_server.web.described import NOTHING, Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.ollama.blobs import release as release_blobs
from llamaleon_server.web.ollama.facts import capabilities, details_of, digest_of, model_info
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.ollama.answers import rfc3339
from llamaleon_server.wire.ollama.models import (
    LATEST,
    CopyRequest,
    ListedModel,
    LoadedList,
    LoadedModel,
    ModelList,
    Named,
    Shown,
    ShownMessage,
    ShowRequest,
    tagged,
)

log = logging.getLogger(__name__)

FOR_EVER_S = 100 * 365 * 86400  # clients want a time: none of them is used for so long


async def tags(request: Request) -> Response:
    """Models that can be asked for, the newest first."""
    registry = services_of(request).registry
    return json_response(ModelList(models=await asyncio.to_thread(_listed, registry)))


async def show(request: Request) -> Response:
    """Everything known about a model: Modelfile, template, parameters, the metadata of its file."""
    asked = decode(await request.body(), ShowRequest)
    registry = services_of(request).registry
    shown = await asyncio.to_thread(_shown, registry, asked.wanted(), verbose=bool(asked.verbose))
    return json_response(shown)


async def ps(request: Request) -> Response:
    """Models in memory."""
    services = services_of(request)
    known = {base.name: base for base in services.registry.bases()}
    infos = [info for info in services.residents.ps() if info.name in known]
    return json_response(LoadedList(models=[_loaded(known[info.name], info) for info in infos]))


async def copy(request: Request) -> Response:
    """Give a model another name."""
    asked = decode(await request.body(), CopyRequest)
    registry = services_of(request).registry
    await asyncio.to_thread(models.copy, registry, asked.source, asked.destination)
    return Response()


async def delete(request: Request) -> Response:
    """Forget a name. The file of a base stays, unless it was uploaded or pulled into this home."""
    asked = decode(await request.body(), Named)
    services = services_of(request)
    base = await asyncio.to_thread(_forget, services.registry, asked.wanted())
    if base is not None:
        with contextlib.suppress(NotFound):  # it was not in memory
            await services.residents.unload(base.name)
        await asyncio.to_thread(release_blobs, services.registry, [base.path])
        await asyncio.to_thread(release_pulled, services.registry, base.name)
    return Response()


def _listed(registry: Registry) -> list[ListedModel]:
    entries = sorted(registry.listing(), key=lambda entry: entry.created, reverse=True)
    listed = []
    for entry in entries:
        try:
            listed.append(_entry(registry, entry))
        except (LlamaleonError, OSError) as error:  # its file is gone, or no longer what it was made for
            log.info("%s is not listed: %s", entry.id, error)
    return listed


def _entry(registry: Registry, entry: ModelEntry) -> ListedModel:
    """Raises: as `registry.resolve`; OSError."""
    target = registry.resolve(entry.id)
    name = tagged(entry.id)
    return ListedModel(
        name=name,
        model=name,
        modified_at=rfc3339(entry.created),
        size=target.base.bytes + sum(version.path.stat().st_size for version, _ in target.adapters),
        digest=digest_of(target),
        details=details_of(target.base, entry.parent or ""),
    )


def _shown(registry: Registry, name: str, *, verbose: bool) -> Shown:
    found = models.describe(registry, name)
    base, preset, modelfile = found.base, found.preset, found.modelfile
    parameters = "\n".join(f"{key:<30} {written(value)}" for key, value in modelfile.parameters)
    template = modelfile.template if modelfile.template is not None else base.chat_template
    messages = [ShownMessage(role=role, content=text) for role, text in modelfile.messages]
    return Shown(
        license="\n".join(modelfile.licenses) or UNSET,
        modelfile=printed(modelfile),
        parameters=parameters or UNSET,
        template=template or "",
        system=preset.system or UNSET,
        details=details_of(base, "" if name == base.name else base.name),
        messages=messages or UNSET,
        model_info=model_info(base, verbose=verbose),
        capabilities=capabilities(base, registry.resolve(name)),
        modified_at=rfc3339(found.modified),
    )


def _loaded(base: Base, info: ResidentInfo) -> LoadedModel:
    target = Target(requested=base.name, base=base)
    ready = info.ready
    model_bytes = 0 if ready is None else ready.model_bytes
    name = tagged(info.name)
    return LoadedModel(
        name=name,
        model=name,
        size=max(model_bytes, info.resident_bytes or 0),
        size_vram=model_bytes if ready is not None and ready.gpu_layers else 0,
        digest=digest_of(target),
        details=details_of(base),
        expires_at=rfc3339(min(info.expires or math.inf, time.time() + FOR_EVER_S)),
        context_length=0 if ready is None else ready.context_tokens,
    )


def _forget(registry: Registry, name: str) -> Base | None:
    """Whatever it names; the base if it was one."""
    for base in registry.bases():
        if name in {base.name, tagged(base.name)}:
            registry.remove_base(base.name)
            return base
    if registry.made(name) is not None:
        models.forget(registry, name)
    else:
        registry.delete(name.removesuffix(LATEST))
    return None


routes = [
    Described("/api/tags", tags, methods=["GET"], answer=ModelList),
    Described("/api/show", show, methods=["POST"], body=ShowRequest, answer=Shown),
    Described("/api/ps", ps, methods=["GET"], answer=LoadedList),
    Described("/api/copy", copy, methods=["POST"], body=CopyRequest, media=NOTHING),
    Described("/api/delete", delete, methods=["DELETE"], body=Named, media=NOTHING),
]
