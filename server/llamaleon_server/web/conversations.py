"""`/v1/conversations`, as OpenAI specifies it: items that responses read and add to."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.conversations import Conversation
from llamaleon_server.registry.registry import Registry
from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.responses import ItemQuery, item_page
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.metadata import Metadata
from llamaleon_server.wire.responses_items import Item, parse_items
from llamaleon_server.wire.responses_object import Deleted, ItemPage

MOST_AT_ONCE = 20  # OpenAI's


class NewConversation(Struct, frozen=True, kw_only=True):
    items: list[dict[str, Any]] | None = None
    metadata: Metadata | None = None


class NewMetadata(Struct, frozen=True, kw_only=True):
    metadata: Metadata | None


class NewItems(Struct, frozen=True, kw_only=True):
    items: list[dict[str, Any]]


async def create(request: Request) -> Response:
    """Begin a conversation, with items if there are some already."""
    body = await request.body()
    asked = decode(body, NewConversation) if body else NewConversation()
    registry = _registry(request)
    items = _items(registry, asked.items or [])
    return json_response(await asyncio.to_thread(registry.conversations.add, items, asked.metadata or {}))


async def retrieve(request: Request) -> Response:
    """A conversation, without its items."""
    return json_response(_registry(request).conversations.get(_name(request)))


async def update(request: Request) -> Response:
    """Replace the metadata."""
    asked = decode(await request.body(), NewMetadata)
    store = _registry(request).conversations
    return json_response(await asyncio.to_thread(store.set_metadata, _name(request), asked.metadata or {}))


async def delete(request: Request) -> Response:
    """Forget a conversation and its items."""
    await asyncio.to_thread(_registry(request).conversations.delete, _name(request))
    return json_response(Deleted(id=_name(request), object="conversation.deleted"))


async def index(request: Request) -> Response:
    """The items of a conversation."""
    items = await asyncio.to_thread(_registry(request).conversations.items, _name(request))
    return json_response(item_page(request, items))


async def add(request: Request) -> Response:
    """Add items to the end of a conversation."""
    registry = _registry(request)
    items = _items(registry, decode(await request.body(), NewItems).items)
    if not items:
        raise BadRequest("`items` must not be empty.", param="items")
    await asyncio.to_thread(registry.conversations.extend, _name(request), items)
    page = ItemPage(data=items, first_id=items[0].id, last_id=items[-1].id, has_more=False)
    return json_response(page)


async def item(request: Request) -> Response:
    """One item of a conversation."""
    find = _registry(request).conversations.item
    return json_response(await asyncio.to_thread(find, _name(request), request.path_params["item_id"]))


async def delete_item(request: Request) -> Response:
    """Take an item out of a conversation."""
    store = _registry(request).conversations
    return json_response(
        await asyncio.to_thread(store.delete_item, _name(request), request.path_params["item_id"])
    )


def _registry(request: Request) -> Registry:
    return services_of(request).registry


def _name(request: Request) -> str:
    name: str = request.path_params["conversation_id"]
    return name


def _items(registry: Registry, given: list[dict[str, Any]]) -> list[Item]:
    """Raises: BadRequest naming the field."""
    if len(given) > MOST_AT_ONCE:
        raise BadRequest(f"`items`: at most {MOST_AT_ONCE} at once, got {len(given)}.", param="items")
    return registry.responses.referred(parse_items(given, "items"))


routes = [
    Described(
        "/v1/conversations",
        create,
        methods=["POST"],
        body=NewConversation,
        optional=True,
        answer=Conversation,
    ),
    Described("/v1/conversations/{conversation_id}", retrieve, methods=["GET"], answer=Conversation),
    Described(
        "/v1/conversations/{conversation_id}", update, methods=["POST"], body=NewMetadata, answer=Conversation
    ),
    Described("/v1/conversations/{conversation_id}", delete, methods=["DELETE"], answer=Deleted),
    Described(
        "/v1/conversations/{conversation_id}/items", index, methods=["GET"], query=ItemQuery, answer=ItemPage
    ),
    Described(
        "/v1/conversations/{conversation_id}/items", add, methods=["POST"], body=NewItems, answer=ItemPage
    ),
    Described("/v1/conversations/{conversation_id}/items/{item_id}", item, methods=["GET"], answer=Item),
    Described(
        "/v1/conversations/{conversation_id}/items/{item_id}",
        delete_item,
        methods=["DELETE"],
        answer=Conversation,
    ),
]
