"""The held-out rows of a job as they are evaluated, and the file that keeps them until then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from llamaleon_trainer.job import write_atomic

EVALUATION_FILE = "evaluation_rows.json"
ANSWERS_FILE = "evaluation_answers.json"
BASE, FEW_SHOT, ADAPTER = "base", "few_shot", "adapter"  # the parts of a job's evaluation


class Scored(Struct, frozen=True):
    """A sequence as in `job.Row`; its last answer begins after `prompt_tokens` of the tokens."""

    tokens: list[int]
    weights: list[float]
    prompt_tokens: int

    @property
    def prompt(self) -> list[int]:
        return self.tokens[: self.prompt_tokens]

    @property
    def answer_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens


class EvaluationRow(Struct, frozen=True):
    """A held-out row. `tokens`, `weights` and `prompt_tokens` are those of `Scored`.

    `line` is that of its file. What the file of an older version's job does not have gets its default.
    """

    line: int
    tokens: list[int]
    weights: list[float]
    prompt_tokens: int
    reference: str | None  # the last answer's text; None: there is nothing to generate (plain text)
    prompt: str = ""  # what was asked, for people to read
    few_shot: Scored | None = None  # the same row behind examples, as earlier turns; None: no room for any
    shots: int = 0  # examples in it
    few_shot_stop: list[str] = []  # texts that end an answer behind examples: what separates those
    rejected: Scored | None = None  # of a preference row: the same prompt with the answer liked less

    @property
    def plain(self) -> Scored:
        return Scored(self.tokens, self.weights, self.prompt_tokens)


class Answered(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row with what every model made of it, by the model's part in the evaluation.

    `losses` are nats per token of the reference, `scores` of the answers (0 to 1, see `metrics.row_score`).
    """

    line: int
    prompt: str
    reference: str | None = None
    losses: dict[str, float] = {}
    answers: dict[str, str] = {}
    scores: dict[str, float] = {}


def write_evaluation_rows(directory: Path, rows: Sequence[EvaluationRow]) -> None:
    """Whole or not at all. Blocks."""
    write_atomic(directory / EVALUATION_FILE, msgspec.json.encode(rows))


def read_evaluation_rows(directory: Path) -> list[EvaluationRow]:
    """Blocks."""
    return msgspec.json.decode((directory / EVALUATION_FILE).read_bytes(), type=list[EvaluationRow])


def write_answers(directory: Path, rows: Sequence[Answered]) -> None:
    """Blocks."""
    write_atomic(directory / ANSWERS_FILE, msgspec.json.encode(rows))


def read_answers(directory: Path) -> list[Answered]:
    """Nothing where the job has not come so far, or was evaluated by an older version. Blocks."""
    try:
        return msgspec.json.decode((directory / ANSWERS_FILE).read_bytes(), type=list[Answered])
    except FileNotFoundError:
        return []
