"""`/v1/batches`, as OpenAI specifies it."""

from __future__ import annotations

import asyncio

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.registry.batches import BatchRecord
from llamaleon_server.web.access import GRANTED
from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.batches import (
    BatchError,
    BatchErrors,
    BatchObject,
    BatchPage,
    BatchUsage,
    CachedTokens,
    CreateBatch,
    ReasoningTokens,
    RequestCounts,
    parse_batch,
)
from llamaleon_server.wire.files import query_limit


class PageQuery(Struct, frozen=True, kw_only=True):
    after: str | None = None
    limit: int | None = None


async def create(request: Request) -> Response:
    """Run the requests of an uploaded file, beside the interactive ones."""
    asked = parse_batch(await request.body())
    return json_response(_shown(services_of(request).batches.create(asked, request.scope[GRANTED])))


async def index(request: Request) -> Response:
    """All batches, newest first."""
    page, has_more = await asyncio.to_thread(
        services_of(request).batches.page,
        after=request.query_params.get("after"),
        limit=query_limit(request.query_params, 20, 100),
    )
    return json_response(
        BatchPage(
            data=[_shown(record) for record in page],
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=has_more,
        )
    )


async def retrieve(request: Request) -> Response:
    """A batch as it is now."""
    return json_response(_shown(services_of(request).batches.get(request.path_params["batch_id"])))


async def cancel(request: Request) -> Response:
    """End a batch; what was done stays in its files."""
    return json_response(_shown(await services_of(request).batches.cancel(request.path_params["batch_id"])))


def _shown(record: BatchRecord) -> BatchObject:
    tokens, at = record.tokens, record.times.get
    errors = [
        BatchError(code=error.code, message=error.message, line=error.line, param=error.param)
        for error in record.errors
    ]
    return BatchObject(
        id=record.id,
        endpoint=record.endpoint,
        model=record.model,
        errors=BatchErrors(data=errors) if errors else None,
        input_file_id=record.input_file_id,
        completion_window=record.completion_window,
        status=record.status,
        output_file_id=record.output_file_id,
        error_file_id=record.error_file_id,
        created_at=record.created_at,
        in_progress_at=at("in_progress"),
        expires_at=record.expires_at,
        finalizing_at=at("finalizing"),
        completed_at=at("completed"),
        failed_at=at("failed"),
        expired_at=at("expired"),
        cancelling_at=at("cancelling"),
        cancelled_at=at("cancelled"),
        request_counts=RequestCounts(
            total=record.counts.total, completed=record.counts.completed, failed=record.counts.failed
        ),
        usage=BatchUsage(
            input_tokens=tokens.input_tokens,
            input_tokens_details=CachedTokens(tokens.cached_tokens),
            output_tokens=tokens.output_tokens,
            output_tokens_details=ReasoningTokens(tokens.reasoning_tokens),
            total_tokens=tokens.input_tokens + tokens.output_tokens,
        ),
        metadata=record.metadata,
    )


routes = [
    Described("/v1/batches", create, methods=["POST"], body=CreateBatch, answer=BatchObject),
    Described("/v1/batches", index, methods=["GET"], query=PageQuery, answer=BatchPage),
    Described("/v1/batches/{batch_id}", retrieve, methods=["GET"], answer=BatchObject),
    Described("/v1/batches/{batch_id}/cancel", cancel, methods=["POST"], answer=BatchObject),
]
