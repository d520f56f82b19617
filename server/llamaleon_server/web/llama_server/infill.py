"""`POST /infill`: the middle of a text, by models that were trained for it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.errors import BadRequest
from llamaleon_server.residents.engine import Engine
from llamaleon_server.web.described import Described
from llamaleon_server.web.llama_server.completion import answered
from llamaleon_server.web.llama_server.naming import model_or_only
from llamaleon_server.web.llama_server.tokens import tokens_of
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.llama_server import InfillBody, NativeAnswer, Part

# Prefix, suffix, middle, and what stands before another file, as families write them.
# Source: llama.cpp, llama-vocab.cpp, "auto-detect FIM ... token".
MARKS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"),  # StarCoder 2
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<reponame>"),  # Granite
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ""),  # DeepSeek
    ("<PRE>", "<SUF>", "<MID>", ""),
    ("▁<PRE>", "▁<SUF>", "▁<MID>", ""),  # CodeLlama
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", ""),  # GLM
)
BETWEEN = "\n\n--- snippet ---\n\n"


async def create(request: Request) -> Response:
    """What stands between `input_prefix` and `input_suffix`."""
    asked = decode(await request.body(), InfillBody)
    asked.check()
    services = services_of(request)
    target = services.registry.resolve(model_or_only(request, asked.model), asked.lora)
    async with services.residents.lease(target.base) as engine:
        prompt = await prompt_of(engine, asked)
    return await answered(request, asked, target, [(prompt, ())])


async def prompt_of(engine: Engine, asked: InfillBody) -> list[int]:
    """Other files, then prefix, suffix and the beginning of the middle. Raises: BadRequest."""
    prefix, suffix, middle, separator = await _marks(engine)
    parts: list[Part] = [] if engine.ready.bos_token_id is None else [engine.ready.bos_token_id]
    parts = parts if engine.ready.adds_bos else []
    for extra in asked.input_extra or ():
        name = f"{extra.filename or 'tmp'}\n"
        parts += [BETWEEN, extra.text] if separator is None else [separator, name, extra.text]
    parts += [prefix, asked.input_prefix, asked.prompt or "", suffix, asked.input_suffix, middle]
    return await tokens_of(
        engine, [part for part in parts if part != ""], "prompt", add_special=False, parse_special=False
    )


async def _marks(engine: Engine) -> tuple[int, int, int, int | None]:
    """Raises: BadRequest: this vocabulary has none of them."""
    for names in MARKS:
        found = await engine.tokenize([name for name in names if name], parse_special=True)
        if all(len(tokens) == 1 for tokens in found[:3]):
            separator = found[3][0] if len(found) > 3 and len(found[3]) == 1 else None
            return found[0][0], found[1][0], found[2][0], separator
    raise BadRequest(f"`{engine.name}` cannot fill in the middle: its vocabulary has no marks for it.")


routes = [
    Described("/infill", create, methods=["POST"], body=InfillBody, answer=NativeAnswer, events=NativeAnswer)
]
