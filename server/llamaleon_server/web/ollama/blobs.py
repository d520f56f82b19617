"""`/api/blobs/sha256:HEX`: files that a client uploads before it creates a model of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.errors import BadRequest, NotFound
from llamaleon_server.registry.blobs import disk_errors, sync_directory
from llamaleon_server.registry.registry import Registry
from llamaleon_server.web.described import NOTHING, Described
from llamaleon_server.web.services import services_of

WAITS_S = 86400.0  # how long a blob may wait for the model that is made of it

_DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")


def blob_path(registry: Registry, digest: str, param: str = "digest") -> Path:
    """Where the blob lies, whether or not it does. Raises: BadRequest."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise BadRequest(f"`{param}`: {digest!r} is not sha256: and 64 hexadecimal digits.", param=param)
    return registry.home / "blobs" / f"sha256-{match['hex']}"


def uploaded(registry: Registry, digest: str, param: str) -> Path:
    """Raises: BadRequest if it was never uploaded."""
    path = blob_path(registry, digest, param)
    if not path.exists():
        raise BadRequest(f"`{param}`: the blob {digest} is not here. Upload it first.", param=param)
    return path


def release(registry: Registry, paths: Iterable[Path]) -> None:
    """Remove these blobs where no base is one of them, and those that have waited long for a use."""
    folder = registry.home / "blobs"
    used = {base.path for base in registry.bases()}
    done = {path for path in paths if path.parent == folder}
    old = {path for path in folder.glob("*sha256-*") if _is_old(path)}
    for path in (done | old) - used:
        path.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > WAITS_S
    except FileNotFoundError:  # an upload that has just got its name
        return False


async def exists(request: Request) -> Response:
    """Whether a blob is here."""
    path = blob_path(services_of(request).registry, request.path_params["digest"])
    if not path.exists():
        raise NotFound(f"The blob {request.path_params['digest']} is not here.", param="digest")
    return Response()


async def upload(request: Request) -> Response:
    """Store a blob under its digest, which is checked."""
    digest = request.path_params["digest"]
    path = blob_path(services_of(request).registry, digest)
    if path.exists():
        return Response()
    path.parent.mkdir(exist_ok=True)
    coming = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        found = await _receive(request, coming)
        if path.name != f"sha256-{found}":
            raise BadRequest(f"The bytes are of sha256:{found}, not of {digest}.", param="digest")
        coming.replace(path)
        sync_directory(path.parent)
    finally:
        coming.unlink(missing_ok=True)
    return Response(status_code=201)


async def _receive(request: Request, path: Path) -> str:
    """The sha256 of what came. Raises: StorageFull."""
    digest = hashlib.sha256()
    with disk_errors("the blob"), path.open("wb") as file:
        async for piece in request.stream():
            await asyncio.to_thread(file.write, piece)
            digest.update(piece)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    return digest.hexdigest()


routes = [
    Described("/api/blobs/{digest}", exists, methods=["HEAD"], media=NOTHING),
    Described("/api/blobs/{digest}", upload, methods=["POST"], status=201, media=NOTHING, upload=True),
]
