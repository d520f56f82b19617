"""The deltas of one sequence, put together for an answer that is sent whole."""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from llamaleon_server.answers.merge import Item
from llamaleon_server.engine.protocol import Delta, Finish, Timings, TokenLogprob


@dataclass
class Collected:
    finish: Finish
    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt: list[TokenLogprob] | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @classmethod
    async def of(cls, stream: AsyncIterable[Item], sequences: int) -> list[Collected]:
        """By index. Every sequence ends with a `finish`, or the stream raises."""
        collected = [cls.empty() for _ in range(sequences)]
        async for index, delta in stream:
            collected[index].add(delta)
        return collected

    @classmethod
    def empty(cls) -> Collected:
        return cls(_UNFINISHED)

    def add(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.tokens += delta.tokens
        self.logprobs += delta.logprobs or []
        self.prompt = delta.prompt or self.prompt
        self.finish = delta.finish or self.finish


_UNFINISHED = Finish(
    reason="length",
    prompt_tokens=0,
    cached_tokens=0,
    completion_tokens=0,
    timings=Timings(queue_s=0.0, prefill_s=0.0, decode_s=0.0),
)
