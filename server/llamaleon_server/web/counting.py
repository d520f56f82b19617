"""How many tokens a conversation has, without answering it."""

from __future__ import annotations

import asyncio

import msgspec

from llamaleon_server.answers.answering import requests_of
from llamaleon_server.chat.ask import Ask
from llamaleon_server.registry.records import Target
from llamaleon_server.residents.residents import Residents


async def prompt_tokens(residents: Residents, target: Target, ask: Ask) -> int:
    """Of the prompt as the model's template has it, tools included; of an image only its marker.

    Raises: as `answering`.
    """
    plain = msgspec.structs.replace(ask, form=None)  # the prompt is the same, and its grammar takes time
    request = (await asyncio.to_thread(requests_of, target, plain))[0]
    if not isinstance(request.prompt, str):
        return len(request.prompt)
    async with residents.lease(target.base) as engine:
        [tokens] = await engine.tokenize(
            [request.prompt],
            add_special=request.add_special,
            parse_special=request.parse_special,
            breaks=[request.breaks],
        )
    return len(tokens)
