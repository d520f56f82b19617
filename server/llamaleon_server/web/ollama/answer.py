"""`POST /api/chat` and `POST /api/generate`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.answers.answering import Item, answering, collected, requests_of, template_of
from llamaleon_server.answers.merge import begin
from llamaleon_server.chat.ask import Ask
from llamaleon_server.chat.events import Ended, Text
from llamaleon_server.chat.forms import grammar_of
from llamaleon_server.chat.prompt import manner_of
from llamaleon_server.engine.protocol import GenerateRequest as EngineRequest
from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.go_template import jinja_of
from llamaleon_server.registry.parameters import meaning_of
from llamaleon_server.registry.records import Target
from llamaleon_server.web.bodies import failed_stream
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.llama_server.infill import prompt_of
from llamaleon_server.web.ndjson import LineStream
from llamaleon_server.web.services import Services, services_of
from llamaleon_server.wire.keep_alive import parse_keep_alive
from llamaleon_server.wire.llama_server import InfillBody
from llamaleon_server.wire.ollama.answers import ChatLine, Clock, GenerateLine, Line, Lines
from llamaleon_server.wire.ollama.requests import (
    DEFAULTS,
    Asked,
    ChatRequest,
    GenerateRequest,
    Sampled,
    parse,
)
from llamaleon_server.wire.sampling import MAX_STOPS

MAX_TEMPLATE = 1 << 16


async def chat(request: Request) -> Response:
    """Answer a conversation in Ollama's form. Without messages: load the model, or unload it."""
    asked = parse(await request.body(), ChatRequest)
    run = _Run(request, asked, chat=True)
    if asked.empty:
        return await run.load()
    run.check_thinking()
    ask = asked.ask(run.sampled())
    return await run.answered(run.events(ask))


async def generate(request: Request) -> Response:
    """Continue a prompt in Ollama's form. Without a prompt: load the model, or unload it."""
    asked = parse(await request.body(), GenerateRequest)
    asked.check()
    run = _Run(request, asked, chat=False)
    if asked.empty:
        return await run.load()
    if asked.suffix:
        return await run.answered(await run.plain(asked, await run.middle(asked)))
    if asked.raw:
        return await run.answered(await run.plain(asked, asked.prompt or ""))
    if asked.template:
        await asyncio.to_thread(run.use_template, asked.template)
    else:
        run.check_thinking()
    before = await run.text_of(asked.context or [])
    ask = asked.ask(run.sampled(), before)
    return await run.answered(run.events(ask), ask)


class _Run:
    """One request, from its name to its lines."""

    def __init__(self, request: Request, asked: Asked, *, chat: bool) -> None:
        self._request = request
        self._asked = asked
        self._clock = Clock()
        self._lines = Lines(asked.model, self._clock, chat=chat)
        self._services: Services = services_of(request)
        self._target: Target = self._services.registry.resolve(asked.model)
        self._keep: float | UnsetType | None = (
            UNSET if asked.keep_alive is None else parse_keep_alive(asked.keep_alive)
        )

    def sampled(self) -> Sampled:
        """The request's options over the model's own over Ollama's defaults. Raises: BadRequest."""
        meaning = meaning_of((self._asked.options or {}).items(), "options")
        wanted = meaning.wanted.over(self._target.preset.wanted).over(DEFAULTS)
        if len(meaning.stop) > MAX_STOPS:
            raise BadRequest(f"`options.stop`: at most {MAX_STOPS}.", param="options.stop")
        return Sampled(wanted=wanted, stop=meaning.stop, max_tokens=meaning.max_tokens)

    def use_template(self, template: str) -> None:
        """In place of the model's own; also checks as `check_thinking`. It may run long: call it in a thread.

        Raises: BadRequest.
        """
        if len(template) > MAX_TEMPLATE:  # compiled ones are kept
            raise BadRequest(f"`template` is longer than {MAX_TEMPLATE} characters.", param="template")
        jinja, _ = jinja_of(template, has_own=False)
        self._with_preset(template=jinja)
        self.check_thinking()

    def _with_preset(self, **changes: Any) -> None:
        preset = msgspec.structs.replace(self._target.preset, **changes)
        self._target = msgspec.structs.replace(self._target, preset=preset)

    def check_thinking(self) -> None:
        """Raises: BadRequest for a model that does not think, as Ollama has it."""
        manner = manner_of(template_of(self._target.base, self._target.preset))
        if self._asked.think and manner.tags is None:
            raise BadRequest(f"`think`: the model `{self._asked.model}` does not think.", param="think")

    async def load(self) -> Response:
        if self._keep == 0:
            await self._unload()
            return json_response(self._lines.empty("unload"))
        await while_connected(self._request, self._load())
        return json_response(self._lines.empty("load"))

    async def _unload(self) -> None:
        """Now, or as soon as the last of the others who use it is done."""
        residents, name = self._services.residents, self._target.base.name
        for info in residents.ps():
            if info.name == name and info.in_use:
                residents.keep(name, 0)
            elif info.name == name:
                await residents.unload(name)

    async def _load(self) -> None:
        self._keep_it()
        async with self._services.residents.lease(self._target.base) as engine:
            for version, _ in self._target.adapters:
                await self._services.residents.load_adapter(engine, version)

    def _keep_it(self) -> None:
        if self._keep is not UNSET:
            self._services.residents.keep(self._target.base.name, self._keep)

    def events(self, ask: Ask) -> AsyncGenerator[Item, None]:
        return self._loaded(answering(self._services.generate, self._target, ask))

    async def middle(self, asked: GenerateRequest) -> list[int]:
        """The prompt after which a model fills in the middle. Raises: BadRequest if it does not know how."""
        around = InfillBody(input_prefix=asked.prompt or "", input_suffix=asked.suffix or "")
        async with self._services.residents.lease(self._target.base) as engine:
            return await prompt_of(engine, around)

    async def plain(self, asked: GenerateRequest, prompt: str | list[int]) -> AsyncGenerator[Item, None]:
        """Of a prompt as it is, without a template. Raises: BadRequest."""
        sampled, form, preset = self.sampled(), asked.form(), self._target.preset
        logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        request = EngineRequest(
            prompt=prompt,
            sampling=sampled.wanted.sampling(),
            max_tokens=preset.max_tokens if sampled.max_tokens is None else sampled.max_tokens,
            stop=(*sampled.stop, *preset.stop),
            grammar=None if form is None else await asyncio.to_thread(grammar_of, form),
            logprobs=logprobs,
        )
        return self._loaded(self._as_text(request))

    async def _as_text(self, request: EngineRequest) -> AsyncGenerator[Item, None]:
        async with contextlib.aclosing(self._services.generate(self._target, request)) as deltas:
            async for delta in deltas:
                if delta.text or delta.logprobs:
                    yield 0, Text(delta.text, delta.logprobs)
                if delta.finish is not None:
                    yield 0, Ended("length" if delta.finish.reason == "length" else "stop", delta.finish)

    async def _loaded(self, events: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
        """The events, with the clock told when the model was there."""
        self._keep_it()
        async with contextlib.aclosing(events), self._services.residents.lease(self._target.base):
            self._clock.load_ends()
            async for item in events:
                yield item

    async def answered(self, events: AsyncGenerator[Item, None], ask: Ask | None = None) -> Response:
        """`ask`: its prompt and its answer become the `context` of the last line."""
        if not self._asked.streams:
            return json_response(await while_connected(self._request, self._whole(events, ask)))
        begun = await while_connected(self._request, begin(events))
        scope = self._request.scope
        return LineStream(self._streamed(begun, ask), begun, lambda error: failed_stream(scope, error))

    async def _whole(self, events: AsyncIterable[Item], ask: Ask | None) -> Line:
        [answer] = await collected(events, 1)
        line = self._lines.whole(answer)
        return line if ask is None else await self._with_context(line, ask, answer.text)

    async def _streamed(self, events: AsyncIterable[Item], ask: Ask | None) -> AsyncGenerator[Line, None]:
        texts = []
        async for _, event in events:
            if isinstance(event, Text):
                texts.append(event.text)
            for line in self._lines.add(event):
                last = line.done and ask is not None
                yield await self._with_context(line, ask, "".join(texts)) if last and ask else line

    async def text_of(self, context: list[int]) -> str:
        """Of what an earlier answer returned as `context`; the model's example turns are in it already."""
        if not context:
            return ""
        self._with_preset(messages=())
        async with self._services.residents.lease(self._target.base) as engine:
            if max(context) >= engine.ready.n_vocab:
                raise BadRequest(f"`context`: {max(context)} is no token of this model.", param="context")
            return b"".join(await engine.detokenize(context)).decode("utf-8", "replace")

    async def _with_context(self, line: Line, ask: Ask, text: str) -> Line:
        plain = msgspec.structs.replace(ask, form=None, media=(), media_fields=())
        [request] = await asyncio.to_thread(requests_of, self._target, plain)
        async with self._services.residents.lease(self._target.base) as engine:
            [tokens] = await engine.tokenize([f"{request.prompt}{text}"])
        return msgspec.structs.replace(line, context=tokens)


routes = [
    Described("/api/chat", chat, methods=["POST"], body=ChatRequest, answer=ChatLine, lines=ChatLine),
    Described(
        "/api/generate",
        generate,
        methods=["POST"],
        body=GenerateRequest,
        answer=GenerateLine,
        lines=GenerateLine,
    ),
]
