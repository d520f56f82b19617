"""An `Ask` to a target, answered as events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable

from llamaleon_server.answers.merge import merged
from llamaleon_server.answers.planning import plan_of, template_of
from llamaleon_server.chat.ask import Ask
from llamaleon_server.chat.events import Answer, Event
from llamaleon_server.engine.protocol import Delta, GenerateRequest
from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.records import Target

Generate = Callable[[Target, GenerateRequest], AsyncGenerator[Delta, None]]
"""Runs one request: `Residents.generate`, measured."""

Item = tuple[int, Event]  # the number of the choice, from 0


async def answering(
    generate: Generate, target: Target, ask: Ask, at_once: int = 32
) -> AsyncGenerator[Item, None]:
    """Events of all choices, as they come. Closing cancels; the first failure ends all.

    Raises, before any event: TemplateRefused, BadRequest for a form or tools that cannot be had, and whatever
    `generate` raises.
    """
    # Grammars take their time, and the interpreter's lock is free meanwhile; so may a template that is not
    # the model's own.
    simple = not ask.tools and ask.form is None and target.preset.template is None
    plan = plan_of(target, ask) if simple else await asyncio.to_thread(plan_of, target, ask)
    outputs = [plan.output() for _ in plan.requests]
    runs = merged([generate(target, request) for request in plan.requests], at_once)
    async with contextlib.aclosing(runs):
        try:
            async for choice, delta in runs:
                for event in outputs[choice].take(delta):
                    yield choice, event
        except BadRequest as error:
            _put_in_place(error, ask)
            raise


def _put_in_place(error: BadRequest, ask: Ask) -> None:
    """The engine counts images and knows one grammar; let the error name what the request calls them."""
    if error.param == "grammar":
        error.param = "tools" if ask.form is None else ask.form.field
    for index, field in enumerate(ask.media_fields):
        if error.param == f"media[{index}]":
            error.param = field
            return


async def collected(events: AsyncIterable[Item], choices: int) -> list[Answer]:
    """Whole answers, by choice."""
    answers = [Answer() for _ in range(choices)]
    async for choice, event in events:
        answers[choice].add(event)
    return answers


def requests_of(target: Target, ask: Ask) -> list[GenerateRequest]:
    """What the engine runs: one per choice."""
    return plan_of(target, ask).requests


__all__ = ["answering", "collected", "requests_of", "template_of"]
