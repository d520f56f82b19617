"""`/v1/responses`, as OpenAI specifies it; what it leaves out is in docs/responses.md."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Literal

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.answers.merge import begin
from llamaleon_server.errors import BadRequest, NotFound
from llamaleon_server.web.counting import prompt_tokens
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response, stream_error
from llamaleon_server.web.responses_making import Making, conversation_of
from llamaleon_server.web.responses_running import check_after
from llamaleon_server.web.services import Services, services_of
from llamaleon_server.web.sse import NamedEventStream
from llamaleon_server.wire.files import query_descending, query_limit
from llamaleon_server.wire.responses import AskedFields, ResponsesRequest, parse_count, parse_responses
from llamaleon_server.wire.responses_events import StreamEvent
from llamaleon_server.wire.responses_items import Item
from llamaleon_server.wire.responses_object import Deleted, ItemPage, ResponseObject, TokenCount

MOST_ITEMS = 100


class Retrieval(Struct, frozen=True, kw_only=True):
    stream: bool | None = None
    starting_after: int | None = None


class ItemQuery(Struct, frozen=True, kw_only=True):
    after: str | None = None
    limit: int | None = None
    order: Literal["asc", "desc"] | None = None


async def create(request: Request) -> Response:
    """Answer a conversation, whole, streamed, or in the background."""
    asked = parse_responses(await request.body())
    services = services_of(request)
    making = await asyncio.to_thread(Making, services, asked)
    if asked.background:
        running = await services.responses.begin(making, streamed=bool(asked.stream))
        if not asked.stream:
            return json_response(making.response)
        return await _stream(running.follow())
    if not asked.stream:
        return json_response(await while_connected(request, making.whole()))
    begun = await while_connected(request, begin(making.answers()))
    return NamedEventStream(making.told(begun), begun, stream_error)


async def retrieve(request: Request) -> Response:
    """A stored response; with `stream=true` the events of one made in the background as a stream."""
    services = services_of(request)
    name = request.path_params["response_id"]
    query = _retrieval(request)
    running = services.responses.find(name)
    if query.stream:
        after = -1 if query.starting_after is None else query.starting_after
        return await _stream(_replay(services, name, after) if running is None else running.follow(after))
    if running is not None:
        return json_response(running.response)
    return json_response(await asyncio.to_thread(services.registry.responses.get, name))


async def delete(request: Request) -> Response:
    """Forget a response; one that still runs is cancelled first."""
    services = services_of(request)
    name = request.path_params["response_id"]
    if services.responses.find(name) is not None:
        await services.responses.cancel(name)
    await asyncio.to_thread(services.registry.responses.delete, name)
    return json_response(Deleted(id=name, object="response.deleted"))


async def cancel(request: Request) -> Response:
    """Cancel a response that was begun in the background."""
    return json_response(await services_of(request).responses.cancel(request.path_params["response_id"]))


async def input_items(request: Request) -> Response:
    """All items that a response was made from, those of the responses before it included."""
    name = request.path_params["response_id"]
    items = await asyncio.to_thread(services_of(request).registry.responses.inputs, name)
    return json_response(item_page(request, items))


async def input_tokens(request: Request) -> Response:
    """How many tokens a request would have as input."""
    asked = parse_count(await request.body())
    services = services_of(request)
    target, items, _ = await asyncio.to_thread(conversation_of, services, asked)
    counting = prompt_tokens(services.residents, target, asked.ask(items))
    return json_response(TokenCount(input_tokens=await while_connected(request, counting)))


def item_page(request: Request, items: list[Item]) -> ItemPage:
    """Raises: BadRequest, NotFound for `after`."""
    limit = query_limit(request.query_params, 20, MOST_ITEMS)
    if query_descending(request.query_params):
        items = items[::-1]
    after = request.query_params.get("after")
    if after is not None:
        ids = [item.id for item in items]
        if after not in ids:
            raise NotFound(f"Item with id '{after}' not found.", param="after")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    return ItemPage(
        data=page,
        first_id=page[0].id if page else "",
        last_id=page[-1].id if page else "",
        has_more=len(items) > limit,
    )


async def _stream(events: AsyncGenerator[StreamEvent, None]) -> Response:
    begun = await begin(events)
    return NamedEventStream(_rest(begun), begun, stream_error)


async def _rest(begun: Any) -> AsyncGenerator[StreamEvent, None]:
    async for event in begun:
        yield event


async def _replay(services: Services, name: str, after: int) -> AsyncGenerator[StreamEvent, None]:
    """Raises: NotFound; BadRequest if there are no events."""
    stored = await asyncio.to_thread(services.registry.responses.events, name)
    if stored is None:
        raise BadRequest(
            "Only responses made with `background: true` and `stream: true` can be streamed again.",
            param="stream",
        )
    events = msgspec.json.decode(stored, type=list[StreamEvent])
    check_after(after, len(events))
    for event in events[after + 1 :]:
        yield event


def _retrieval(request: Request) -> Retrieval:
    """Raises: BadRequest naming the parameter."""
    query = request.query_params
    stream = query.get("stream", "false").lower()
    if stream not in {"true", "false"}:
        raise BadRequest("`stream` must be true or false.", param="stream")
    after = query.get("starting_after")
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 10):
        raise BadRequest("`starting_after` must be the number of an event.", param="starting_after")
    return Retrieval(stream=stream == "true", starting_after=None if after is None else int(after))


routes = [
    Described(
        "/v1/responses",
        create,
        methods=["POST"],
        body=ResponsesRequest,
        answer=ResponseObject,
        events=StreamEvent,
    ),
    Described(
        "/v1/responses/input_tokens", input_tokens, methods=["POST"], body=AskedFields, answer=TokenCount
    ),
    Described(
        "/v1/responses/{response_id}",
        retrieve,
        methods=["GET"],
        query=Retrieval,
        answer=ResponseObject,
        events=StreamEvent,
    ),
    Described("/v1/responses/{response_id}", delete, methods=["DELETE"], answer=Deleted),
    Described("/v1/responses/{response_id}/cancel", cancel, methods=["POST"], answer=ResponseObject),
    Described(
        "/v1/responses/{response_id}/input_items",
        input_items,
        methods=["GET"],
        query=ItemQuery,
        answer=ItemPage,
    ),
]
