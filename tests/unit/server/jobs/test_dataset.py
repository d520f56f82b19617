"""What becomes of a job's rows: pieces of long texts, pairs, templates; and what is said of likes."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.server.jobs.conftest import Service, rows, serving

from llamaleon_server.evaluation.rows import read_evaluation_rows
from llamaleon_server.jobs.dataset import across, look_for_likes, warnings
from llamaleon_server.jobs.encode import Encoded, pieces_of_text
from llamaleon_server.registry.jobstore import VALIDATING, JobRecord
from llamaleon_server.testing import BOS, EOS
from llamaleon_trainer.job import PreferenceRow, Row
from llamaleon_trainer.rows import DataRow

CHANCE = random.Random(1)
WORDS = ["".join(CHANCE.choices("abcdefghijlmnñopqrstuvz", k=7)) for _ in range(500)]


def text_of(tokens: list[int]) -> str:
    return "".join({BOS: "<s>", EOS: "</s>"}.get(token, chr(token)) for token in tokens)


def written(service: Service, job: JobRecord, name: str, kind: type[Any]) -> list[Any]:
    lines = (service.jobs.store.directory(job.id) / name).read_bytes().splitlines()
    return [msgspec.json.decode(line, type=kind) for line in lines]


async def validated(service: Service, data: list[dict[str, Any]], **request: Any) -> JobRecord:
    job = service.create(data, **request)
    return await service.until(job, lambda record: record.status != VALIDATING)


@asynccontextmanager
async def validating(home: Path) -> AsyncIterator[Service]:
    """Jobs are validated here, and none of them runs."""
    async with serving(home) as service:
        service.jobs._running_limit = 0
        yield service


def preferences(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"¿{n}?", "chosen": f" sí, {n}", "rejected": f" no, {n} ni más"} for n in range(count)]


async def test_a_dpo_job_gets_pairs(home: Path) -> None:
    async with validating(home) as service:
        job = await validated(service, preferences(20), method="dpo")
        assert job.error is None
        found = written(service, job, "train.jsonl", PreferenceRow)
        assert len(found) == 18
        for pair in found:
            better, worse = text_of(pair.chosen.tokens), text_of(pair.rejected.tokens)
            prompt, _, answer = better.partition("?")
            assert answer.startswith(" sí, ")
            assert worse.startswith(f"{prompt}? no, ")
            shared = len(f"{prompt}?") - len("<s>") + 1
            assert pair.chosen.weights[:shared] == [0.0] * shared == pair.rejected.weights[:shared]
            assert all(pair.chosen.weights[shared:] + pair.rejected.weights[shared:])
        held = read_evaluation_rows(service.jobs.store.directory(job.id))
        assert [text_of(row.rejected.tokens).split("?")[1][:3] for row in held if row.rejected] == [" no"] * 2


@pytest.mark.parametrize(
    ("data", "method", "reason"),
    [
        (
            preferences(20),
            "supervised",
            'The method is "supervised", but line 1 is a preference row: use the',
        ),
        (
            rows(20),
            "dpo",
            'The method is "dpo", but line 1 is no preference row: use the method "supervised"',
        ),
    ],
)
async def test_rows_of_another_method_are_refused(
    home: Path, data: list[dict[str, Any]], method: str, reason: str
) -> None:
    async with validating(home) as service:
        job = await validated(service, data, method=method)
        assert job.error is not None
        assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
        assert job.error.message.startswith(reason)


async def test_long_texts_are_learnt_in_pieces(home: Path) -> None:
    long = "".join(CHANCE.choices("abcdefg", k=100))
    data = [{"text": f"{n} {long}"} for n in range(5)]
    async with validating(home) as service:
        job = await validated(service, data, hyperparameters={"max_sequence_tokens": 40})
        assert job.error is None
        pieces = written(service, job, "train.jsonl", Row) + written(service, job, "valid.jsonl", Row)
        assert max(len(piece.tokens) for piece in pieces) == 40
        learnt = sum(weight > 0 for piece in pieces for weight in piece.weights)
        assert learnt == 5 * (len(f"<s>0 {long}") - len("<s>") + 2)  # each token once, with both marks
        held = read_evaluation_rows(service.jobs.store.directory(job.id))
        assert "".join(text_of(row.tokens[row.prompt_tokens :]) for row in held).endswith(f"{long}</s>")


async def test_long_conversations_are_refused_by_line(home: Path) -> None:
    data: list[dict[str, Any]] = [*rows(20), {"prompt": "a" * 50, "completion": "b"}]
    async with validating(home) as service:
        job = await validated(service, data, hyperparameters={"max_sequence_tokens": 40})
        assert job.error is not None
        assert "1 of" in job.error.message
        assert "line 21: 53 tokens" in job.error.message


def test_the_longer_answer_of_a_pair_counts() -> None:
    worse = Encoded(1, Row([1, 2, 3, 4], [0, 1, 1, 1]), 1, None)
    assert Encoded(1, Row([1, 2], [0, 1]), 1, None, worse).longest == 4


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 11, 12])
@pytest.mark.parametrize("longest", [2, 3, 4])
def test_pieces_lose_nothing(length: int, longest: int) -> None:
    whole = Encoded(7, Row(list(range(length)), [1.0] * length), 0, None)
    pieces = pieces_of_text(whole, longest)
    assert {piece.line for piece in pieces} == {7}
    assert all(len(piece.row.tokens) <= longest for piece in pieces)
    learnt = [
        token
        for piece in pieces
        for token, weight in zip(piece.row.tokens, piece.row.weights, strict=True)
        if weight
    ]
    assert learnt == list(range(length))
    for before, after in pairwise(pieces):
        assert after.row.tokens[0] == before.row.tokens[-1]
        assert len(after.row.tokens) > 1


async def test_a_template_makes_texts(home: Path) -> None:
    data = [{"pregunta": f"¿{n}?", "respuesta": n} for n in range(20)]
    async with validating(home) as service:
        job = await validated(service, data, text_template="P: {pregunta}\nR: {respuesta}")
        assert job.error is None
        first = written(service, job, "train.jsonl", Row)[0]
        assert text_of(first.tokens).startswith("<s>P: ¿")
        assert all(first.weights)


async def test_a_template_without_its_column_is_refused(home: Path) -> None:
    async with validating(home) as service:
        job = await validated(service, rows(20), text_template="{pregunta}")
        assert job.error is not None
        assert "line 1: `pregunta` of the text template is missing" in job.error.message


def long_row(line: int, answer: str = "sí") -> DataRow:
    said = " ".join(random.Random(line).choices(WORDS, k=60))
    return DataRow(line=line, prompt=said, completion=answer)


def test_likes_across_the_split_are_told() -> None:
    train = [long_row(line) for line in range(1, 151)]
    near = DataRow(line=1, prompt=f"{train[6].prompt} más", completion="sí")
    same = DataRow(line=2, prompt=train[8].prompt, completion="sí")
    held_out = [near, same, long_row(1000)]
    alike = look_for_likes(train, held_out)
    told = warnings(train, held_out, alike)
    assert told == [
        "1 held-out rows are also trained on (lines 2): the evaluation flatters.",
        "1 held-out rows are near-duplicates of rows that are trained on (lines 1; at least 70% alike): the "
        "evaluation flatters.",
    ]
    [(row, like, similarity)] = across(train, held_out, alike)
    assert (row, like, 0.7 < similarity < 1) == (near, train[6], True)


async def test_near_duplicates_never_lie_on_both_sides_of_our_own_split(home: Path) -> None:
    data = [
        {"prompt": f"{n}{end}", "completion": " ".join(random.Random(n).choices(WORDS, k=20))}
        for n in range(60)
        for end in (".", "!")
    ]
    async with validating(home) as service:
        job = await validated(service, data)
        assert job.error is None
        train, held = (
            {
                text_of(row.tokens).removeprefix("<s>").replace("!", ".").partition(".")[0]
                for row in written(service, job, name, Row)
            }
            for name in ("train.jsonl", "valid.jsonl")
        )
        assert len(train | held) == 60
        assert train.isdisjoint(held)
        assert not [message for message in service.messages(job) if "near-duplicate" in message]


async def test_a_near_duplicate_is_a_warning_of_the_job(home: Path) -> None:
    train = [
        {"prompt": " ".join(random.Random(n).choices(WORDS, k=20)), "completion": "sí"} for n in range(9)
    ]
    held_out = [{"prompt": f"{train[3]['prompt']}!", "completion": "sí"}]
    async with validating(home) as service:
        validation = service.upload(held_out)
        job = await validated(service, train, validation_file=validation)
        assert job.error is None
        events = service.jobs.store.all_events(job.id)
        [told] = [event for event in events if "near-duplicates" in event.message]
        assert (told.level, "(lines 1;" in told.message) == ("warn", True)
