"""The fields that chat and text completions share, and what they mean for the engine."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from llamaleon_server.engine.protocol import Sampling
from llamaleon_server.errors import BadRequest

MAX_STOPS = 16
MAX_CHOICES = 16
MAX_TOKEN_ID = 2**31 - 1

Count = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Bias = Annotated[float, Meta(ge=-100.0, le=100.0)]
Alternatives = Annotated[int, Meta(ge=0, le=20)]


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None


class SamplingFields(Struct, frozen=True, kw_only=True):
    """OpenAI's, then llama.cpp's. None, given or not, is the default; what is not listed is ignored."""

    model: str
    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Choices | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[int, Bias] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    top_k: int | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0.0, le=100.0)] | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    lora: list[dict[str, Any]] | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, choice: int) -> Sampling:
        """Of one of `n` choices: they share everything but the seed."""
        return Sampling(
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            top_k=max(0, self.top_k or 0),  # llama.cpp's clients write -1 or 0 for "no limit"
            min_p=_or(self.min_p, 0.0),
            seed=self._seed(choice),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            repeat_penalty=_or(self.repeat_penalty, 1.0),
            logit_bias=self._logit_bias(),
        )

    def stops(self) -> tuple[str, ...]:
        """Raises: BadRequest for an empty one, which would stop everything, or too many."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > MAX_STOPS:
            raise BadRequest(f"`stop`: at most {MAX_STOPS} strings, got {len(stops)}.", param="stop")
        if "" in stops:
            raise BadRequest("`stop`: a stop string must not be empty.", param="stop")
        return stops

    def check_stream_options(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise BadRequest("`stream_options` needs `stream: true`.", param="stream_options")

    def _seed(self, choice: int) -> int | None:
        if self.seed is None or self.seed == -1:  # llama.cpp's word for "any"
            return None
        return (self.seed + choice) % 2**31

    def _logit_bias(self) -> dict[int, float]:
        bias = self.logit_bias or {}
        for token in bias:
            if not 0 <= token <= MAX_TOKEN_ID:
                raise BadRequest(f"`logit_bias`: {token} is not a token id.", param=f"logit_bias.{token}")
        return bias


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
