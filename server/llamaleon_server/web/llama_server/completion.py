"""`POST /completion`: llama-server's native completion, plain and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.answers.merge import Item, begin, merged
from llamaleon_server.chat.forms import grammar_of
from llamaleon_server.engine.protocol import Delta, GenerateRequest
from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.records import Target
from llamaleon_server.residents.engine import Engine
from llamaleon_server.web.collect import Collected
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.llama_server.naming import model_or_only
from llamaleon_server.web.llama_server.tokens import tokens_of
from llamaleon_server.web.services import Services, services_of
from llamaleon_server.web.sse import EventStream
from llamaleon_server.wire.decode import convert, decode
from llamaleon_server.wire.llama_server import (
    MAX_PROMPTS,
    CompletionBody,
    Multimodal,
    NativeAnswer,
    NativeFields,
    probabilities,
)
from llamaleon_server.wire.usage import timings_of

STOP_TYPES = {"length": "limit", "stop": "eos"}
Prompt = tuple[str | list[int], tuple[bytes, ...]]  # and its images


async def create(request: Request) -> Response:
    """llama-server's completion: its fields, its defaults, its answer."""
    asked = decode(await request.body(), CompletionBody)
    asked.check()
    services = services_of(request)
    target = services.registry.resolve(model_or_only(request, asked.model), asked.lora)
    async with services.residents.lease(target.base) as engine:
        prompts = await _prompts(engine, target, asked.prompt)
    return await answered(request, asked, target, prompts, several=is_several(asked.prompt))


async def answered(
    request: Request, asked: NativeFields, target: Target, prompts: Sequence[Prompt], *, several: bool = False
) -> Response:
    services = services_of(request)
    runs = await _runs(services, asked, target, prompts)
    answer = _Answer(asked, target, runs)
    stream = merged(
        [services.generate(target, run) for run in runs], services.settings.engine.parallel_sequences
    )
    if asked.stream:
        begun = await while_connected(request, begin(stream))
        return _Stream(answer.pieces(begun), begun)
    whole = await while_connected(request, answer.whole(stream))
    return json_response([_fields(one, asked) for one in whole] if several else _fields(whole[0], asked))


class _Stream(EventStream):
    """The last piece has `stop: true`."""

    done = None


# ---------------------------------------------------------------- what is run


def is_several(prompt: Any) -> bool:
    """A list without any token id at its top is a list of prompts."""
    return isinstance(prompt, list) and not any(isinstance(one, int) for one in prompt)


async def _prompts(engine: Engine, target: Target, given: Any) -> list[Prompt]:
    """Raises: BadRequest."""
    if not is_several(given):
        return [await _prompt(engine, target, given, "prompt")]
    if not given or len(given) > MAX_PROMPTS:
        raise BadRequest(f"`prompt`: 1 to {MAX_PROMPTS} prompts at once.", param="prompt")
    return [await _prompt(engine, target, one, f"prompt[{at}]") for at, one in enumerate(given)]


async def _prompt(engine: Engine, target: Target, given: Any, place: str) -> Prompt:
    match given:
        case str():
            return given, ()
        case dict():
            with_media = convert(given, Multimodal, place)
            media = with_media.media(place)
            if media and target.base.projector is None:
                raise BadRequest(f"`{place}`: the model `{target.base.name}` cannot see.", param=place)
            return with_media.prompt_string, media
        case list() if given and all(
            isinstance(one, str | int) and not isinstance(one, bool) for one in given
        ):
            return await tokens_of(engine, given, place, add_special=True), ()
    raise BadRequest(f"`{place}` must be a text, or token ids and texts, and not empty.", param=place)


async def _runs(
    services: Services, asked: NativeFields, target: Target, prompts: Sequence[Prompt]
) -> list[GenerateRequest]:
    biases: dict[int, float] = {}
    async with services.residents.lease(target.base) as engine:
        for token, bias in asked.biases():
            biases |= dict.fromkeys(await tokens_of(engine, [token], "logit_bias", add_special=False), bias)
    form = asked.form()
    grammar = None if form is None else await asyncio.to_thread(grammar_of, form)
    preset = target.preset
    made = [asked.request(prompt, media, preset.wanted, biases) for prompt, media in prompts]
    most = preset.max_tokens if asked.most_tokens is None and asked.n_predict is None else asked.most_tokens
    return [
        replace(one, grammar=grammar, max_tokens=most, context_tokens=preset.context_tokens) for one in made
    ]


# ---------------------------------------------------------------- what is answered


class _Answer:
    def __init__(self, asked: NativeFields, target: Target, runs: Sequence[GenerateRequest]) -> None:
        self._asked = asked
        self._target = target
        self._runs = runs

    async def whole(self, stream: AsyncIterable[Item]) -> list[NativeAnswer]:
        collected = await Collected.of(stream, len(self._runs))
        return [self._last(at, one, one.text) for at, one in enumerate(collected)]

    async def pieces(self, stream: AsyncIterable[Item]) -> AsyncGenerator[NativeAnswer, None]:
        seen = [Collected.empty() for _ in self._runs]
        async for at, delta in stream:
            seen[at].add(delta)
            if delta.text or delta.tokens:
                yield self._piece(at, delta, len(seen[at].tokens))
            if delta.finish is not None:
                yield self._last(at, seen[at], "")

    def _piece(self, at: int, delta: Delta, predicted: int) -> NativeAnswer:
        return NativeAnswer(
            index=at,
            content=delta.text,
            tokens=delta.tokens,
            stop=False,
            model=self._target.requested,
            tokens_predicted=predicted,
            tokens_evaluated=0,
            completion_probabilities=probabilities(delta.logprobs) if delta.logprobs else UNSET,
        )

    def _last(self, at: int, one: Collected, content: str) -> NativeAnswer:
        finish, run = one.finish, self._runs[at]
        limit = run.max_tokens
        cut = finish.reason == "length" and (limit is None or finish.completion_tokens < limit)
        return NativeAnswer(
            index=at,
            content=content,
            tokens=one.tokens if self._asked.return_tokens and not self._asked.stream else [],
            stop=True,
            model=self._target.requested,
            tokens_predicted=finish.completion_tokens,
            tokens_evaluated=finish.prompt_tokens,
            generation_settings=_settings(run, self._asked),
            prompt=run.prompt if isinstance(run.prompt, str) else UNSET,
            has_new_line="\n" in one.text,
            truncated=cut,
            stop_type="word" if finish.stop_string is not None else STOP_TYPES.get(finish.reason, "none"),
            stopping_word=finish.stop_string or "",
            tokens_cached=finish.prompt_tokens + finish.completion_tokens,
            timings=timings_of(finish),
            completion_probabilities=probabilities(one.logprobs)
            if one.logprobs and not self._asked.stream
            else UNSET,
        )


def _settings(run: GenerateRequest, asked: NativeFields) -> dict[str, Any]:
    """What was really used. A seed that nobody gave is none."""
    sampling = msgspec.structs.asdict(run.sampling)
    limit = -1 if run.max_tokens is None else run.max_tokens
    biases = [{"token": token, "bias": bias} for token, bias in sampling.pop("logit_bias").items()]
    return {
        **sampling,
        "logit_bias": biases,
        "stop": list(run.stop),
        "n_predict": limit,
        "max_tokens": limit,
        "n_probs": run.logprobs or 0,
        "ignore_eos": run.ignore_eos,
        "stream": bool(asked.stream),
        "grammar": run.grammar or "",
    }


def _fields(answer: NativeAnswer, asked: NativeFields) -> Any:
    """The whole answer, or those fields of it that were asked for: `a/b` is b of a."""
    if not asked.response_fields:
        return answer
    whole = msgspec.to_builtins(answer)
    picked = {}
    for path in asked.response_fields:
        value: Any = whole
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            picked[path] = value
    return picked


routes = [
    Described(
        path,
        create,
        methods=["POST"],
        body=CompletionBody,
        answer=dict[str, Any] | list[dict[str, Any]],  # `NativeAnswer`, or fields of it, or several
        events=NativeAnswer,
    )
    for path in ("/completion", "/completions")
]
