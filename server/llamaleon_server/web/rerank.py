"""`POST /v1/rerank`, and under the other names that clients know it by."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.residents.embedding import rank
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.llama_server.naming import model_or_only
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.rerank import (
    RankedText,
    Reranking,
    RerankRequest,
    parse_rerank,
    ranked_texts,
    reranking,
)

PATHS = ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking")


async def create(request: Request) -> Response:
    """Documents by their relevance to a query."""
    asked = parse_rerank(await request.body())
    services = services_of(request)
    model = model_or_only(request, asked.model)
    target = services.registry.resolve(model)
    work = rank(services.residents, target, asked.query, asked.given(), asked.field)
    found = await while_connected(request, work)
    if asked.texts is not None:
        return json_response(ranked_texts(asked, found.scores))
    return json_response(reranking(asked, model, found.scores, sum(found.input_tokens)))


routes = [
    Described(path, create, methods=["POST"], body=RerankRequest, answer=Reranking | list[RankedText])
    for path in PATHS
]
