"""Anthropic's API: `POST /v1/messages`, whole and streamed, and counting what it would take."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.answers.answering import Item, answering, collected
from llamaleon_server.answers.merge import begin
from llamaleon_server.chat.ask import Ask
from llamaleon_server.registry.records import Target
from llamaleon_server.web.bodies import failed_stream
from llamaleon_server.web.counting import prompt_tokens
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import Services, services_of
from llamaleon_server.web.sse import NamedEventStream
from llamaleon_server.wire.anthropic import Conversation, MessagesRequest, parse_count, parse_messages
from llamaleon_server.wire.anthropic_answer import Message, MessageStream, StreamEvent, whole_message
from llamaleon_server.wire.decode import refuse


class Counted(Struct, frozen=True):
    input_tokens: int


async def create(request: Request) -> Response:
    """Answer a conversation in Anthropic's form."""
    asked = parse_messages(await request.body())
    services = services_of(request)
    target = services.registry.resolve(asked.model)
    ask = asked.ask()
    events = answering(services.generate, target, ask, services.settings.engine.parallel_sequences)
    if not asked.stream:
        return json_response(await while_connected(request, _whole(asked, events)))
    begun = await while_connected(request, begin(events))
    chunks = _streamed(asked, begun, services, target, ask)
    return NamedEventStream(chunks, begun, lambda error: failed_stream(request.scope, error))


async def count_tokens(request: Request) -> Response:
    """How many tokens a conversation has, images not counted. Loads the model if it is not in memory."""
    asked = parse_count(await request.body())
    services = services_of(request)
    target = services.registry.resolve(asked.model)
    counting = prompt_tokens(services.residents, target, asked.ask())
    return json_response(Counted(await while_connected(request, counting)))


async def batches(request: Request) -> Response:
    """Refused: Anthropic's message batches. `/v1/batches` takes OpenAI's."""
    raise refuse("batches", "send the messages one by one, at once if you like; or use `/v1/batches`.")


async def _whole(asked: MessagesRequest, events: AsyncIterable[Item]) -> Message:
    [answer] = await collected(events, 1)
    return whole_message(asked, answer)


async def _streamed(
    asked: MessagesRequest, events: AsyncIterable[Item], services: Services, target: Target, ask: Ask
) -> AsyncGenerator[StreamEvent, None]:
    stream = MessageStream(asked)
    # The engine says what the prompt cost only when all is done; clients look for it in the first event.
    for first in stream.start(await prompt_tokens(services.residents, target, ask)):
        yield first
    async for _, event in events:
        for shown in stream.add(event):
            yield shown


routes = [
    Described(
        "/v1/messages", create, methods=["POST"], body=MessagesRequest, answer=Message, events=StreamEvent
    ),
    Described("/v1/messages/count_tokens", count_tokens, methods=["POST"], body=Conversation, answer=Counted),
    Described("/v1/messages/batches", batches, methods=["POST", "GET"], status=400),
    Described("/v1/messages/batches/{rest:path}", batches, methods=["POST", "GET", "DELETE"], status=400),
]
