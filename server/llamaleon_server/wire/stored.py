"""Chat completions that were kept with `store: true`, as OpenAI lists them, and as rows to train on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from llamaleon_server.wire.chat import ChatRequest
from llamaleon_server.wire.chat_answer import AnswerMessage, ChatCompletion
from llamaleon_server.wire.chat_messages import ContentPart, Message
from llamaleon_server.wire.chat_tools import ToolParam
from llamaleon_server.wire.metadata import Metadata

# An answer that ended in another way (cut at `max_tokens`) would teach to end like that.
LEARNABLE_ENDS = frozenset({"stop", "tool_calls"})


class StoredCompletion(ChatCompletion, frozen=True, kw_only=True):
    """With what of its request belongs to the answer."""

    metadata: Metadata | None = None
    tools: list[ToolParam] | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


class Exchange(Struct, frozen=True, kw_only=True):
    """What was asked and what was answered."""

    completion: StoredCompletion
    messages: list[Message]


class StoredMessage(Message, frozen=True, kw_only=True):
    """A message of the request. `content` is text; where parts were given they are in `content_parts`."""

    id: str
    content_parts: list[ContentPart] | None = None


class StoredPage(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[StoredCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool


class MessagePage(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[StoredMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool


class NewMetadata(Struct, frozen=True, kw_only=True):
    metadata: Metadata | None


class ExportRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which stored completions become rows: those of `model` whose metadata has all of these pairs.

    With `preferred` and `rejected`, rows of preferences: two answers to the same messages, the metadata of
    the one having all pairs of `preferred`, of the other all of `rejected`.
    """

    model: str | None = None
    metadata: Metadata | None = None
    preferred: Metadata | None = None
    rejected: Metadata | None = None
    filename: str = "stored_completions.jsonl"


class Export(Struct, frozen=True, kw_only=True):
    """Rows, and how many answers were left out for which reason."""

    rows: list[dict[str, Any]]
    left_out: dict[str, int]


class ExportedFile(Struct, frozen=True, kw_only=True):
    """OpenAI's file object, with what became of the completions."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: None
    rows: int
    left_out: dict[str, int]
    warning: str


def exchange_of(asked: ChatRequest, completion: ChatCompletion) -> Exchange:
    stored = StoredCompletion(
        **msgspec.structs.asdict(completion),
        metadata=asked.metadata,
        tools=asked.tools,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
    )
    return Exchange(completion=stored, messages=asked.messages)


def stored_messages(exchange: Exchange) -> list[StoredMessage]:
    return [
        _stored_message(f"{exchange.completion.id}-{index}", message)
        for index, message in enumerate(exchange.messages)
    ]


def _stored_message(name: str, message: Message) -> StoredMessage:
    fields = {**msgspec.structs.asdict(message), "id": name}
    if isinstance(message.content, list):
        fields["content_parts"] = message.content
        fields["content"] = _text(message.content)
    return StoredMessage(**fields)


# ---------------------------------------------------------------- rows


def supervised_rows(exchanges: Sequence[Exchange]) -> Export:
    """A row of OpenAI's chat shape for every answer."""
    left_out: defaultdict[str, int] = defaultdict(int)
    rows = []
    for exchange in exchanges:
        for answer in _answers(exchange, left_out):
            row: dict[str, Any] = {"messages": [*_asked(exchange), answer]}
            rows.append(row | _tools(exchange))
    return Export(rows=rows, left_out=dict(left_out))


def preference_rows(preferred: Sequence[Exchange], rejected: Sequence[Exchange]) -> Export:
    """A row of OpenAI's DPO shape for every pair of answers to the same messages with the same tools."""
    left_out: defaultdict[str, int] = defaultdict(int)
    worse: defaultdict[bytes, list[dict[str, Any]]] = defaultdict(list)
    for exchange in rejected:
        worse[_key(exchange)] += _answers(exchange, left_out)
    rows = []
    for exchange in preferred:
        against = worse[_key(exchange)]
        answers = list(_answers(exchange, left_out))
        asked: dict[str, Any] = {"messages": _asked(exchange), **_tools(exchange)}
        if not against:
            left_out["no rejected answer to the same messages"] += len(answers)
        rows += [
            {"input": asked, "preferred_output": [better], "non_preferred_output": [other]}
            for better in answers
            for other in against
            if better != other
        ]
    return Export(rows=rows, left_out=dict(left_out))


def _answers(exchange: Exchange, left_out: defaultdict[str, int]) -> Iterator[dict[str, Any]]:
    for choice in exchange.completion.choices:
        if _has_images(exchange.messages):
            left_out["images cannot be trained on"] += 1
        elif choice.finish_reason not in LEARNABLE_ENDS:
            left_out[f"ended by {choice.finish_reason}"] += 1
        else:
            yield _plain(choice.message)


def _asked(exchange: Exchange) -> list[dict[str, Any]]:
    return [_plain(message) for message in exchange.messages]


def _plain(message: Message | AnswerMessage) -> dict[str, Any]:
    """Without the fields that say nothing; parts joined."""
    fields: dict[str, Any] = {
        key: value for key, value in msgspec.to_builtins(message).items() if value is not None
    }
    if isinstance(message, Message) and isinstance(message.content, list):
        fields["content"] = _text(message.content)
    return fields


def _tools(exchange: Exchange) -> dict[str, Any]:
    tools = exchange.completion.tools
    return {"tools": [_without_nulls(tool) for tool in msgspec.to_builtins(tools)]} if tools else {}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def _key(exchange: Exchange) -> bytes:
    return msgspec.json.encode([_asked(exchange), _tools(exchange)], order="deterministic")


def _text(parts: Sequence[ContentPart]) -> str:
    return "".join(part.text or part.refusal or "" for part in parts)


def _has_images(messages: Sequence[Message]) -> bool:
    return any(
        isinstance(message.content, list) and any(part.image_url is not None for part in message.content)
        for message in messages
    )
