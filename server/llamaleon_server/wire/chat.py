"""`/v1/chat/completions`: what is asked, and what the request means for the engine.

docs/tools.md has a table of all fields; a test compares it with OpenAI's list.
"""

from __future__ import annotations

from typing import Any

from llamaleon_server.chat.ask import Ask, Tool, ToolChoice
from llamaleon_server.chat.reasoning import OFF
from llamaleon_server.chat.template import RESERVED
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.chat_forms import FormFields
from llamaleon_server.wire.chat_messages import WORDS_ONLY, Images, Message, template_messages
from llamaleon_server.wire.chat_tools import (
    Function,
    ToolParam,
    choice_of,
    legacy_choice,
    legacy_tools,
    tools_of,
)
from llamaleon_server.wire.decode import decode, is_set, refuse
from llamaleon_server.wire.metadata import Metadata
from llamaleon_server.wire.sampling import Alternatives, Count

NO_SEARCH = "this server does not search the web."


class ChatRequest(FormFields, frozen=True, kw_only=True):
    messages: list[Message]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None

    tools: list[ToolParam] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = None  # legacy, as is the next
    function_call: str | dict[str, Any] | None = None

    reasoning_effort: str | None = None
    verbosity: str | None = None  # for templates that know it
    chat_template_kwargs: dict[str, Any] | None = None  # llama-server's and vLLM's
    continue_final_message: bool | None = None  # vLLM's, as is the next
    add_generation_prompt: bool | None = None
    keep_alive: float | str | None = None  # Ollama's: of the model, once this is answered

    store: bool | None = None  # keep what was asked and answered: `wire/stored.py`
    metadata: Metadata | None = None  # of what is stored

    # Without effect here, as docs/tools.md says.
    prediction: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    user: str | None = None

    # Refused by name, because they would change the answer.
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    moderation: Any = None

    @property
    def is_legacy(self) -> bool:
        """Whether a call is to be told as `function_call`."""
        return bool(self.functions)

    def ask(self) -> Ask:
        """Raises: BadRequest naming the field."""
        images = Images()
        messages = template_messages(self.messages, images)
        tools, choice = self._tools()
        effort = self.reasoning_effort
        return Ask(
            messages=messages,
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls is not False and not self.is_legacy,
            form=self.form(),
            thinking=None if effort is None else effort not in OFF,
            effort=effort,
            template_options=self._template_options(),
            continue_last=self._continues(),
            media=tuple(images.media),
            media_fields=tuple(images.fields),
            wanted=self.wanted(),
            choices=self.choices,
            max_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            stop=self.stops(),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            ignore_eos=bool(self.ignore_eos),
            cache_prompt=self.cache_prompt is not False,
        )

    def _tools(self) -> tuple[tuple[Tool, ...], ToolChoice]:
        if self.is_legacy:
            if is_set(self.tools):
                raise BadRequest("`functions` is the legacy name of `tools`: give one.", param="functions")
            tools = legacy_tools(self.functions)
            return tools, legacy_choice(self.function_call, tools)
        if self.function_call not in (None, "auto", "none"):
            raise BadRequest("`function_call` needs `functions`.", param="function_call")
        tools = tools_of(self.tools)
        return tools, choice_of(self.tool_choice, tools)

    def _template_options(self) -> dict[str, Any]:
        options = dict(self.chat_template_kwargs or {})
        if taken := sorted(RESERVED & options.keys()):
            place = f"chat_template_kwargs.{taken[0]}"
            raise BadRequest(f"`{place}`: the template has this from the request itself.", param=place)
        if self.verbosity is not None:
            options.setdefault("verbosity", self.verbosity)
        return options

    def _continues(self) -> bool:
        if self.continue_final_message and self.add_generation_prompt:
            raise BadRequest(
                "`continue_final_message` and `add_generation_prompt` exclude each other.",
                param="continue_final_message",
            )
        asked = bool(self.continue_final_message)
        if asked and self.messages[-1].role != "assistant":
            raise BadRequest(
                "`continue_final_message`: the last message is not the assistant's.",
                param="continue_final_message",
            )
        return asked


def parse_chat(body: bytes) -> ChatRequest:
    """Raises: BadRequest naming the field."""
    request = decode(body, ChatRequest)
    check_chat(request)
    return request


def check_chat(request: ChatRequest) -> None:
    """What a type alone does not say. Raises: BadRequest naming the field."""
    if request.modalities and set(request.modalities) != {"text"}:
        raise refuse("modalities", "only `text` is.")
    if is_set(request.audio):
        raise refuse("audio", WORDS_ONLY)
    if is_set(request.web_search_options):
        raise refuse("web_search_options", NO_SEARCH)
    if is_set(request.moderation):
        raise refuse("moderation", "this server moderates nothing.")
    request.check_stream_options()
    request.stops()
    if request.top_logprobs is not None and not request.logprobs:
        raise BadRequest("`top_logprobs` needs `logprobs: true`.", param="top_logprobs")
    if not request.messages:
        raise BadRequest("`messages` must not be empty.", param="messages")


__all__ = ["ChatRequest", "Message", "check_chat", "parse_chat"]
