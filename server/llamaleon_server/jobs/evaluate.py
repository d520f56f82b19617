"""Base and adapter on the held-out rows, through the engine that serves: loss, exact match, valid JSON."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from llamaleon_server.engine.protocol import GenerateRequest, Sampling
from llamaleon_server.jobs.prepare import EvaluationRow
from llamaleon_server.registry.records import Target
from llamaleon_server.residents.residents import Residents

LOSS_ROWS = 200
GENERATED_ROWS = 50
AT_ONCE = 8  # requests in flight: they batch, and leave room for other users
SPARE_TOKENS = 32  # beyond the reference's length, before an answer counts as not ending

Result = TypeVar("Result")


async def evaluate(residents: Residents, target: Target, rows: Sequence[EvaluationRow]) -> dict[str, Any]:
    """`loss` is nats per answer token; `exact_match` and `valid_json` are shares of the rows generated for.

    `valid_json` is there only if every reference is a JSON object or array.
    """
    scored = list(rows[:LOSS_ROWS])
    losses = await _at_once(scored, lambda row: _loss(residents, target, row))
    total, weight = math.fsum(loss for loss, _ in losses), math.fsum(weight for _, weight in losses)
    result: dict[str, Any] = {"loss": total / weight if weight else None, "rows": len(scored)}
    asked = [row for row in rows if row.reference is not None][:GENERATED_ROWS]
    if asked:
        answers = await _at_once(asked, lambda row: _answer(residents, target, row))
        references = [row.reference or "" for row in asked]
        pairs = list(zip(answers, references, strict=True))
        result["generated"] = len(asked)
        result["exact_match"] = sum(answer.strip() == wanted.strip() for answer, wanted in pairs) / len(pairs)
        if all(is_json(reference) for reference in references):
            result["valid_json"] = sum(is_json(answer) for answer in answers) / len(answers)
    return result


async def _loss(residents: Residents, target: Target, row: EvaluationRow) -> tuple[float, float]:
    """Weighted sum of negative log-likelihoods (nats) of the answer tokens, and the sum of the weights."""
    request = GenerateRequest(
        prompt=row.tokens, max_tokens=0, prompt_logprobs=0, sampling=Sampling(temperature=0)
    )
    total, weight = 0.0, 0.0
    async with aclosing(residents.generate(target, request)) as deltas:
        async for delta in deltas:
            for token, counts in zip(delta.prompt or (), row.weights, strict=False):
                if counts and token.logprob is not None:
                    total -= counts * token.logprob
                    weight += counts
    return total, weight


async def _answer(residents: Residents, target: Target, row: EvaluationRow) -> str:
    """Greedy, from the prompt that training saw."""
    length = len(row.tokens) - row.prompt_tokens
    request = GenerateRequest(
        prompt=row.tokens[: row.prompt_tokens],
        max_tokens=length + max(SPARE_TOKENS, length // 2),
        sampling=Sampling(temperature=0),
    )
    async with aclosing(residents.generate(target, request)) as deltas:
        return "".join([delta.text async for delta in deltas])


def is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


async def _at_once(
    rows: Sequence[EvaluationRow], ask: Callable[[EvaluationRow], Awaitable[Result]]
) -> list[Result]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(row: EvaluationRow) -> Result:
        async with gate:
            return await ask(row)

    return list(await asyncio.gather(*(one(row) for row in rows)))
