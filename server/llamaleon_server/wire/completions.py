"""`/v1/completions`: what is asked, what it means for the engine, and the answer."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from llamaleon_server.chat.ask import PLAIN, Preset
from llamaleon_server.engine.protocol import GenerateRequest
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import decode, is_set, refuse
from llamaleon_server.wire.logprobs import TextLogprobs
from llamaleon_server.wire.sampling import MAX_TOKEN_ID, Alternatives, Count, SamplingFields
from llamaleon_server.wire.usage import FINGERPRINT, Timings, Usage

DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_PROMPTS = 2048

Prompt = str | list[int]


class CompletionRequest(SamplingFields, frozen=True, kw_only=True):
    """`max_tokens: 0` with `echo` and `logprobs` scores the prompt. Unknown fields have no effect."""

    prompt: str | list[str | int | list[int]]
    max_tokens: Count | None = None
    logprobs: Alternatives | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: Any = None

    def prompts(self) -> list[Prompt]:
        """Raises: BadRequest for an empty list, mixed kinds, or what is no token id."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if not given:
            raise BadRequest("`prompt` must not be empty.", param="prompt")
        if len({type(item) for item in given}) > 1:
            raise BadRequest(
                "`prompt`: give texts, or token ids, or lists of token ids, not a mixture.", param="prompt"
            )
        prompts: list[Prompt] = []
        if isinstance(given[0], int):
            prompts = [[item for item in given if isinstance(item, int)]]
        else:
            prompts = [item for item in given if not isinstance(item, int)]
        if len(prompts) > MAX_PROMPTS:
            raise BadRequest(f"`prompt`: at most {MAX_PROMPTS} prompts at once.", param="prompt")
        for index, prompt in enumerate(prompts):
            _check_tokens(prompt, "prompt" if len(prompts) == 1 else f"prompt[{index}]")
        return prompts

    def generate(self, preset: Preset = PLAIN) -> list[GenerateRequest]:
        """One per choice of each prompt, the choices of a prompt beside each other.

        `preset`: the model's sampling, where the request says nothing; its messages are for chats.
        """
        wanted = self.wanted().over(preset.wanted)
        max_tokens = DEFAULT_MAX_TOKENS if preset.max_tokens is None else preset.max_tokens
        return [
            GenerateRequest(
                prompt=prompt,
                sampling=wanted.sampling(choice),
                max_tokens=max_tokens if self.max_tokens is None else self.max_tokens,
                context_tokens=preset.context_tokens,
                stop=(*self.stops(), *preset.stop),
                logprobs=self.logprobs,
                prompt_logprobs=self.logprobs if self.echo else None,
                ignore_eos=bool(self.ignore_eos),
                cache_prompt=self.cache_prompt is not False,
            )
            for prompt in self.prompts()
            for choice in range(self.choices)
        ]


def parse_completion(body: bytes) -> CompletionRequest:
    """Raises: BadRequest naming the field."""
    request = decode(body, CompletionRequest)
    if is_set(request.suffix) and request.suffix != "":
        raise refuse("suffix", "this server does not fill in the middle of a text.")
    if request.best_of not in (None, request.choices):
        raise refuse("best_of", "other values than `n`.")
    request.check_stream_options()
    request.stops()
    request.prompts()
    return request


def _check_tokens(prompt: Prompt, place: str) -> None:
    if isinstance(prompt, str):
        return
    if not prompt:
        raise BadRequest(f"`{place}` must not be empty.", param=place)
    for token in prompt:
        if not 0 <= token <= MAX_TOKEN_ID:
            raise BadRequest(f"`{place}`: {token} is not a token id.", param=place)


class TextChoice(Struct, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: str | None = None
    timings: Timings | UnsetType = UNSET  # of several choices each its own


class Completion(Struct, frozen=True, kw_only=True):
    """Whole answer and chunk alike. `usage` of chunks: null but in the last where it was asked for."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    system_fingerprint: str = FINGERPRINT
    usage: Usage | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET
