"""`/v1/rerank`, as Jina, Cohere and llama-server have it: what is asked, and the answer."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.embeddings import EmbeddingUsage

MAX_DOCUMENTS = 2048


class Document(Struct, frozen=True):
    text: str


class RerankRequest(Struct, frozen=True, kw_only=True):
    """`top_n` None: all. `return_documents` puts each text beside its score. Without a `model`, the only one.

    With `texts` in the place of `documents` the answer is that of text-embeddings-inference, as llama-server
    has it too: a bare list, with `return_text`.
    """

    model: str | None = None
    query: str
    documents: list[str | Document] | None = None
    texts: list[str] | None = None
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None
    return_text: bool | None = None

    @property
    def field(self) -> str:
        return "documents" if self.texts is None else "texts"

    def given(self) -> list[str]:
        """The texts of the documents."""
        if self.texts is not None:
            return self.texts
        return [one if isinstance(one, str) else one.text for one in self.documents or []]

    def order(self, scores: list[float]) -> list[int]:
        """Places of the documents in the answer: the most relevant first; of equals the one named first."""
        return sorted(range(len(scores)), key=lambda index: -scores[index])[: self.top_n]


def parse_rerank(body: bytes) -> RerankRequest:
    """Raises: BadRequest naming the field."""
    request = decode(body, RerankRequest)
    if not request.query:
        raise BadRequest("`query` must not be empty.", param="query")
    field, count = request.field, len(request.given())
    if not count:
        raise BadRequest(f"`{field}` must not be empty.", param=field)
    if count > MAX_DOCUMENTS:
        raise BadRequest(f"`{field}`: at most {MAX_DOCUMENTS} at once, not {count}.", param=field)
    return request


class RankedDocument(Struct, frozen=True, kw_only=True):
    """`index` is the document's place in the request."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class Reranking(Struct, frozen=True, kw_only=True):
    object: str = "list"
    model: str
    results: list[RankedDocument]
    usage: EmbeddingUsage


class RankedText(Struct, frozen=True, kw_only=True):
    """text-embeddings-inference's."""

    index: int
    score: float
    text: str | UnsetType = UNSET


def ranked_texts(request: RerankRequest, scores: list[float]) -> list[RankedText]:
    texts = request.given()
    return [
        RankedText(index=index, score=scores[index], text=texts[index] if request.return_text else UNSET)
        for index in request.order(scores)
    ]


def reranking(request: RerankRequest, model: str, scores: list[float], tokens: int) -> Reranking:
    texts = request.given()
    return Reranking(
        model=model,
        results=[
            RankedDocument(
                index=index,
                relevance_score=scores[index],
                document=Document(texts[index]) if request.return_documents else UNSET,
            )
            for index in request.order(scores)
        ],
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
