"""Stored chat completions, as OpenAI lists, changes and deletes them; and as a file to train on."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.errors import BadRequest, NotFound
from llamaleon_server.registry.files import FINE_TUNE, StoredFile
from llamaleon_server.registry.registry import Registry
from llamaleon_server.registry.stored import StoredCompletions
from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.objects import file_object
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.files import query_descending, query_limit
from llamaleon_server.wire.fine_tuning import metadata_filter
from llamaleon_server.wire.responses_object import Deleted
from llamaleon_server.wire.stored import (
    Export,
    ExportedFile,
    ExportRequest,
    MessagePage,
    NewMetadata,
    StoredCompletion,
    StoredPage,
    preference_rows,
    stored_messages,
    supervised_rows,
)

MOST_LISTED = 100
TERMS = (
    "The terms of some models forbid training other models on their answers: check those of the models that "
    "wrote these."
)


class ListQuery(Struct, frozen=True, kw_only=True):
    """Also `metadata[KEY]=VALUE`, any number of them."""

    after: str | None = None
    limit: int | None = None
    model: str | None = None
    order: Literal["asc", "desc"] | None = None


class MessageQuery(Struct, frozen=True, kw_only=True):
    after: str | None = None
    limit: int | None = None
    order: Literal["asc", "desc"] | None = None


async def index(request: Request) -> Response:
    """Stored completions, oldest first."""
    query = request.query_params
    found, more = await asyncio.to_thread(
        _store(request).page,
        model=query.get("model"),
        metadata=metadata_filter(query),
        after=query.get("after"),
        limit=query_limit(query, 20, MOST_LISTED),
        descending=_descending(request),
    )
    data = [exchange.completion for exchange in found]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return json_response(StoredPage(data=data, first_id=first, last_id=last, has_more=more))


async def retrieve(request: Request) -> Response:
    """One that was stored."""
    exchange = await asyncio.to_thread(_store(request).get, _name(request))
    return json_response(exchange.completion)


async def update(request: Request) -> Response:
    """Replace the metadata: a rating, say."""
    asked = decode(await request.body(), NewMetadata)
    exchange = await asyncio.to_thread(_store(request).set_metadata, _name(request), asked.metadata)
    return json_response(exchange.completion)


async def delete(request: Request) -> Response:
    """Forget it."""
    await asyncio.to_thread(_store(request).delete, _name(request))
    return json_response(Deleted(id=_name(request), object="chat.completion.deleted"))


async def messages(request: Request) -> Response:
    """The messages that it answered."""
    query = request.query_params
    found = stored_messages(await asyncio.to_thread(_store(request).get, _name(request)))
    if _descending(request):
        found = found[::-1]
    after = query.get("after")
    if after is not None:
        names = [message.id for message in found]
        if after not in names:
            raise NotFound(f"No message '{after}' in this completion.", param="after")
        found = found[names.index(after) + 1 :]
    limit = query_limit(query, 20, MOST_LISTED)
    data = found[:limit]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return json_response(MessagePage(data=data, first_id=first, last_id=last, has_more=len(found) > limit))


async def export(request: Request) -> Response:
    """Make a training file of stored completions."""
    asked = decode(await request.body(), ExportRequest)
    if (asked.preferred is None) != (asked.rejected is None):
        missing = "preferred" if asked.preferred is None else "rejected"
        raise BadRequest("`preferred` and `rejected` belong together.", param=missing)
    made, file = await asyncio.to_thread(_export, services_of(request).registry, asked)
    return json_response(
        ExportedFile(**file_object(file), rows=len(made.rows), left_out=made.left_out, warning=TERMS)
    )


def _export(registry: Registry, asked: ExportRequest) -> tuple[Export, StoredFile]:
    """Raises: BadRequest if nothing remains to be learnt."""
    store, wanted = registry.stored, asked.metadata or {}
    if asked.preferred is not None and asked.rejected is not None:
        better, _ = store.page(model=asked.model, metadata={**wanted, **asked.preferred})
        worse, _ = store.page(model=asked.model, metadata={**wanted, **asked.rejected})
        made = preference_rows(better, worse)
    else:
        found, _ = store.page(model=asked.model, metadata=wanted)
        made = supervised_rows(found)
    if not made.rows:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in made.left_out.items())
        raise BadRequest(
            f"No stored completion makes a row{f' (left out: {reasons})' if reasons else ''}.",
            param="metadata",
        )
    data = b"".join(msgspec.json.encode(row) + b"\n" for row in made.rows)
    return made, registry.files.put(asked.filename, FINE_TUNE, data)


def _store(request: Request) -> StoredCompletions:
    return services_of(request).registry.stored


def _name(request: Request) -> str:
    name: str = request.path_params["completion_id"]
    return name


def _descending(request: Request) -> bool:
    """These are listed from the oldest unless asked otherwise. Raises: BadRequest."""
    return "order" in request.query_params and query_descending(request.query_params)


_ONE = "/v1/chat/completions/{completion_id}"
routes = [
    Described("/v1/chat/completions", index, methods=["GET"], query=ListQuery, answer=StoredPage),
    Described(_ONE, retrieve, methods=["GET"], answer=StoredCompletion),
    Described(_ONE, update, methods=["POST"], body=NewMetadata, answer=StoredCompletion),
    Described(_ONE, delete, methods=["DELETE"], answer=Deleted),
    Described(f"{_ONE}/messages", messages, methods=["GET"], query=MessageQuery, answer=MessagePage),
    Described(
        "/v1/datasets/stored_completions",
        export,
        methods=["POST"],
        body=ExportRequest,
        answer=ExportedFile,
    ),
]
