"""A model on held-out rows, through the engine that serves: what the rows cost it, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from msgspec import Struct

from llamaleon_server.engine.protocol import GenerateRequest, Sampling
from llamaleon_server.evaluation.rows import EvaluationRow, Scored
from llamaleon_server.registry.records import Target
from llamaleon_server.residents.residents import Residents

LOSS_ROWS = 200
GENERATED_ROWS = 50
AT_ONCE = 8  # requests in flight: they batch, and leave room for other users
SPARE_TOKENS = 32  # beyond the reference's length, before an answer counts as not ending

Result = TypeVar("Result")
Work = TypeVar("Work")
OnRow = Callable[[], None]


class Cost(Struct, frozen=True, array_like=True):
    """`nats`: the weighted sum of the answer tokens' negative log-likelihoods; `weight`: of their weights."""

    nats: float
    weight: float

    @property
    def loss(self) -> float | None:
        """Nats per token."""
        return self.nats / self.weight if self.weight else None


class Measured(Struct, frozen=True):
    """One model on rows: by the row's place among those given. A row that was left out has no entry."""

    costs: dict[int, Cost]
    answers: dict[int, str]
    rejected: dict[int, Cost] = {}  # of the answers liked less
    shots: int = 0  # examples before every question


class Limits(Struct, frozen=True):
    """Rows at most: whose loss is taken, and that are generated for. The first ones are."""

    loss_rows: int = LOSS_ROWS
    generated_rows: int = GENERATED_ROWS


LIMITS = Limits()


def steps(rows: Sequence[EvaluationRow], limits: Limits, few_shot: bool = False) -> int:
    """How often `measure` will call `on_row`."""
    scored, asked = _scored(rows, limits, few_shot), _asked(rows, limits, few_shot)
    return len(scored) + len(asked) + len(_disliked(rows, limits, few_shot))


async def measure(
    residents: Residents,
    target: Target,
    rows: Sequence[EvaluationRow],
    *,
    limits: Limits = LIMITS,
    few_shot: bool = False,
    on_row: OnRow = lambda: None,
) -> Measured:
    """Of the bare rows; or with `few_shot` answers only, behind the examples of the rows that have some.

    Losses are of every weighted token, answers are greedy. `on_row` is called as each is done.
    """

    async def cost(scored: Scored) -> Cost:
        found = await _cost(residents, target, scored)
        on_row()
        return found

    async def answer(asked: tuple[Scored, tuple[str, ...]]) -> str:
        found = await _answer(residents, target, *asked)
        on_row()
        return found

    costs = await _at_once(_scored(rows, limits, few_shot), cost)
    rejected = await _at_once(_disliked(rows, limits, few_shot), cost)
    answers = await _at_once(_asked(rows, limits, few_shot), answer)
    shots = max((row.shots for row in rows), default=0) if few_shot else 0
    return Measured(costs, answers, rejected, shots)


def _scored(rows: Sequence[EvaluationRow], limits: Limits, few_shot: bool) -> dict[int, Scored]:
    if few_shot:
        return {}  # nothing of a scored prompt comes from the prefix cache: the examples would cost most
    return {at: row.plain for at, row in enumerate(rows[: limits.loss_rows])}


def _disliked(rows: Sequence[EvaluationRow], limits: Limits, few_shot: bool) -> dict[int, Scored]:
    if few_shot:
        return {}
    return {at: row.rejected for at, row in enumerate(rows[: limits.loss_rows]) if row.rejected}


def _asked(
    rows: Sequence[EvaluationRow], limits: Limits, few_shot: bool
) -> dict[int, tuple[Scored, tuple[str, ...]]]:
    asked = [(at, row) for at, row in enumerate(rows) if row.reference is not None][: limits.generated_rows]
    if few_shot:
        return {at: (row.few_shot, tuple(row.few_shot_stop)) for at, row in asked if row.few_shot}
    return {at: (row.plain, ()) for at, row in asked}


async def _cost(residents: Residents, target: Target, scored: Scored) -> Cost:
    request = GenerateRequest(
        prompt=scored.tokens, max_tokens=0, prompt_logprobs=0, sampling=Sampling(temperature=0)
    )
    total, weight = 0.0, 0.0
    async with aclosing(residents.generate(target, request)) as deltas:
        async for delta in deltas:
            for token, counts in zip(delta.prompt or (), scored.weights, strict=False):
                if counts and token.logprob is not None:
                    total -= counts * token.logprob
                    weight += counts
    return Cost(total, weight)


async def _answer(residents: Residents, target: Target, scored: Scored, stop: tuple[str, ...]) -> str:
    """Greedy, from the prompt that training saw."""
    length = scored.answer_tokens
    request = GenerateRequest(
        prompt=scored.prompt,
        max_tokens=length + max(SPARE_TOKENS, length // 2),
        sampling=Sampling(temperature=0),
        stop=stop,
    )
    async with aclosing(residents.generate(target, request)) as deltas:
        return "".join([delta.text async for delta in deltas])


async def _at_once(work: dict[int, Work], do: Callable[[Work], Awaitable[Result]]) -> dict[int, Result]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Work) -> Result:
        async with gate:
            return await do(item)

    tasks = {at: asyncio.create_task(one(item)) for at, item in work.items()}
    try:
        await asyncio.gather(*tasks.values())
    finally:  # one that failed, or whose asker is gone, ends the others: nothing runs on unheard
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    return {at: task.result() for at, task in tasks.items()}
