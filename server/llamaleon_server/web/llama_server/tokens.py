"""`/tokenize` and `/detokenize`, in llama-server's words and in vLLM's."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.answers.answering import template_of
from llamaleon_server.errors import BadRequest
from llamaleon_server.residents.engine import Engine
from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.llama_server.naming import model_or_only
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.llama_server import (
    DetokenizeBody,
    Detokenized,
    Part,
    Piece,
    TokenizeBody,
    TokenizerInfo,
    Tokens,
)


async def tokenize(request: Request) -> Response:
    """The tokens of a text."""
    asked = decode(await request.body(), TokenizeBody)
    given = asked.prompt if asked.content is None else asked.content
    if given is None:
        raise BadRequest("`content` (or `prompt`) is required.", param="content")
    special = asked.add_special_tokens if asked.content is None else asked.add_special
    services = services_of(request)
    target = services.registry.resolve(model_or_only(request, asked.model))
    async with services.residents.lease(target.base) as engine:
        parts: Sequence[Part] = [given] if isinstance(given, str) else given
        found = await tokens_of(
            engine, parts, "content", add_special=special, parse_special=asked.parse_special
        )
        pieces = await engine.detokenize(found) if asked.with_pieces else []
        most = engine.ready.context_tokens
    shown: list[int | Piece] = [*found]
    if asked.with_pieces:
        shown = [Piece(token, _readable(piece)) for token, piece in zip(found, pieces, strict=True)]
    return json_response(Tokens(tokens=shown, count=len(found), max_model_len=most))


async def tokens_of(
    engine: Engine, parts: Sequence[Part], place: str, *, add_special: bool, parse_special: bool = True
) -> list[int]:
    """Texts and token ids in one row; what begins it may get a BOS. Raises: BadRequest."""
    for part in parts:
        if isinstance(part, int) and not 0 <= part < engine.ready.n_vocab:
            raise BadRequest(f"`{place}`: {part} is not a token of this model.", param=place)
    texts = [part for part in parts if isinstance(part, str)]
    # All in one message: a row of a thousand words would be a thousand turns of the event loop.
    split = iter(await engine.tokenize(texts, parse_special=parse_special) if texts else [])
    found = [token for part in parts for token in ([part] if isinstance(part, int) else next(split))]
    if add_special and parts and isinstance(parts[0], str):
        begun, plain = [
            (await engine.tokenize([parts[0]], add_special=special, parse_special=parse_special))[0]
            for special in (True, False)
        ]
        found[: len(plain)] = begun
    return found


def _readable(piece: bytes) -> str | list[int]:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)


async def detokenize(request: Request) -> Response:
    """The text of tokens."""
    asked = decode(await request.body(), DetokenizeBody)
    services = services_of(request)
    target = services.registry.resolve(model_or_only(request, asked.model))
    async with services.residents.lease(target.base) as engine:
        await tokens_of(engine, asked.tokens, "tokens", add_special=False)
        text = b"".join(await engine.detokenize(asked.tokens)).decode("utf-8", "replace")
    return json_response(Detokenized(content=text, prompt=text))


async def info(request: Request) -> Response:
    """What evaluation harnesses ask before they send tokens."""
    target = services_of(request).registry.resolve(model_or_only(request, request.query_params.get("model")))
    base = target.base
    shown = TokenizerInfo(
        tokenizer_class="GGUF",
        bos_token=base.bos_token,
        eos_token=base.eos_token,
        chat_template=template_of(base, target.preset).source or None,
    )
    return json_response(shown)


routes = [
    Described("/tokenize", tokenize, methods=["POST"], body=TokenizeBody, answer=Tokens),
    Described("/detokenize", detokenize, methods=["POST"], body=DetokenizeBody, answer=Detokenized),
    Described("/tokenizer_info", info, methods=["GET"], answer=TokenizerInfo),
]
