"""Rows as tokens: exactly what serving would see, answers weighted, nothing cut."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.api import CHATML
from tests.unit.server.registry.small import write_base

from llamaleon_server.jobs.encode import Encoder
from llamaleon_server.jobs.prepare import PROBE_BYTES, probe_sequences
from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.engine import Engine
from llamaleon_server.testing import BOS, EOS, FakeEngines
from llamaleon_trainer.rows import DataRow


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    channel = await FakeEngines(context_tokens=1000).open("tiny")
    started = await Engine.start("tiny", channel, 5.0, lambda fraction: None)
    yield started
    await started.close()


@pytest.fixture
def encoder(engine: Engine, tmp_path: Path) -> Encoder:
    registry = Registry.open(tmp_path / "home")
    base = registry.add_base(write_base(tmp_path / "tiny.gguf", template=CHATML))
    registry.close()
    return Encoder(engine, base)


def text_of(tokens: list[int]) -> str:
    return "".join({BOS: "<s>", EOS: "</s>"}.get(token, chr(token)) for token in tokens)


def learnt(tokens: list[int], weights: list[float]) -> str:
    return text_of([token for token, weight in zip(tokens, weights, strict=True) if weight])


def message(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


async def test_chat_rows_learn_their_answers_and_the_end_of_turn(encoder: Encoder) -> None:
    messages = [
        message("system", "Sé breve."),
        message("user", "¿Hola?"),
        message("assistant", "¡Buenas!"),
        message("user", "¿Y?"),
        message("assistant", "Bien."),
    ]
    [row] = await encoder.encode([DataRow(line=1, messages=messages)])
    text = text_of(row.row.tokens)
    assert text.startswith("<s><|im_start|>system\nSé breve.<|im_end|>\n<|im_start|>user\n")
    assert learnt(row.row.tokens, row.row.weights) == "¡Buenas!<|im_end|>Bien.<|im_end|>"
    assert row.reference == "Bien."
    assert text_of(row.row.tokens[: row.prompt_tokens]).endswith("¿Y?<|im_end|>\n<|im_start|>assistant\n")


async def test_an_answer_of_weight_zero_is_context(encoder: Encoder) -> None:
    messages = [
        message("user", "a"),
        message("assistant", "no", weight=0),
        message("user", "b"),
        message("assistant", "sí"),
    ]
    [row] = await encoder.encode([DataRow(line=1, messages=messages)])
    assert learnt(row.row.tokens, row.row.weights) == "sí<|im_end|>"


async def test_raw_rows_have_no_markup_and_end_with_the_end_token(encoder: Encoder) -> None:
    raw, empty, text = await encoder.encode(
        [
            DataRow(line=1, prompt="2+2=", completion="4"),
            DataRow(line=2, prompt="", completion="¡Ya!"),
            DataRow(line=3, text="<s>todo"),
        ]
    )
    assert text_of(raw.row.tokens) == "<s>2+2=4</s>"
    assert learnt(raw.row.tokens, raw.row.weights) == "4</s>"
    assert (raw.prompt_tokens, raw.reference) == (5, "4")
    assert text_of(empty.row.tokens) == "<s>¡Ya!</s>"
    assert text_of(text.row.tokens) == "<s>todo</s>", "a text that brings its BOS gets no second one"
    assert text.reference is None


async def test_many_rows_keep_their_order(encoder: Encoder) -> None:
    rows = [DataRow(line=n, prompt=f"{n}:", completion=str(n)) for n in range(600)]
    encoded = await encoder.encode(rows)
    assert [item.reference for item in encoded] == [str(n) for n in range(600)]
    assert all(text_of(item.row.tokens) == f"<s>{n}:{n}</s>" for n, item in enumerate(encoded))


async def test_a_row_that_the_template_refuses_is_named(engine: Engine, tmp_path: Path) -> None:
    registry = Registry.open(tmp_path / "home")
    picky = "{{ raise_exception('roles must alternate') }}"
    base = registry.add_base(write_base(tmp_path / "tiny.gguf", template=picky))
    registry.close()
    with pytest.raises(ValueError, match=r"line 7: .*roles must alternate"):
        await Encoder(engine, base).encode(
            [DataRow(line=7, messages=[message("user", "a"), message("assistant", "b")])]
        )


def test_the_probe_is_small_whatever_the_vocabulary() -> None:
    rows = [list(range(n)) for n in (5, 300, 40)]
    assert [len(row) for row in probe_sequences(rows, n_vocab=512)] == [256, 40, 5]
    for n_vocab in (32_000, 150_000, 1_100_000):
        probe = probe_sequences([list(range(2000))] * 50, n_vocab)
        assert 4 * n_vocab * sum(map(len, probe)) <= max(PROBE_BYTES, 4 * n_vocab * 2 * 8)
        assert msgspec.json.encode(probe)
