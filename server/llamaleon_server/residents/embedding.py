"""Vectors and relevance scores from the engine of a target, for every protocol's routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamaleon_server.engine.protocol import AdapterUse, Embed, Rank, Reply
from llamaleon_server.errors import BadRequest, EngineFailed
from llamaleon_server.registry.records import Target
from llamaleon_server.residents.residents import Residents

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """`vectors` one for each input, (n_embd,) float32 each; `.tolist()` gives floats."""

    vectors: list[NDArray[np.float32]]
    input_tokens: list[int]  # of each input


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """`scores` in the order of the documents: higher is more relevant, else as the model has it."""

    scores: list[float]
    input_tokens: list[int]  # of each query with its document


async def embed(
    residents: Residents,
    target: Target,
    inputs: Sequence[str | list[int]],
    *,
    dimensions: int | None = None,
    truncate: bool = False,
    normalised: bool = True,
) -> Embedded:
    """One vector for each input, of unit length if `normalised`. Cancelling this cancels in the engine.

    `truncate` cuts an input that is too long, instead of refusing it. `dimensions` keeps the first so many of
    each vector, and makes it of unit length again: right for models trained for that (Matryoshka,
    arXiv:2205.13147).

    Raises:
        BadRequest: an input is too long or empty, the model cannot embed, or it has fewer dimensions.
    """
    if dimensions is not None and dimensions < 1:
        raise BadRequest("`dimensions` must be at least 1.", param="dimensions")
    uses = tuple(AdapterUse(version.key, weight) for version, weight in target.adapters)
    message = Embed(id=0, inputs=list(inputs), adapters=uses, truncate=truncate)
    reply = await _evaluated(residents, target, message)
    if reply.vectors is None or reply.input_tokens is None:
        raise EngineFailed("The engine sent an answer of the wrong kind.")
    vectors = [_vector(vector, dimensions, normalised=normalised) for vector in reply.vectors]
    return Embedded(vectors=vectors, input_tokens=reply.input_tokens)


async def rank(
    residents: Residents, target: Target, query: str, documents: Sequence[str], field: str = "documents"
) -> Ranked:
    """How relevant each document is to the query. Cancelling this cancels in the engine.

    `field` is what the request calls the documents, for errors.
    Raises:
        BadRequest: the model is no reranker, or a document is too long.
    """
    if target.adapters:
        raise BadRequest("A reranking model takes no adapters.", param="model")
    message = Rank(id=0, query=query, documents=list(documents))
    try:
        reply = await _evaluated(residents, target, message)
    except BadRequest as error:
        error.param = None if error.param is None else error.param.replace("documents", field)
        raise
    if reply.scores is None or reply.input_tokens is None:
        raise EngineFailed("The engine sent an answer of the wrong kind.")
    return Ranked(scores=reply.scores, input_tokens=reply.input_tokens)


async def _evaluated(residents: Residents, target: Target, message: Embed | Rank) -> Reply:
    async with residents.lease(target.base) as engine:
        with engine.holding([version.key for version, _ in target.adapters]):
            for version, _ in target.adapters:
                await residents.load_adapter(engine, version)
            return await engine.evaluate(message)


def _vector(encoded: bytes, dimensions: int | None, *, normalised: bool) -> NDArray[np.float32]:
    import numpy as np  # the API starts without it

    vector = np.frombuffer(encoded, "<f4")
    if dimensions is not None:
        if dimensions > len(vector):
            raise BadRequest(
                f"`dimensions`: this model has {len(vector)} dimensions, not {dimensions}.",
                param="dimensions",
            )
        vector = vector[:dimensions]
    if not normalised:
        return vector
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return (vector / length if length else vector).astype(np.float32)
