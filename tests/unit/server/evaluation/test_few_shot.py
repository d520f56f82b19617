"""Examples before a question: which rows, how they are put there, and how many fit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.api import CHATML
from tests.unit.server.registry.small import write_base

from llamaleon_server.evaluation.few_shot import asked, choose, with_shots
from llamaleon_server.jobs.encode import Encoder
from llamaleon_server.jobs.held_out import Examples, evaluation_rows
from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.engine import Engine
from llamaleon_server.testing import FakeEngines
from llamaleon_trainer.rows import DataRow


@pytest.fixture
async def encoder(tmp_path: Path) -> AsyncIterator[Encoder]:
    channel = await FakeEngines(context_tokens=1000).open("tiny")
    engine = await Engine.start("tiny", channel, 5.0, lambda fraction: None)
    registry = Registry.open(tmp_path / "home")
    base = registry.add_base(write_base(tmp_path / "tiny.gguf", template=CHATML))
    registry.close()
    yield Encoder(engine, base)
    await engine.close()


def chat(question: str, answer: str, system: str | None = None, line: int = 1) -> DataRow:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return DataRow(line=line, messages=messages)


def raw(prompt: str, completion: str) -> DataRow:
    return DataRow(line=1, prompt=prompt, completion=completion)


def text_of(tokens: list[int]) -> str:
    return "".join(chr(token) for token in tokens if token > 31 or token == 10)


def test_different_answers_come_first() -> None:
    train = [raw(f"{at}", "spam") for at in range(50)] + [raw("a", "urgente"), raw("b", "ventas")]
    for seed in range(5):
        answers = [row.completion for row in choose(train, 3, seed)]
        assert sorted(map(str, answers)) == ["spam", "urgente", "ventas"]
    assert choose(train, 4, 1) == choose(train, 4, 1)
    assert choose(train, 4, 1) != choose(train, 4, 2)


def test_rows_that_are_no_single_exchange_are_no_examples() -> None:
    talk = chat("a", "b")
    assert talk.messages is not None
    longer = DataRow(line=1, messages=[*talk.messages, *talk.messages])
    assert choose([longer, DataRow(line=2, text="libro")], 4, 0) == []


def test_examples_are_earlier_turns_and_the_system_message_stays_first() -> None:
    made = with_shots(chat("¿y?", "c", system="Sé breve."), [chat("a", "b", system="Otro."), chat("d", "e")])
    assert made is not None
    assert made.messages is not None
    assert [(m["role"], m["content"]) for m in made.messages] == [
        ("system", "Sé breve."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "d"),
        ("assistant", "e"),
        ("user", "¿y?"),
        ("assistant", "c"),
    ]
    assert [m.get("weight") for m in made.messages if m["role"] == "assistant"] == [0, 0, None]
    assert with_shots(DataRow(line=1, text="libro"), [raw("a", "b")]) is None
    assert with_shots(chat("a", "b"), [raw("a", "b")]) is None, "of two shapes"


async def test_only_the_rows_own_answer_counts_behind_examples(encoder: Encoder) -> None:
    rows = [chat("¿y?", "cinco")]
    encoded = await encoder.encode(rows)
    (made,) = await evaluation_rows(
        encoder, rows, encoded, Examples([chat("a", "uno"), chat("b", "dos")], 1000, 0)
    )
    assert made.few_shot is not None
    assert (made.shots, made.prompt, made.reference) == (2, "¿y?", "cinco")
    prompt = text_of(made.few_shot.prompt)
    assert prompt.count("<|im_start|>assistant") == 3
    assert prompt.endswith(text_of(made.plain.prompt)), "then as without examples"
    weighted = [t for t, w in zip(made.few_shot.tokens, made.few_shot.weights, strict=True) if w]
    assert weighted == [t for t, w in zip(made.tokens, made.weights, strict=True) if w]


async def test_an_answer_liked_less_is_scored_bare_and_never_shown(encoder: Encoder) -> None:
    liked, other = chat("¿y?", "sí"), chat("¿y?", "nunca")
    pair = msgspec.structs.replace(liked, rejected=other)
    examples = Examples([msgspec.structs.replace(chat("a", "uno"), rejected=chat("a", "peor"))], 1000, 0)
    (made,) = await evaluation_rows(encoder, [pair], await encoder.encode([pair]), examples)
    assert made.rejected is not None
    assert made.rejected.prompt == made.plain.prompt
    assert "nunca" in text_of(made.rejected.tokens)
    assert made.few_shot is not None
    behind = text_of(made.few_shot.tokens)
    assert "uno" in behind
    assert "peor" not in behind
    assert "nunca" not in behind


async def test_as_many_examples_as_fit(encoder: Encoder) -> None:
    rows = [raw("pregunta", "respuesta")]
    encoded = await encoder.encode(rows)
    train = [raw("x" * 100, f"{at}") for at in range(4)]
    found = [
        (await evaluation_rows(encoder, rows, encoded, Examples(train, room, 0)))[0]
        for room in (1000, 300, 120)
    ]
    assert [row.shots for row in found] == [4, 2, 0]
    assert found[2].few_shot is None
    assert found[0].few_shot_stop == ["\n\n"]


async def test_what_separates_examples_ends_no_answer_that_has_such_lines(encoder: Encoder) -> None:
    rows = [raw("p", "r")]
    examples = Examples([raw("a", "uno\n\ndos")], 1000, 0)
    (made,) = await evaluation_rows(encoder, rows, await encoder.encode(rows), examples)
    assert (made.shots, made.few_shot_stop) == (1, [])


def test_what_was_asked_is_told_without_the_system_message() -> None:
    assert asked(chat("¿qué?", "nada", system="Sé breve.")) == "¿qué?"
    assert asked(raw("hola", "x")) == "hola"
    turns = DataRow(
        line=1,
        messages=[
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d"},
        ],
    )
    assert asked(turns) == "user: a\n\nassistant: b\n\nuser: c"
