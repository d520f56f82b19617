from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.registry.small import write_base
from tests.unit.server.residents.stage import MODEL, Stage

from llamaleon_server.registry.records import Base
from llamaleon_server.registry.registry import Registry


@pytest.fixture
def base(tmp_path: Path) -> Base:
    registry = Registry.open(tmp_path / "home")
    added = registry.add_base(write_base(tmp_path / "tiny.gguf"))
    registry.close()
    return added


@pytest.fixture
async def make(base: Base, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Stage]]:
    monkeypatch.setattr("llamaleon_server.residents.residents.need_of", lambda base, options: MODEL)
    made: list[Stage] = []

    def stage(**settings: Any) -> Stage:
        made.append(Stage(base, **settings))
        return made[-1]

    yield stage
    for one in made:
        await one.residents.close()
