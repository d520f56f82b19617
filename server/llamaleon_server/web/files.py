"""`/v1/files`, as OpenAI specifies it."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from llamaleon_server.errors import NotFound
from llamaleon_server.registry.files import FINE_TUNE, RESULTS, StoredFile
from llamaleon_server.web.access import require
from llamaleon_server.web.described import Described
from llamaleon_server.web.multipart import receive
from llamaleon_server.web.objects import file_object, file_page
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.files import check_purpose, expiry_s, files_limit, query_descending
from llamaleon_server.wire.shown import Deleted, File, FileForm, FileList, FileQuery

BYTES = "application/octet-stream"


async def create(request: Request) -> Response:
    files = services_of(request).registry.files
    limit = services_of(request).settings.max_upload_bytes
    form = await receive(request, lambda: files.upload(limit))
    try:
        purpose = check_purpose(form.fields)
        _allow(request, purpose)
        lasting_s = expiry_s(form.fields)
    except BaseException:
        form.upload.abort()
        raise
    expires = None if lasting_s is None else int(time.time()) + lasting_s
    stored = await asyncio.to_thread(form.upload.commit, form.filename, purpose, expires)
    return JSONResponse(file_object(stored))


async def index(request: Request) -> Response:
    files = services_of(request).registry.files
    files.expire()
    _allow(request, request.query_params.get("purpose"))
    page, has_more = files.page(
        purpose=request.query_params.get("purpose"),
        limit=files_limit(request.query_params),
        descending=query_descending(request.query_params),
        after=request.query_params.get("after"),
    )
    return JSONResponse(file_page(page, has_more))


async def retrieve(request: Request) -> Response:
    return JSONResponse(file_object(_file(request)))


async def content(request: Request) -> Response:
    file = _file(request)
    if not file.path.exists():
        raise NotFound(f"The content of {file.id} is gone from {file.path}.", param="file_id")
    return FileResponse(file.path, media_type=BYTES, filename=file.filename)


async def delete(request: Request) -> Response:
    file_id = _file(request).id
    services_of(request).registry.files.delete(file_id)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


def _file(request: Request) -> StoredFile:
    file = services_of(request).registry.files.get(request.path_params["file_id"])
    _allow(request, file.purpose)
    return file


def _allow(request: Request, purpose: str | None) -> None:
    """Training data needs `train`, and so does the list of everything. Raises: Forbidden."""
    if purpose in (None, FINE_TUNE, RESULTS):
        require(request, "train", "Files of every purpose" if purpose is None else f"A {purpose} file")


routes = [
    Described("/v1/files", create, methods=["POST"], form=FileForm, answer=File, upload=True),
    Described("/v1/files", index, methods=["GET"], query=FileQuery, answer=FileList),
    Described("/v1/files/{file_id}", retrieve, methods=["GET"], answer=File),
    Described("/v1/files/{file_id}", delete, methods=["DELETE"], answer=Deleted),
    Described("/v1/files/{file_id}/content", content, methods=["GET"], media=BYTES),
]
