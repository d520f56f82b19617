"""`POST /api/create`: a model of a model, of uploaded files, with adapters and what goes with every chat."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import read_header
from llamaleon_server.errors import BadRequest, DownloadFailed, ModelNotFound, NotFound
from llamaleon_server.hub.progress import SUCCESS
from llamaleon_server.registry import models
from llamaleon_server.registry.modelfile import AdapterLine, Modelfile, parse
from llamaleon_server.registry.registry import Registry
from llamaleon_server.web.access import allow_path
from llamaleon_server.web.described import Described
from llamaleon_server.web.ollama.blobs import release, uploaded
from llamaleon_server.web.ollama.progress import progress
from llamaleon_server.web.ollama.pull import pulling
from llamaleon_server.web.services import Services, services_of
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.ollama.models import LATEST, CreateRequest, Status


async def create(request: Request) -> Response:
    """Make a model, or replace one of that name."""
    asked = decode(await request.body(), CreateRequest)
    asked.check()
    asked.wanted()
    services = services_of(request)
    modelfile = await asyncio.to_thread(_modelfile, services.registry, asked)
    for field, path in models.paths_of(modelfile):
        if path.parent != services.registry.home / "blobs":
            allow_path(request, str(path), field)
    lines = _made(services, asked, modelfile)
    return await progress(request, lines, stream=asked.stream is not False)


async def _made(
    services: Services, asked: CreateRequest, modelfile: Modelfile
) -> AsyncGenerator[Status, None]:
    async with contextlib.aclosing(_fetched(services.registry, modelfile.from_)) as fetched:
        async for line in fetched:
            yield line
    steps: asyncio.Queue[str | None] = asyncio.Queue()
    making = asyncio.create_task(_make(services, asked, modelfile, steps))
    making.add_done_callback(lambda _: steps.put_nowait(None))
    try:
        while (step := await steps.get()) is not None:
            yield Status(status=step)
        await making
        yield Status(status=SUCCESS)
    finally:
        making.cancel()
        await asyncio.wait([making])


async def _fetched(registry: Registry, name: str) -> AsyncGenerator[Status, None]:
    """Pull what it is made of if nothing here has that name, as Ollama does."""
    if models.is_path(name):
        return
    try:
        registry.resolve(name)
    except ModelNotFound as unknown:
        async with contextlib.aclosing(pulling(registry, name)) as lines:
            try:
                async for line in lines:
                    if line.status != SUCCESS:
                        yield line
            except DownloadFailed as failed:
                why = f"{unknown.message} It cannot be pulled either: {failed.message}"
                raise NotFound(why, param="from") from failed


async def _make(
    services: Services, asked: CreateRequest, modelfile: Modelfile, steps: asyncio.Queue[str | None]
) -> None:
    registry, name = services.registry, asked.wanted().removesuffix(LATEST)
    own = bool(asked.files) and modelfile.from_.startswith(str(registry.home / "blobs"))
    if own:
        steps.put_nowait("reading the model")
        await asyncio.to_thread(registry.add_base, Path(modelfile.from_), name)
        modelfile = msgspec.structs.replace(modelfile, from_=name)
        if modelfile == Modelfile(from_=name):
            return
    loop = asyncio.get_running_loop()

    def say(step: str) -> None:
        loop.call_soon_threadsafe(steps.put_nowait, step)

    made = await models.make(
        registry,
        name,
        modelfile,
        own=own,
        offer=services.residents.offer,
        say=say,
    )
    for note in made.notes:
        steps.put_nowait(note)
    taken = [line.path for line in modelfile.adapters if line.path is not None]  # copied by now
    await asyncio.to_thread(release, registry, taken)


def _modelfile(registry: Registry, asked: CreateRequest) -> Modelfile:
    """Raises: BadRequest naming the field."""
    if asked.modelfile:
        return parse(asked.modelfile)
    weights, adapters = _files(registry, asked.files or {})
    if asked.from_ and weights:
        raise BadRequest("`from` and `files` both bring a model: give one of them.", param="files")
    for name, digest in (asked.adapters or {}).items():
        adapters.append(AdapterLine(source=name, path=uploaded(registry, digest, f"adapters.{name}")))
    if len(weights) > 1:
        raise BadRequest("`files`: one model, please. Of a split model send one merged file.", param="files")
    if not asked.from_ and not weights:
        raise BadRequest("`files` holds no model.", param="files")
    return Modelfile(
        from_=asked.from_ or str(weights[0]),
        adapters=tuple(adapters),
        parameters=tuple(_parameters(asked.parameters or {})),
        system=asked.system,
        template=asked.template or None,
        messages=asked.turns(),
        licenses=asked.licenses(),
    )


def _parameters(given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """One by one: a list is several of one name, null says nothing."""
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                yield name, one


def _files(registry: Registry, files: dict[str, str]) -> tuple[list[Path], list[AdapterLine]]:
    """(models, adapters) among uploaded files. Raises: BadRequest."""
    weights, adapters = [], []
    for name, digest in files.items():
        path = uploaded(registry, digest, f"files.{name}")
        try:
            kind = read_header(path).kind
        except ConvertError as error:
            raise BadRequest(f"`files.{name}` cannot be used: {error}", param=f"files.{name}") from error
        if kind == "adapter":
            adapters.append(AdapterLine(source=name, path=path))
        elif kind == "model":
            weights.append(path)
        else:
            raise BadRequest(f"`files.{name}` is a {kind}, not a model or an adapter.", param=f"files.{name}")
    return weights, adapters


routes = [
    Described("/api/create", create, methods=["POST"], body=CreateRequest, answer=Status, lines=Status),
]
