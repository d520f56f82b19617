"""Ask a model every held-out row and count the answers that are right."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llamaleon_clients.api import Client, Json
from llamaleon_clients.errors import BadInput
from llamaleon_clients.words import say

CONCURRENCY = 8
MAX_TOKENS = 400


@dataclass(frozen=True)
class Example:
    """A conversation without its last answer, and that answer."""

    messages: list[Json]
    expected: str

    @property
    def question(self) -> str:
        return str(self.messages[-1]["content"])


@dataclass(frozen=True)
class Score:
    """`exact` and `valid` count rows; `valid`: a JSON object with exactly the expected fields."""

    rows: int
    exact: int
    valid: int
    seconds: float


def read_examples(path: Path) -> list[Example]:
    """Rows of OpenAI's chat format whose last message is the answer.

    Raises:
        BadInput: the file cannot be read, or a line is no such row.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(say("{file} cannot be read: {reason}", file=path, reason=error.strerror)) from error
    examples = []
    # Line feeds only: a text may hold other characters that Python takes for the end of a line.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            *messages, answer = json.loads(line)["messages"]
            examples.append(Example(messages, answer["content"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                say(
                    "{path}, line {number}: not a chat row with an answer ({error}).",
                    path=path,
                    number=number,
                    error=error,
                )
            ) from error
    return examples


def is_exact(answer: str, expected: str) -> bool:
    """The very text, blanks around it aside."""
    return answer.strip() == expected.strip()


def is_valid_json(answer: str, expected: str) -> bool:
    """A JSON object with the fields of the expected one, no more and no fewer."""
    try:
        value = json.loads(answer)
    except ValueError:
        return False
    return isinstance(value, dict) and value.keys() == json.loads(expected).keys()


def score(
    client: Client,
    model: str,
    examples: Sequence[Example],
    *,
    on_answer: Callable[[int], object] = lambda done: None,
) -> Score:
    """Greedy answers to all examples, `CONCURRENCY` at a time; `on_answer` hears how many are done."""
    started = time.monotonic()
    exact = valid = 0
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = pool.map(
            lambda example: client.chat(model, example.messages, temperature=0, max_tokens=MAX_TOKENS),
            examples,
        )
        for done, (example, answer) in enumerate(zip(examples, answers, strict=True), start=1):
            exact += is_exact(answer, example.expected)
            valid += is_valid_json(answer, example.expected)
            on_answer(done)
    return Score(len(examples), exact, valid, time.monotonic() - started)
