"""One response being made: from the request to the events that make it, and what is kept of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from typing import TYPE_CHECKING

from llamaleon_server.answers.answering import Item as AnswerItem
from llamaleon_server.answers.answering import answering
from llamaleon_server.chat.ask import Ask
from llamaleon_server.chat.events import Ended
from llamaleon_server.errors import BadRequest, LlamaleonError
from llamaleon_server.registry.records import Target
from llamaleon_server.web.counting import prompt_tokens
from llamaleon_server.wire.responses import AskedFields, ResponsesRequest
from llamaleon_server.wire.responses_events import Rendering, StreamEvent
from llamaleon_server.wire.responses_items import Item, MessageItem, new_id, parse_items
from llamaleon_server.wire.responses_object import ResponseObject, begun

if TYPE_CHECKING:  # they hold us
    from llamaleon_server.web.services import Services

log = logging.getLogger(__name__)


class Making:
    """Everything that can be wrong with the request has been found when this is there.

    Raises: BadRequest, NotFound, ModelNotFound; TemplateRefused and the like come with the first event.
    """

    def __init__(self, services: Services, asked: ResponsesRequest) -> None:
        self._services = services
        self._asked = asked
        self._target, self._items, self.inputs = conversation_of(services, asked)
        self._ask = asked.ask(self._items)
        sampling = self._ask.wanted.over(self._target.preset.wanted).sampling()
        response = begun(asked, new_id("resp"), sampling.temperature, sampling.top_p)
        self._rendering = Rendering(response, encrypts=asked.encrypts)

    @property
    def response(self) -> ResponseObject:
        """As it is now."""
        return self._rendering.response

    async def answers(self) -> AsyncGenerator[AnswerItem, None]:
        """The chat core's events. Closing cancels."""
        ask = await fitting(self._services, self._target, self._asked, self._ask, self._items)
        async with contextlib.aclosing(answering(self._services.generate, self._target, ask)) as items:
            async for item in items:
                yield item

    async def events(self, answers: AsyncIterable[AnswerItem]) -> AsyncGenerator[StreamEvent, None]:
        """All of them, in order. Raises: what `answers` raises."""
        for event in self._rendering.begin():
            yield event
        async for _, said in answers:
            events = list(self._rendering.render(said))
            if isinstance(said, Ended):
                await self._keep()  # first: who reads the last event may at once continue from it
            for event in events:
                yield event

    async def told(self, answers: AsyncIterable[AnswerItem]) -> AsyncGenerator[StreamEvent, None]:
        """`events`, with a failure as the last of them."""
        try:
            async with contextlib.aclosing(self.events(answers)) as events:
                async for event in events:
                    yield event
        except Exception as error:  # whatever it is, the stream has begun: an event must tell
            for event in self.fail(error):
                yield event
            await self._keep()

    async def whole(self) -> ResponseObject:
        async with contextlib.aclosing(self.answers()) as answers:
            async for _ in self.events(answers):
                pass  # they make the response
        return self.response

    def fail(self, error: Exception) -> list[StreamEvent]:
        if not isinstance(error, LlamaleonError):
            log.error("a response failed", exc_info=error)
            error = LlamaleonError("The server made a mistake; its log says which.")
        return list(self._rendering.fail(error))

    def cancel(self) -> None:
        self._rendering.cancel()

    async def _keep(self) -> None:
        """Background ones are kept by who runs them."""
        if not self._asked.background:
            store = self._services.registry.responses
            keep = store.add if self._asked.stored else store.extend_conversation
            await asyncio.to_thread(keep, self.response, self.inputs)


def conversation_of(services: Services, asked: AskedFields) -> tuple[Target, list[Item], list[Item]]:
    """What answers, all items that it reads, and those of them that this request brings.

    Raises: BadRequest, NotFound, ModelNotFound.
    """
    registry = services.registry
    target = registry.resolve(asked.model, asked.lora)
    own = registry.responses.referred(parse_items(asked.input or []))
    earlier: list[Item] = []
    if asked.previous_response_id is not None:
        earlier = registry.responses.context(asked.previous_response_id)
    elif asked.conversation_id is not None:
        earlier = registry.conversations.items(asked.conversation_id, "conversation")
    items = [*earlier, *own]
    if not items:
        raise BadRequest("`input` must not be empty.", param="input")
    return target, items, own


async def fitting(
    services: Services, target: Target, asked: AskedFields, ask: Ask, items: Sequence[Item]
) -> Ask:
    """With `truncation: "auto"`, as many of the newest turns as leave room for an answer.

    Turns begin with what a user says; system messages stay. If not even the last turn fits, it is not cut:
    the engine then says how long it is.
    """
    if asked.truncation != "auto":
        return ask
    async with services.residents.lease(target.base) as engine:
        context = engine.ready.context_tokens
    room = context - min(ask.max_tokens or context // 8, context // 2)
    if await prompt_tokens(services.residents, target, ask) <= room:
        return ask
    begins = [at for at, item in enumerate(items) if isinstance(item, MessageItem) and item.role == "user"]
    low, high = 1, len(begins) - 1
    while low < high:  # the first turn from which on all fits
        middle = (low + high) // 2
        shorter = asked.ask(_from(items, begins[middle]))
        if await prompt_tokens(services.residents, target, shorter) <= room:
            high = middle
        else:
            low = middle + 1
    return asked.ask(_from(items, begins[high])) if len(begins) > 1 else ask


def _from(items: Sequence[Item], at: int) -> list[Item]:
    system = [
        item for item in items[:at] if isinstance(item, MessageItem) and item.role in {"system", "developer"}
    ]
    return [*system, *items[at:]]
