"""Anthropic's `/v1/messages`: what is asked, field by field, and what it means in the words of no protocol.

Every field of the `anthropic` package's request types is honoured here, refused by name, or in `IGNORED`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from llamaleon_server.chat.ask import Ask, Form, Tool, ToolChoice, Wanted
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.anthropic_content import Block, InputMessage, conversation_of
from llamaleon_server.wire.decode import decode, is_set, refuse
from llamaleon_server.wire.sampling import MAX_STOPS, Count

# Without effect here, and harmless: billing, routing, caching (which needs no asking), and hints.
IGNORED = frozenset(
    {
        "billing_policy",
        "cache_control",
        "context_management",  # what would be cleared stays in the prompt
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",  # other models for refusals that a local model does not make
        "inference_geo",
        "metadata",
        "service_tier",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
LOCAL_ONLY = "this server runs no tools of its own for this API."

Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class Unthreaded(BadRequest):
    """Anthropic's package then goes on by sending the whole conversation, without `thread`."""

    code = "thread_unsupported_request"


class ToolParam(Struct, frozen=True, kw_only=True):
    """Ignored beside `cache_control`: `defer_loading` (every tool is in the prompt), `eager_input_streaming`
    (input always streams) and `input_examples`."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: list[str] | None = None


class ToolChoiceParam(Struct, frozen=True, kw_only=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, frozen=True, kw_only=True):
    """`budget_tokens` is required as Anthropic has it, and without effect: `max_tokens` is the limit."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Struct, frozen=True, kw_only=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, frozen=True, kw_only=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Conversation(Struct, frozen=True, kw_only=True):
    """What `/v1/messages` and `/v1/messages/count_tokens` share."""

    model: Annotated[str, Meta(min_length=1)]
    messages: list[InputMessage]
    system: str | list[Block] | None = None
    tools: list[ToolParam] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # the beta's older name of `output_config.format`

    # Refused by name: each would change the answer.
    container: Any = None
    compaction: Any = None
    mcp_servers: list[Any] | None = None
    thread: Any = None

    def ask(self) -> Ask:
        """Raises: BadRequest naming the field."""
        return self._ask(Wanted())

    def _ask(self, wanted: Wanted, **more: Any) -> Ask:
        for param in ("container", "compaction", "mcp_servers"):
            if is_set(getattr(self, param)):
                raise refuse(param, LOCAL_ONLY)
        if is_set(self.thread):
            raise Unthreaded("`thread`: conversations are not kept. Send the whole of it.", param="thread")
        said = conversation_of(self.system, self.messages)
        tools = _tools(self.tools or [])
        return Ask(
            messages=said.messages,
            media=said.media,
            media_fields=said.media_fields,
            continue_last=said.continues,
            tools=tools,
            tool_choice=_tool_choice(self.tool_choice, tools),
            parallel_tool_calls=not (self.tool_choice and self.tool_choice.disable_parallel_tool_use),
            form=self._form(),
            thinking=_thinks(self.thinking),
            effort=self.output_config.effort if self.output_config else None,
            wanted=wanted,
            **more,
        )

    def _form(self) -> Form | None:
        if self.output_config is not None and self.output_config.format is not None:
            return _form(self.output_config.format, "output_config.format.schema")
        return None if self.output_format is None else _form(self.output_format, "output_format.schema")


class MessagesRequest(Conversation, frozen=True, kw_only=True):
    max_tokens: Count
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Share | None = None
    top_p: Share | None = None
    top_k: int | None = None

    @property
    def shows_thinking(self) -> bool:
        return self.thinking is None or self.thinking.display != "omitted"

    def ask(self) -> Ask:
        """Raises: BadRequest naming the field."""
        wanted = Wanted(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        return self._ask(wanted, max_tokens=self.max_tokens, stop=self.stops())

    def stops(self) -> tuple[str, ...]:
        stops = tuple(self.stop_sequences or ())
        if len(stops) > MAX_STOPS:
            raise BadRequest(
                f"`stop_sequences`: at most {MAX_STOPS}, got {len(stops)}.", param="stop_sequences"
            )
        for index, stop in enumerate(stops):
            if not stop:  # Anthropic refuses white space too; here a line may be the end
                place = f"stop_sequences[{index}]"
                raise BadRequest(f"`{place}` must not be empty.", param=place)
        return stops


def parse_messages(body: bytes) -> MessagesRequest:
    """Raises: BadRequest naming the field."""
    return decode(body, MessagesRequest)


def parse_count(body: bytes) -> Conversation:
    """Raises: BadRequest naming the field."""
    return decode(body, Conversation)


def _thinks(thinking: Thinking | None) -> bool | None:
    """Unasked, no thinking, as the clients of this API expect: they read the first block as the answer."""
    if thinking is None or thinking.type in ("disabled", "between_tools"):
        return False
    if thinking.type == "adaptive":
        return None
    if thinking.budget_tokens is None:
        raise BadRequest("`thinking.budget_tokens` is required.", param="thinking.budget_tokens")
    return True


def _form(form: OutputFormat, field: str) -> Form:
    return Form(kind="json_schema", value=form.schema, field=field)


def _tools(params: list[ToolParam]) -> tuple[Tool, ...]:
    tools: dict[str, Tool] = {}
    for index, param in enumerate(params):
        place = f"tools[{index}]"
        if param.type not in (None, "custom"):
            raise refuse(f"{place}.type", f"{param.type!r}; only tools with an `input_schema` are.")
        if param.allowed_callers and "direct" not in param.allowed_callers:
            raise refuse(f"{place}.allowed_callers", "only `direct` is: this server runs no code.")
        if param.input_schema is None:
            raise BadRequest(f"`{place}.input_schema` is required.", param=f"{place}.input_schema")
        if param.name in tools:
            raise BadRequest(f"`{place}.name`: there are two tools {param.name!r}.", param=f"{place}.name")
        tools[param.name] = Tool(
            name=_tool_name(param.name, place),
            description=param.description,
            parameters=param.input_schema,
            strict=bool(param.strict),
            field=f"{place}.input_schema",
        )
    return tuple(tools.values())


def _tool_name(name: str, place: str) -> str:
    if not 1 <= len(name) <= 128 or not all(letter.isalnum() or letter in "_-" for letter in name):
        raise BadRequest(
            f"`{place}.name`: {name!r} is not 1 to 128 letters, digits, '_' or '-'.", param=f"{place}.name"
        )
    return name


def _tool_choice(choice: ToolChoiceParam | None, tools: tuple[Tool, ...]) -> ToolChoice:
    if choice is None or choice.type == "auto":
        return ToolChoice()
    if choice.type == "none":
        return ToolChoice("none")
    if not tools:
        raise BadRequest(f"`tool_choice` {choice.type!r} needs `tools`.", param="tool_choice")
    if choice.type == "any":
        return ToolChoice("required")
    if choice.name is None:
        raise BadRequest("`tool_choice.name` is required.", param="tool_choice.name")
    if choice.name not in (tool.name for tool in tools):
        raise BadRequest(f"`tool_choice.name`: {choice.name!r} is none of `tools`.", param="tool_choice.name")
    return ToolChoice("required", (choice.name,))
