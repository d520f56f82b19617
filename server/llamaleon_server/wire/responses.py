"""`/v1/responses`: what is asked, and what the request means for the chat core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from llamaleon_server.chat.ask import Ask, Form
from llamaleon_server.chat.reasoning import OFF
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.chat_messages import Images
from llamaleon_server.wire.decode import decode, is_set, refuse
from llamaleon_server.wire.metadata import Metadata
from llamaleon_server.wire.responses_items import Item
from llamaleon_server.wire.responses_messages import messages_of
from llamaleon_server.wire.responses_tools import choice_of, tools_of
from llamaleon_server.wire.sampling import Alternatives, SamplingFields

LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"
# The others concern tools that OpenAI hosts, which are refused, and the clients' own images.
INCLUDABLE = (
    LOGPROBS,
    ENCRYPTED,
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)

# Without effect here, and no answer is wrong for it. A test holds these three against OpenAI's own list.
IGNORED: Mapping[str, str] = {
    "access_programs": "OpenAI's programmes of access to its models",
    "max_tool_calls": "counts calls of hosted tools only, and there are none",
    "prompt_cache_options": "prompts are cached by their content; `prewarm: true` is refused",
    "service_tier": "there is one tier, `default`",
    "stream_options": "`include_obfuscation`: nothing is obfuscated",
}
ECHOED: Mapping[str, str] = {
    "prompt_cache_key": "prompts are cached by their content",
    "prompt_cache_retention": "the cache keeps what it has room for",
    "safety_identifier": "nobody is watched",
    "user": "nobody is watched",
}
REFUSED: Mapping[str, str] = {
    "context_management": 'conversations are not compacted. `truncation: "auto"` drops the oldest items.',
    "moderation": "this server has no moderation model.",
    "prompt": "this server stores no prompt templates. Send their text as `instructions` and `input`.",
}
# Words of the chat route, which would otherwise be ignored in silence.
MISPLACED: Mapping[str, str] = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "logprobs": f'include: ["{LOGPROBS}"]',
    "functions": "tools",
    "function_call": "tool_choice",
}

Shape = TypeVar("Shape")


class Reasoning(Struct, frozen=True, kw_only=True):
    """`summary`, `context` and `mode` have no effect: the reasoning itself is in the answer."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class Format(Struct, frozen=True, kw_only=True):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextConfig(Struct, frozen=True, kw_only=True):
    """`verbosity` is a hint that no open model's template knows: without effect."""

    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Conversation(Struct, frozen=True):
    id: str


class CacheOptions(Struct, frozen=True):
    prewarm: bool | None = None


class ImageOptions(Struct, frozen=True):
    context_compression: str | None = None


class AskedFields(SamplingFields, frozen=True, kw_only=True):
    """What counting tokens and answering share. Extensions as in chats: `lora`, `top_k`, `seed`, `stop`..."""

    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | Conversation | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    truncation: Literal["auto", "disabled"] | None = None

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, Conversation) else self.conversation

    @property
    def format(self) -> Format:
        return (self.text and self.text.format) or Format()

    def ask(self, items: Sequence[Item]) -> Ask:
        """`items`: the whole conversation, this request's own input last. Raises: BadRequest."""
        effort = self.reasoning.effort if self.reasoning else None
        images = Images()
        messages = messages_of(self.instructions, items, images)
        tools = tools_of(self.tools or [])
        return Ask(
            messages=messages,
            media=tuple(images.media),
            media_fields=tuple(images.fields),
            tools=tools,
            tool_choice=choice_of(self.tool_choice, tools),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            form=_form(self.format),
            thinking=None if effort is None else effort not in OFF,
            effort=effort,
            wanted=self.wanted(),
            stop=self.stops(),
            ignore_eos=bool(self.ignore_eos),
            cache_prompt=self.cache_prompt is not False,
        )


class ResponsesRequest(AskedFields, frozen=True, kw_only=True):
    background: bool | None = None
    include: list[str] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    top_logprobs: Alternatives | None = None

    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    safety_identifier: str | None = None
    user: str | None = None

    image: ImageOptions | None = None
    max_tool_calls: int | None = None
    prompt_cache_options: CacheOptions | None = None
    context_management: Any = None
    moderation: Any = None
    prompt: Any = None

    messages: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    response_format: Any = None
    reasoning_effort: Any = None
    logprobs: Any = None
    functions: Any = None
    function_call: Any = None

    @property
    def stored(self) -> bool:
        return self.store is not False

    @property
    def encrypts(self) -> bool:
        return ENCRYPTED in (self.include or ())

    @property
    def alternatives(self) -> int | None:
        """Beside each token of the answer; None: no log-probabilities are wanted."""
        if LOGPROBS in (self.include or ()) or self.top_logprobs:
            return self.top_logprobs or 0
        return None

    def ask(self, items: Sequence[Item]) -> Ask:
        asked = super().ask(items)
        return msgspec.structs.replace(asked, max_tokens=self.max_output_tokens, logprobs=self.alternatives)


def parse_responses(body: bytes) -> ResponsesRequest:
    """Raises: BadRequest naming the field."""
    request = decode(body, ResponsesRequest)
    _check(request)
    for field, why in REFUSED.items():
        if is_set(getattr(request, field)):
            raise refuse(field, why)
    for field, instead in MISPLACED.items():
        if is_set(getattr(request, field)):
            raise refuse(field, f"here it is `{instead}`.")
    for index, wanted in enumerate(request.include or ()):
        if wanted not in INCLUDABLE:
            raise BadRequest(
                f"`include[{index}]`: {wanted!r} is none of {', '.join(INCLUDABLE)}.", param="include"
            )
    if request.background and not request.stored:
        raise BadRequest("`background` needs `store: true`, to be asked for later.", param="background")
    if request.prompt_cache_options and request.prompt_cache_options.prewarm:
        raise refuse("prompt_cache_options.prewarm", "a prompt is cached when it is answered.")
    if request.image and request.image.context_compression == "enabled":
        raise refuse("image.context_compression", "images are not compressed.")
    return request


def parse_count(body: bytes) -> AskedFields:
    """`/v1/responses/input_tokens`. Raises: BadRequest naming the field."""
    request = decode(body, AskedFields)
    _check(request)
    return request


def _check(request: AskedFields) -> None:
    request.check_stream_options()
    request.stops()
    if request.choices > 1:
        raise refuse("n", "a response is one answer.")
    if request.conversation is not None and request.previous_response_id is not None:
        raise BadRequest(
            "`conversation` and `previous_response_id` exclude each other.", param="previous_response_id"
        )
    if request.input is None and request.conversation is None and request.previous_response_id is None:
        raise BadRequest("`input` is required.", param="input")


def _form(form: Format) -> Form | None:
    match form.type:
        case "text":
            return None
        case "json_object":
            return Form(kind="json_object", field="text.format")
    for field in ("name", "schema"):
        if getattr(form, field) is None:
            raise BadRequest(f"`text.format.{field}` is required.", param=f"text.format.{field}")
    return Form(kind="json_schema", value=form.schema, field="text.format.schema")
