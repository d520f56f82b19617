"""`/v1/batches`: what is asked, and the object that answers."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.files import MAX_EXPIRY_S, MIN_EXPIRY_S
from llamaleon_server.wire.metadata import Metadata

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
WINDOW_S = 24 * 3600


class ExpiresAfter(Struct, frozen=True):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)]


class CreateBatch(Struct, frozen=True, kw_only=True):
    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(Struct, frozen=True, kw_only=True):
    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(Struct, frozen=True, kw_only=True):
    total: int
    completed: int
    failed: int


class CachedTokens(Struct, frozen=True):
    cached_tokens: int


class ReasoningTokens(Struct, frozen=True):
    reasoning_tokens: int


class BatchUsage(Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class BatchObject(Struct, frozen=True, kw_only=True):
    """Times are Unix seconds. `model`: if all of its requests have the same."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


class BatchPage(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def parse_batch(body: bytes) -> CreateBatch:
    """Raises: BadRequest naming the field."""
    request = decode(body, CreateBatch)
    if request.endpoint not in ENDPOINTS:
        raise BadRequest(
            f"`endpoint` {request.endpoint!r} cannot be run in batches: use one of {', '.join(ENDPOINTS)}.",
            param="endpoint",
        )
    return request
