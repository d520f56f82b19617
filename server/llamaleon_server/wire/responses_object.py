"""`/v1/responses`: the object that answers. Stored as it is here, but for its output, which is items."""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from llamaleon_server.engine.protocol import Finish
from llamaleon_server.errors import BadRequest, LlamaleonError, QueueFull
from llamaleon_server.wire.responses import AskedFields, Format, ResponsesRequest
from llamaleon_server.wire.responses_items import OutputItem
from llamaleon_server.wire.usage import Timings

QUEUED, IN_PROGRESS, COMPLETED = "queued", "in_progress", "completed"
FAILED, INCOMPLETE, CANCELLED = "failed", "incomplete", "cancelled"
RUNNING = (QUEUED, IN_PROGRESS)


class ResponseError(Struct, frozen=True):
    """`code` is one of OpenAI's few; `message` says what happened."""

    code: str
    message: str


class IncompleteDetails(Struct, frozen=True):
    reason: Literal["max_output_tokens"]


class InputDetails(Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0  # the cache costs nothing here, so nothing is counted


class OutputDetails(Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ReasoningShown(Struct, frozen=True, kw_only=True):
    effort: str | None = None
    summary: str | None = None


class TextShown(Struct, frozen=True, kw_only=True):
    format: dict[str, Any]
    verbosity: str | UnsetType = UNSET


class ConversationShown(Struct, frozen=True):
    id: str


class ResponseObject(Struct, frozen=True, kw_only=True):
    """Times are Unix seconds. `timings` are llama-server's, as in chats."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: str = IN_PROGRESS
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    conversation: ConversationShown | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning: ReasoningShown = ReasoningShown()
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool = True
    temperature: float
    text: TextShown
    tool_choice: Any = "auto"
    tools: list[Any] = []
    top_logprobs: int = 0
    top_p: float
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None
    metadata: dict[str, str] = {}
    timings: Timings | UnsetType = UNSET


class Deleted(Struct, frozen=True, kw_only=True):
    id: str
    object: str
    deleted: bool = True


class TokenCount(Struct, frozen=True, kw_only=True):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class ItemPage(Struct, frozen=True, kw_only=True):
    """`first_id` and `last_id` are empty texts where there is no item: OpenAI's types know no null."""

    object: Literal["list"] = "list"
    data: list[Any]
    first_id: str
    last_id: str
    has_more: bool


def begun(request: ResponsesRequest, identity: str, temperature: float, top_p: float) -> ResponseObject:
    """Nothing of the answer is there yet. `temperature` and `top_p`: those that are used."""
    reasoning = request.reasoning
    conversation = request.conversation_id
    return ResponseObject(
        id=identity,
        created_at=int(time.time()),
        status=QUEUED if request.background else IN_PROGRESS,
        background=bool(request.background),
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        model=request.model,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        conversation=None if conversation is None else ConversationShown(conversation),
        prompt_cache_key=request.prompt_cache_key,
        prompt_cache_retention=request.prompt_cache_retention,
        reasoning=ReasoningShown(
            effort=reasoning.effort if reasoning else None,
            summary=(reasoning.summary or reasoning.generate_summary) if reasoning else None,
        ),
        safety_identifier=request.safety_identifier,
        store=request.stored,
        temperature=temperature,
        text=_text(request),
        tool_choice="auto" if request.tool_choice is None else request.tool_choice,
        tools=[_tool(tool) for tool in request.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        top_p=top_p,
        truncation=request.truncation or "disabled",
        user=request.user,
        metadata=request.metadata or {},
    )


def ended(response: ResponseObject, status: str, **changes: Any) -> ResponseObject:
    return msgspec.structs.replace(response, status=status, completed_at=int(time.time()), **changes)


def failed(response: ResponseObject, error: LlamaleonError) -> ResponseObject:
    code = "server_error"
    if isinstance(error, BadRequest):
        code = "invalid_prompt"
    elif isinstance(error, QueueFull):
        code = "rate_limit_exceeded"
    return ended(response, FAILED, error=ResponseError(code, error.message))


def usage_of(finish: Finish, thinking_tokens: int) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=finish.prompt_tokens,
        input_tokens_details=InputDetails(finish.cached_tokens),
        output_tokens=finish.completion_tokens,
        output_tokens_details=OutputDetails(thinking_tokens),
        total_tokens=finish.prompt_tokens + finish.completion_tokens,
    )


def _text(request: AskedFields) -> TextShown:
    form: Format = request.format
    shown: dict[str, Any] = {"type": form.type}
    if form.type == "json_schema":
        shown |= {"name": form.name, "schema": form.schema, "strict": bool(form.strict)}
        if form.description is not None:
            shown["description"] = form.description
    verbosity = request.text.verbosity if request.text else None
    return TextShown(format=shown, verbosity=UNSET if verbosity is None else verbosity)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """As asked for; these keys are always there at OpenAI."""
    return {"description": None, "parameters": None, "strict": False, **tool}
