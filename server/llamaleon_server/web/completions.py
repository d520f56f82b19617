"""`POST /v1/completions`, plain and streamed; with `echo` and `max_tokens: 0` it scores text."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Sequence

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.answers.merge import Begun, Item, begin, merged
from llamaleon_server.engine.protocol import Finish, TokenLogprob
from llamaleon_server.registry.records import Target
from llamaleon_server.web.collect import Collected
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import Services, services_of
from llamaleon_server.web.sse import EventStream
from llamaleon_server.wire.completions import Completion, CompletionRequest, TextChoice, parse_completion
from llamaleon_server.wire.logprobs import Offsets, TextLogprobs, text_logprobs
from llamaleon_server.wire.usage import Timings, Usage, choice_timings, timings_of, usage_of


async def create(request: Request) -> Response:
    asked = parse_completion(await request.body())
    services = services_of(request)
    target = services.registry.resolve(asked.model, asked.lora)
    if asked.stream:
        answer, begun = await while_connected(request, _begin(asked, services, target))
        return EventStream(answer.chunks(begun), begun)
    return json_response(await while_connected(request, _whole(asked, services, target)))


async def _begin(asked: CompletionRequest, services: Services, target: Target) -> tuple[_Answer, Begun[Item]]:
    answer = _Answer(asked, await _echoes(asked, services, target))
    return answer, await begin(_run(asked, services, target))


async def _whole(asked: CompletionRequest, services: Services, target: Target) -> Completion:
    answer = _Answer(asked, await _echoes(asked, services, target))
    return await answer.whole(_run(asked, services, target))


def _run(asked: CompletionRequest, services: Services, target: Target) -> AsyncGenerator[Item, None]:
    runs = [services.generate(target, run) for run in asked.generate(target.preset)]
    return merged(runs, services.settings.engine.parallel_sequences)


async def _echoes(asked: CompletionRequest, services: Services, target: Target) -> list[str]:
    """For each prompt what is put before the answers to it."""
    prompts = asked.prompts()
    if not asked.echo:
        return [""] * len(prompts)
    texts = []
    for prompt in prompts:
        if isinstance(prompt, str):
            texts.append(prompt)
        else:
            async with services.residents.lease(target.base) as engine:
                texts.append(b"".join(await engine.detokenize(prompt)).decode("utf-8", "replace"))
    return texts


class _Answer:
    def __init__(self, asked: CompletionRequest, echoes: Sequence[str]) -> None:
        self._asked = asked
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._echoes = [echo for echo in echoes for _ in range(asked.choices)]

    async def whole(self, stream: AsyncIterable[Item]) -> Completion:
        collected = await Collected.of(stream, len(self._echoes))
        ends = [one.finish for one in collected]
        return Completion(
            id=self._id,
            created=self._created,
            model=self._asked.model,
            choices=[self._whole_choice(index, one) for index, one in enumerate(collected)],
            usage=self._usage(ends),
            timings=timings_of(ends[0], len(ends)),
        )

    def _whole_choice(self, index: int, one: Collected) -> TextChoice:
        offsets, echo = Offsets(), self._echoes[index]
        before = self._logprobs(one.prompt or [], echo, offsets) if echo else None
        after = self._logprobs([*one.logprobs, *_ended(one.finish)], one.text, offsets)
        return TextChoice(
            index=index,
            text=echo + one.text,
            logprobs=after if before is None or after is None else before.followed_by(after),
            finish_reason=one.finish.reason,
            timings=choice_timings(one.finish, len(self._echoes)),
        )

    async def chunks(self, stream: AsyncIterable[Item]) -> AsyncGenerator[Completion, None]:
        offsets = [Offsets() for _ in self._echoes]
        unechoed = {index for index, echo in enumerate(self._echoes) if echo}
        finishes: dict[int, Finish] = {}
        async for index, delta in stream:
            if index in unechoed:
                unechoed.remove(index)
                echo = self._echoes[index]
                yield self._chunk(index, echo, self._logprobs(delta.prompt or [], echo, offsets[index]))
            if delta.text or delta.logprobs:
                logprobs = self._logprobs(delta.logprobs or [], delta.text, offsets[index])
                yield self._chunk(index, delta.text, logprobs)
            if delta.finish is not None:
                finishes[index] = delta.finish
                yield self._last_chunk(index, delta.finish, offsets[index])
        if self._asked.include_usage:
            ends = [finishes[index] for index in sorted(finishes)]
            yield Completion(
                id=self._id,
                created=self._created,
                model=self._asked.model,
                choices=[],
                usage=self._usage(ends),
                timings=timings_of(ends[0], len(ends)),
            )

    def _chunk(self, index: int, text: str, logprobs: TextLogprobs | None) -> Completion:
        return self._completion(TextChoice(index=index, text=text, logprobs=logprobs))

    def _last_chunk(self, index: int, finish: Finish, offsets: Offsets) -> Completion:
        """With the timings, unless a chunk with the usage follows."""
        sequences, ended = len(self._echoes), _ended(finish)
        return self._completion(
            TextChoice(
                index=index,
                text="",
                logprobs=self._logprobs(ended, "", offsets) if ended else None,
                finish_reason=finish.reason,
                timings=choice_timings(finish, sequences),
            ),
            UNSET if self._asked.include_usage else timings_of(finish, sequences),
        )

    def _completion(self, choice: TextChoice, timings: Timings | UnsetType = UNSET) -> Completion:
        return Completion(
            id=self._id,
            created=self._created,
            model=self._asked.model,
            choices=[choice],
            usage=None if self._asked.include_usage else UNSET,
            timings=timings,
        )

    def _usage(self, ends: Sequence[Finish]) -> Usage:
        return usage_of(ends, self._asked.choices)

    def _logprobs(self, tokens: Sequence[TokenLogprob], text: str, offsets: Offsets) -> TextLogprobs | None:
        if self._asked.logprobs is None:
            return None
        return text_logprobs(tokens, text, offsets, self._asked.logprobs)


def _ended(finish: Finish) -> list[TokenLogprob]:
    """The end token is listed, as OpenAI does here: harnesses take one token off that was to be generated."""
    return [] if finish.end is None else [finish.end]


routes = [
    Described(
        "/v1/completions",
        create,
        methods=["POST"],
        body=CompletionRequest,
        answer=Completion,
        events=Completion,
    )
]
