"""`POST /v1/embeddings`, and llama-server's `/embedding` and `/embeddings`."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.residents.embedding import embed
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.llama_server.naming import model_or_only
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.embeddings import (
    EmbeddingList,
    EmbeddingRequest,
    EmbeddingUsage,
    NativeEmbedding,
    NativeRequest,
    parse_embedding,
    rendered,
)


async def create(request: Request) -> Response:
    """Vectors of texts, of unit length."""
    asked = parse_embedding(await request.body())
    services = services_of(request)
    target = services.registry.resolve(asked.model, asked.lora)
    work = embed(services.residents, target, asked.inputs(), dimensions=asked.dimensions)
    found = await while_connected(request, work)
    data = []
    for index, vector in enumerate(found.vectors):
        data.append(rendered(vector, index, asked.encoding_format))
        await asyncio.sleep(0)  # thousands of vectors must not hold up the streams of others
    tokens = sum(found.input_tokens)
    return json_response(
        EmbeddingList(
            data=data, model=asked.model, usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
        )
    )


async def create_native(request: Request) -> Response:
    """As llama-server has it: a bare list."""
    asked = decode(await request.body(), NativeRequest)
    inputs = asked.inputs()
    services = services_of(request)
    target = services.registry.resolve(model_or_only(request, asked.model), asked.lora)
    found = await while_connected(request, embed(services.residents, target, inputs))
    return json_response(
        [
            NativeEmbedding(index=index, embedding=[vector.tolist()])
            for index, vector in enumerate(found.vectors)
        ]
    )


routes = [
    *(
        Described(path, create_native, methods=["POST"], body=NativeRequest, answer=list[NativeEmbedding])
        for path in ("/embedding", "/embeddings")
    ),
    Described("/v1/embeddings", create, methods=["POST"], body=EmbeddingRequest, answer=EmbeddingList),
]
