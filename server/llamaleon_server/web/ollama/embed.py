"""`POST /api/embed`, and the older `POST /api/embeddings`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.registry.parameters import meaning_of
from llamaleon_server.registry.records import Target
from llamaleon_server.residents.embedding import Embedded
from llamaleon_server.residents.embedding import embed as embedded
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import Services, services_of
from llamaleon_server.wire.keep_alive import parse_keep_alive
from llamaleon_server.wire.ollama.answers import Clock
from llamaleon_server.wire.ollama.requests import EmbeddingsRequest, EmbedRequest, parse


class Embeddings(Struct, frozen=True, kw_only=True):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class Embedding(Struct, frozen=True):
    embedding: list[float]


async def embed(request: Request) -> Response:
    """Vectors of unit length. Without input: load the model."""
    clock = Clock()
    asked = parse(await request.body(), EmbedRequest)
    services, target = _prepared(request, asked)
    dimensions = asked.dimensions if asked.dimensions and asked.dimensions > 0 else None  # as Ollama
    more = {"dimensions": dimensions, "truncate": asked.truncate is not False}
    working = _vectors(services, target, asked.inputs(), clock, **more)
    found = await while_connected(request, working)
    return json_response(
        Embeddings(
            model=asked.model,
            embeddings=[vector.tolist() for vector in found.vectors],
            total_duration=clock.total,
            load_duration=clock.load,
            prompt_eval_count=sum(found.input_tokens),
        )
    )


async def embeddings(request: Request) -> Response:
    """One vector, as long as the model makes it. Without a prompt: load the model."""
    asked = parse(await request.body(), EmbeddingsRequest)
    services, target = _prepared(request, asked)
    inputs = [asked.prompt] if asked.prompt else []
    working = _vectors(services, target, inputs, Clock(), truncate=True, normalised=False)
    found = await while_connected(request, working)
    return json_response(Embedding(found.vectors[0].tolist() if found.vectors else []))


def _prepared(request: Request, asked: EmbedRequest | EmbeddingsRequest) -> tuple[Services, Target]:
    services = services_of(request)
    target = services.registry.resolve(asked.model)
    meaning_of((asked.options or {}).items(), "options")  # wrong ones are refused, sampling has no effect
    if asked.keep_alive is not None:
        services.residents.keep(target.base.name, parse_keep_alive(asked.keep_alive))
    return services, target


async def _vectors(
    services: Services, target: Target, inputs: Sequence[str], clock: Clock, **more: Any
) -> Embedded:
    async with services.residents.lease(target.base):
        clock.load_ends()
        if not inputs:
            return Embedded(vectors=[], input_tokens=[])
        return await embedded(services.residents, target, list(inputs), **more)


routes = [
    Described("/api/embed", embed, methods=["POST"], body=EmbedRequest, answer=Embeddings),
    Described("/api/embeddings", embeddings, methods=["POST"], body=EmbeddingsRequest, answer=Embedding),
]
