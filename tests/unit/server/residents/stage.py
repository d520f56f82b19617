"""Residents over fake engines, with models of a hundred bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from tests.unit.server.residents.test_residents import until

from llamaleon_server.engine.protocol import GenerateRequest
from llamaleon_server.registry.records import Base, Target
from llamaleon_server.residents.memory import Need
from llamaleon_server.residents.residents import Residents
from llamaleon_server.settings import EngineSettings, Settings
from llamaleon_server.testing import FakeEngine, FakeEngines

MODEL = Need(weights=60, cache=30, compute=10)  # 100 bytes, of each


class Stage:
    """Residents over fake engines, for the bases a, b, c. Each takes 100 bytes."""

    def __init__(self, base: Base, **settings: Any) -> None:
        self.bases = {name: replace(base, name=name) for name in "abc"}
        self.engines = FakeEngines()
        self.wanted: dict[str, EngineSettings] = {}
        self.keeps: dict[str, float | None] = {}
        settings = {"idle_unload_s": None, **settings}
        self.residents = Residents(Settings(**settings), open_channel=self.engines.open, wishes=self)

    # What residents ask the registry.

    def engine_settings(self, base: str, default: EngineSettings) -> EngineSettings:
        return self.wanted.get(base, default)

    def keep_alive(self, base: str) -> float | UnsetType | None:
        return self.keeps.get(base, UNSET)

    async def say(self, name: str) -> str:
        target = Target(requested=name, base=self.bases[name])
        return "".join([d.text async for d in self.residents.generate(target, GenerateRequest(prompt="x"))])

    @asynccontextmanager
    async def busy(self, name: str) -> AsyncIterator[FakeEngine]:
        """A request of the base runs inside the block."""
        await self.say(name)
        engine = self.engines.opened[len(self.engines.names) - 1 - self.engines.names[::-1].index(name)]
        engine.gate.clear()
        running = asyncio.create_task(self.say(name))
        await until(lambda: self.running(name) == 1)
        try:
            yield engine
        finally:
            engine.gate.set()
            await running

    def running(self, name: str) -> int:
        return sum(info.running for info in self.residents.ps() if info.name == name)

    @property
    def loaded(self) -> set[str]:
        return {info.name for info in self.residents.ps() if info.state == "ready"}
