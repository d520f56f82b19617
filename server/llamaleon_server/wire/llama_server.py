"""llama-server's native shapes: tokens, and completions that are not OpenAI's."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from llamaleon_server.chat.ask import Wanted
from llamaleon_server.engine.protocol import MEDIA_MARKER, GenerateRequest, TokenLogprob
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.chat_forms import FormFields
from llamaleon_server.wire.decode import refuse
from llamaleon_server.wire.sampling import MAX_TOKEN_ID, Alternatives
from llamaleon_server.wire.usage import Timings

# llama.cpp's own defaults, `common_params_sampling`; a model's preset goes before them.
DEFAULTS = Wanted(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
MAX_PROMPTS = 256
MAX_BIAS = 100.0

Part = str | int
Bias = tuple[str | int, float]


class TokenizeBody(Struct, frozen=True, kw_only=True):
    """`content` is llama-server's word, `prompt` vLLM's; each brings its own defaults."""

    model: str | None = None
    content: str | list[Part] | None = None
    prompt: str | None = None
    add_special: bool = False
    add_special_tokens: bool = True
    parse_special: bool = True
    with_pieces: bool = False


class Piece(Struct, frozen=True):
    """`piece` are bytes where they are no text on their own."""

    id: int
    piece: str | list[int]


class Tokens(Struct, frozen=True, kw_only=True):
    tokens: list[int | Piece]
    count: int
    max_model_len: int


class DetokenizeBody(Struct, frozen=True, kw_only=True):
    tokens: list[int]
    model: str | None = None


class Detokenized(Struct, frozen=True, kw_only=True):
    """The same text under llama-server's name and under vLLM's."""

    content: str
    prompt: str


class TokenizerInfo(Struct, frozen=True, kw_only=True):
    """vLLM's, as far as a GGUF file says it."""

    tokenizer_class: str
    bos_token: str
    eos_token: str
    chat_template: str | None


class Multimodal(Struct, frozen=True, kw_only=True):
    prompt_string: str
    multimodal_data: str | list[str] | None = None  # base64

    def media(self, place: str) -> tuple[bytes, ...]:
        """Raises: BadRequest."""
        given = self.multimodal_data
        try:
            data = tuple(
                base64.b64decode(one, validate=True)
                for one in ([given] if isinstance(given, str) else given or ())
            )
        except (binascii.Error, ValueError) as error:
            raise BadRequest(f"`{place}.multimodal_data` is not base64.", param=place) from error
        if len(data) != self.prompt_string.count(MEDIA_MARKER):
            raise BadRequest(f"`{place}`: one {MEDIA_MARKER} for each of multimodal_data.", param=place)
        return data


class NativeFields(FormFields, frozen=True, kw_only=True):
    """What completions and infills share. What is not listed has no effect."""

    model: str | None = None  # type: ignore[assignment]  # llama-server has one model: no name needed
    logit_bias: Any = None  # theirs has two shapes more
    n_predict: int | None = None
    max_tokens: int | None = None
    n_probs: Alternatives | None = None
    post_sampling_probs: bool | None = None
    return_tokens: bool | None = None
    response_fields: list[str] | None = None

    @property
    def most_tokens(self) -> int | None:
        """None: until the context is full."""
        wanted = self.max_tokens if self.n_predict is None else self.n_predict
        return None if wanted is None or wanted < 0 else min(wanted, MAX_TOKEN_ID)

    def check(self) -> None:
        """Raises: BadRequest naming the field."""
        if self.post_sampling_probs:
            raise refuse("post_sampling_probs", "probabilities are the model's, before sampling.")
        self.check_stream_options()
        self.stops()

    def biases(self) -> list[Bias]:
        """A token, or a text of which every token counts, and what is added to it. Raises: BadRequest."""
        given = self.logit_bias
        pairs = list(given.items()) if isinstance(given, dict) else given or []
        if not isinstance(pairs, list):
            raise BadRequest("`logit_bias` must be an object or a list of pairs.", param="logit_bias")
        return [_bias(pair) for pair in pairs]

    def request(
        self, prompt: str | list[int], media: tuple[bytes, ...], wanted: Wanted, biases: dict[int, float]
    ) -> GenerateRequest:
        """All but the grammar. `wanted` is what the model's preset says."""
        said = Wanted(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            repeat_penalty=self.repeat_penalty,
            logit_bias=biases or None,
        )
        return GenerateRequest(
            prompt=prompt,
            media=media,
            sampling=said.over(wanted).over(DEFAULTS).sampling(),
            max_tokens=self.most_tokens,
            stop=self.stops(),
            logprobs=self.n_probs or None,
            ignore_eos=bool(self.ignore_eos),
            cache_prompt=self.cache_prompt is not False,
        )


def _bias(pair: Any) -> Bias:
    match pair:
        case (str() | int() as token, bool() | int() | float() as bias) if not isinstance(token, bool):
            if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10:
                token = int(token)
            if isinstance(token, int) and not 0 <= token <= MAX_TOKEN_ID:
                raise BadRequest(f"`logit_bias`: {token} is not a token id.", param="logit_bias")
            if bias is False:  # llama-server's word for "never"
                return token, -MAX_BIAS
            return token, float(max(-MAX_BIAS, min(bias, MAX_BIAS)))  # an int may be larger than any float
    raise BadRequest("`logit_bias`: pairs of a token (or text) and a number.", param="logit_bias")


class CompletionBody(NativeFields, frozen=True, kw_only=True):
    """`prompt`: a text, token ids, both in one list, or a list of such prompts; with images as an object."""

    prompt: Any


class Extra(Struct, frozen=True, kw_only=True):
    text: str
    filename: str | None = None


class InfillBody(NativeFields, frozen=True, kw_only=True):
    input_prefix: str
    input_suffix: str
    input_extra: list[Extra] | None = None
    prompt: str | None = None


class Probability(Struct, frozen=True, kw_only=True):
    id: int
    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[Probability] | UnsetType = UNSET


class NativeAnswer(Struct, frozen=True, kw_only=True):
    """Whole, or a piece of a stream: then what only the last one has is absent."""

    index: int
    content: str
    tokens: list[int]
    id_slot: int = -1  # there are no slots
    stop: bool
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    generation_settings: dict[str, Any] | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    has_new_line: bool | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET
    stop_type: str | UnsetType = UNSET
    stopping_word: str | UnsetType = UNSET
    tokens_cached: int | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    completion_probabilities: list[Probability] | UnsetType = UNSET


def probabilities(tokens: list[TokenLogprob]) -> list[Probability]:
    return [
        Probability(
            id=one.token_id,
            token=one.piece.decode("utf-8", "replace"),
            bytes=list(one.piece),
            logprob=0.0 if one.logprob is None else one.logprob,
            top_logprobs=[
                Probability(
                    id=token, token=piece.decode("utf-8", "replace"), bytes=list(piece), logprob=logprob
                )
                for token, piece, logprob in one.top
            ],
        )
        for one in tokens
    ]
