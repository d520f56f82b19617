"""The fields that chat and text completions share, and what they mean for the engine."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from llamaleon_server.chat.ask import Wanted
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

    def wanted(self) -> Wanted:
        """Raises: BadRequest."""
        return Wanted(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            repeat_penalty=self.repeat_penalty,
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

    def _logit_bias(self) -> dict[int, float] | None:
        for token in self.logit_bias or ():
            if not 0 <= token <= MAX_TOKEN_ID:
                raise BadRequest(f"`logit_bias`: {token} is not a token id.", param=f"logit_bias.{token}")
        return self.logit_bias
