"""Examples in the prompt: what the base can do without training, so that nobody trains what asking gives.

The examples are rows that are trained on, never rows that are evaluated; as earlier turns, so that the
model's own chat template writes them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from llamaleon_trainer.rows import DataRow

SHOTS = 4
MOST_SHOTS = 32
SEPARATOR = "\n\n"  # between examples of raw text


def choose(train: Sequence[DataRow], count: int, seed: int) -> list[DataRow]:
    """Up to `count` rows with one answer each, drawn with `seed`; different answers come first.

    So a classifier is shown as many of its labels as there is room for.
    """
    usable = [row for row in train if _exchange(row) is not None]
    random.Random(seed).shuffle(usable)
    seen: set[str] = set()
    first, later = list[DataRow](), list[DataRow]()
    for row in usable:
        answer = answer_of(row) or ""
        (later if answer in seen else first).append(row)
        seen.add(answer)
    return (first + later)[:count]


def with_shots(row: DataRow, shots: Sequence[DataRow]) -> DataRow | None:
    """`row` behind `shots`, whose answers are context only; None where they cannot be put before it.

    A system message stays the row's own; an answer liked less is left out.
    """
    exchanges = [_exchange(shot) for shot in shots]
    if row.messages is not None:
        said = [message for exchange in exchanges if isinstance(exchange, list) for message in exchange]
        if len(said) != 2 * len(shots):
            return None
        system = [message for message in row.messages[:1] if message["role"] in ("system", "developer")]
        rest = row.messages[len(system) :]
        return msgspec.structs.replace(row, messages=system + said + rest, rejected=None)
    texts = [exchange for exchange in exchanges if isinstance(exchange, str)]
    if row.prompt is None or len(texts) != len(shots):
        return None
    before = "".join(text + SEPARATOR for text in texts)
    return msgspec.structs.replace(row, prompt=before + row.prompt, rejected=None)


def answer_of(row: DataRow) -> str | None:
    """The text of the answer that closes a row, if there is one."""
    if row.messages is None:
        return row.completion
    last = row.messages[-1]
    return last["content"] if last["role"] == "assistant" and last["content"] else None


def asked(row: DataRow) -> str:
    """What was asked, for people: the turns before the answer, or the prompt."""
    if row.messages is None:
        return row.prompt or ""
    turns = row.messages[:-1] if row.messages[-1]["role"] == "assistant" else row.messages
    told = [message for message in turns if message["role"] not in ("system", "developer")]
    if len(told) == 1:
        return str(told[0]["content"])
    return SEPARATOR.join(f"{message['role']}: {message['content']}" for message in told)


def _exchange(row: DataRow) -> list[dict[str, Any]] | str | None:
    """A question and its answer as messages, or as raw text; None for rows that are not just that."""
    if row.messages is None:
        return None if row.prompt is None or row.completion is None else row.prompt + row.completion
    said = [message for message in row.messages if message["role"] not in ("system", "developer")]
    if [message["role"] for message in said] != ["user", "assistant"] or not said[1]["content"]:
        return None
    return [said[0], {**said[1], "weight": 0}]
