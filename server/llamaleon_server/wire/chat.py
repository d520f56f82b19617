"""`/v1/chat/completions`: what is asked, and what the request means for the engine."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from llamaleon_server.chat.ask import Ask
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import decode, is_set, refuse
from llamaleon_server.wire.sampling import Alternatives, Count, SamplingFields

ROLES = ("system", "developer", "user", "assistant")
NO_TOOLS = "this server does not call tools yet."


class ContentPart(Struct, frozen=True):
    type: str
    text: str | None = None


class Message(Struct, frozen=True, kw_only=True):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None
    audio: Any = None


class Typed(Struct, frozen=True):
    type: str


class ChatRequest(SamplingFields, frozen=True, kw_only=True):
    """Accepted and without effect: whatever else clients send, such as `user`, `store`, `metadata`,
    `service_tier`, `prompt_cache_key`, `reasoning_effort`, `verbosity`, `prediction`."""

    messages: list[Message]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None

    # Refused by name where they would change the answer.
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: Typed | None = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None

    def ask(self) -> Ask:
        """Raises: BadRequest naming the field."""
        return Ask(
            messages=template_messages(self.messages),
            wanted=self.wanted(),
            choices=self.choices,
            max_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            stop=self.stops(),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            ignore_eos=bool(self.ignore_eos),
            cache_prompt=self.cache_prompt is not False,
        )


def parse_chat(body: bytes) -> ChatRequest:
    """Raises: BadRequest naming the field."""
    request = decode(body, ChatRequest)
    _refuse_unsupported(request)
    request.check_stream_options()
    request.stops()
    if request.top_logprobs is not None and not request.logprobs:
        raise BadRequest("`top_logprobs` needs `logprobs: true`.", param="top_logprobs")
    if not request.messages:
        raise BadRequest("`messages` must not be empty.", param="messages")
    return request


def _refuse_unsupported(request: ChatRequest) -> None:
    for param in ("tools", "functions"):
        if is_set(getattr(request, param)):
            raise refuse(param, NO_TOOLS)
    for param in ("tool_choice", "function_call"):
        if getattr(request, param) not in (None, "none", "auto"):
            raise refuse(param, NO_TOOLS)
    if request.response_format is not None and request.response_format.type != "text":
        raise refuse("response_format", "only the type `text` is.")
    if request.modalities and set(request.modalities) != {"text"}:
        raise refuse("modalities", "only `text` is.")
    for param in ("audio", "web_search_options"):
        if is_set(getattr(request, param)):
            raise refuse(param, "this server reads and writes text only.")


def template_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """As chat templates want them: plain text contents, and `system` for OpenAI's newer `developer`.

    Raises:
        BadRequest: a role, a content part or a tool call that cannot be honoured, with its place.
    """
    return [_template_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _template_message(message: Message, place: str) -> dict[str, Any]:
    if message.role in ("tool", "function"):
        raise refuse(f"{place}.role", NO_TOOLS)
    if message.role not in ROLES:
        raise BadRequest(
            f"`{place}.role`: {message.role!r} is none of {', '.join(ROLES)}.", param=f"{place}.role"
        )
    for param in ("tool_calls", "function_call"):
        if is_set(getattr(message, param)):
            raise refuse(f"{place}.{param}", NO_TOOLS)
    if is_set(message.audio):
        raise refuse(f"{place}.audio", "this server reads and writes text only.")
    if message.content is None and message.role != "assistant":
        raise BadRequest(f"`{place}.content` is required.", param=f"{place}.content")
    role = "system" if message.role == "developer" else message.role
    rendered = {"role": role, "content": _content(message, place)}
    if message.name is not None:
        rendered["name"] = message.name
    return rendered


def _content(message: Message, place: str) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    texts = []
    for index, part in enumerate(message.content):
        if part.type != "text":
            raise refuse(
                f"{place}.content[{index}].type", f"content parts of type {part.type!r}; only `text` is."
            )
        if part.text is None:
            raise BadRequest(
                f"`{place}.content[{index}].text` is required.", param=f"{place}.content[{index}].text"
            )
        texts.append(part.text)
    return "".join(texts)
