"""The context that computes embeddings: made when it is needed, made larger, given back when idle."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.data import NANO
from tests.unit.server.binding.conftest import options_for

from llamaleon_server.binding import library
from llamaleon_server.binding.embedding import EmbeddingContext
from llamaleon_server.binding.loading import open_model
from llamaleon_server.engine import embedding, embedding_pass, protocol
from llamaleon_server.engine.engine import Engine
from llamaleon_server.engine.options import EngineOptions


class Counted(EmbeddingContext):
    made = 0
    alive = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Counted.made += 1
        Counted.alive += 1

    def close(self) -> None:
        super().close()
        Counted.alive -= 1


@pytest.fixture
def embed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], int]]:
    """Embeds one text of so many tokens; returns the number of contexts made so far."""
    library.start()
    monkeypatch.setattr(embedding_pass, "EmbeddingContext", Counted)
    monkeypatch.setattr(embedding_pass, "LEAST_CELLS", 64)
    monkeypatch.setattr(embedding_pass, "PIECE_TOKENS", 64)
    monkeypatch.setattr(embedding, "IDLE_S", 0.05)
    Counted.made = Counted.alive = 0
    loaded = open_model(options_for(NANO))
    sent: list[protocol.FromEngine] = []
    woken: queue.SimpleQueue[None] = queue.SimpleQueue()
    engine = Engine(loaded, EngineOptions(model_path=str(NANO)), sent.append, lambda: woken.put(None))

    def run(tokens: int) -> int:
        if tokens:
            engine.embed(protocol.Embed(id=1, inputs=[[5] * tokens]), [[5] * tokens])
            while engine.has_work:
                engine.step()
            assert isinstance(sent.pop(), protocol.Reply)
        else:
            while Counted.alive:
                woken.get(timeout=5)
                engine.settle()
        return Counted.made

    yield run
    engine.close()
    assert Counted.alive == 0
    loaded.context.close()
    loaded.model.close()


def test_made_once_and_given_back_when_idle(embed: Callable[[int], int]) -> None:
    assert embed(3) == embed(20) == 1
    embed(0)  # waits until it is given back
    assert embed(3) == 2


def test_made_larger_for_a_longer_text(embed: Callable[[int], int]) -> None:
    assert embed(3) == 1
    assert embed(200) == 2
    assert Counted.alive == 1
    assert embed(100) == 2
