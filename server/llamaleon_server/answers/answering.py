"""An `Ask` to a target, answered as events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable

from llamaleon_server.answers.merge import merged
from llamaleon_server.chat.ask import PLAIN, Ask, Message, Preset
from llamaleon_server.chat.events import Answer, Ended, Event, Text
from llamaleon_server.chat.template import ChatTemplate, chat_template
from llamaleon_server.engine.protocol import Delta, GenerateRequest
from llamaleon_server.registry.records import Base, Target

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
    requests = requests_of(target, ask)
    runs = merged([generate(target, request) for request in requests], at_once)
    async with contextlib.aclosing(runs):
        async for choice, delta in runs:
            for event in _events(delta):
                yield choice, event


async def collected(events: AsyncIterable[Item], choices: int) -> list[Answer]:
    """Whole answers, by choice."""
    answers = [Answer() for _ in range(choices)]
    async for choice, event in events:
        answers[choice].add(event)
    return answers


def requests_of(target: Target, ask: Ask) -> list[GenerateRequest]:
    """What the engine runs: one per choice."""
    preset = target.preset
    template = template_of(target.base, preset)
    prompt = template.render(_with_preset(ask.messages, preset))
    wanted = ask.wanted.over(preset.wanted)
    return [
        GenerateRequest(
            prompt=prompt,
            add_special=not template.begins_with_bos(prompt),
            sampling=wanted.sampling(choice),
            max_tokens=preset.max_tokens if ask.max_tokens is None else ask.max_tokens,
            stop=(*ask.stop, *preset.stop),
            logprobs=ask.logprobs,
            ignore_eos=ask.ignore_eos,
            cache_prompt=ask.cache_prompt,
        )
        for choice in range(ask.choices)
    ]


def _with_preset(messages: list[Message], preset: Preset) -> list[Message]:
    """The request's system message, else the preset's; then the preset's example turns; then the rest."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    rest = messages[len(system) :]
    if not system and preset.system is not None:
        system = [{"role": "system", "content": preset.system}]
    return [*system, *preset.messages, *rest]


def template_of(base: Base, preset: Preset = PLAIN) -> ChatTemplate:
    source = base.chat_template if preset.template is None else preset.template
    return chat_template(source, base.bos_token, base.eos_token)


def _events(delta: Delta) -> list[Event]:
    events: list[Event] = []
    if delta.text or delta.logprobs:
        events.append(Text(delta.text, delta.logprobs))
    if delta.finish is not None:
        events.append(Ended("length" if delta.finish.reason == "length" else "stop", delta.finish))
    return events
