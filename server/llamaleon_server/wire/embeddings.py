"""`/v1/embeddings`: what is asked, and the answer."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.sampling import MAX_TOKEN_ID

MAX_INPUTS = 2048  # OpenAI's

Input = str | list[int]


Given = str | list[str | int | list[int]]


class EmbeddingRequest(Struct, frozen=True, kw_only=True):
    """`user` and whatever else clients send is accepted and without effect."""

    model: str
    input: Given
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    lora: list[dict[str, Any]] | None = None

    def inputs(self) -> list[Input]:
        """Raises: BadRequest for what is empty, mixed kinds, or what is no token id."""
        return _inputs(self.input, "input")


class NativeRequest(Struct, frozen=True, kw_only=True):
    """llama-server's own. `content` or `input`; without a `model`, the only one."""

    model: str | None = None
    content: Given | None = None
    input: Given | None = None
    lora: list[dict[str, Any]] | None = None

    def inputs(self) -> list[Input]:
        """Raises: BadRequest."""
        if self.content is not None:
            return _inputs(self.content, "content")
        if self.input is not None:
            return _inputs(self.input, "input")
        raise BadRequest("`content` is required.", param="content")


class NativeEmbedding(Struct, frozen=True, kw_only=True):
    """`embedding` is a list of one vector: llama-server's would be as many as tokens without pooling."""

    index: int
    embedding: list[list[float]]


def _inputs(given: Given, field: str) -> list[Input]:
    if isinstance(given, str):
        return [_checked(given, field)]
    if not given:
        raise BadRequest(f"`{field}` must not be empty.", param=field)
    if len({type(item) for item in given}) > 1:
        message = f"`{field}`: give texts, or token ids, or lists of token ids, not a mixture."
        raise BadRequest(message, param=field)
    if isinstance(given[0], int):
        return [_checked([item for item in given if isinstance(item, int)], field)]
    if len(given) > MAX_INPUTS:
        raise BadRequest(f"`{field}`: at most {MAX_INPUTS} inputs at once, not {len(given)}.", param=field)
    return [_checked(item, f"{field}[{at}]") for at, item in enumerate(given) if not isinstance(item, int)]


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Raises: BadRequest naming the field."""
    request = decode(body, EmbeddingRequest)
    request.inputs()
    return request


def _checked(one: Input, place: str) -> Input:
    if not one:
        raise BadRequest(f"`{place}` must not be empty.", param=place)
    if not isinstance(one, str):
        for token in one:
            if not 0 <= token <= MAX_TOKEN_ID:
                raise BadRequest(f"`{place}`: {token} is not a token id.", param=place)
    return one


class EmbeddingUsage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int


class Embedding(Struct, frozen=True, kw_only=True):
    """`embedding` is a list of floats, or base64 of them as float32, little-endian."""

    object: str = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(Struct, frozen=True, kw_only=True):
    object: str = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def rendered(vector: Any, index: int, encoding: str | None) -> Embedding:
    """One vector, a numpy array (n,) of float32.

    As JSON already, which msgspec takes for what it says: a long answer can so be made piece by piece.
    """
    value = vector.tolist()
    if encoding == "base64":
        value = base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return cast(Embedding, msgspec.Raw(msgspec.json.encode(Embedding(index=index, embedding=value))))
