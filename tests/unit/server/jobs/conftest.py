"""A job service over a fake engine and a fake trainer process, on a home that can be opened again."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.server.jobs.fake_trainer import logits
from tests.unit.server.registry.small import write_base

from llamaleon_server.engine import protocol
from llamaleon_server.engine.protocol import Delta, Finish, Reply, Step, TokenLogprob
from llamaleon_server.jobs.service import Jobs
from llamaleon_server.registry.jobstore import JobRecord
from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.residents import Residents
from llamaleon_server.settings import Settings
from llamaleon_server.testing import TIMINGS, FakeEngine, FakeEngines
from llamaleon_server.webhooks import Webhooks
from llamaleon_server.wire.fine_tuning import CreateJob

TRAINER = Path(__file__).with_name("fake_trainer.py")


class ScoringEngine(FakeEngine):
    """Computes the logits of `fake_trainer`, and losses of its own choice for base and adapter."""

    base_loss, adapter_loss = 2.0, 1.0  # nats per token

    def send(self, message: protocol.ToEngine) -> None:
        match message:
            case protocol.DumpLogits(id=number, sequences=sequences, adapters=adapters, path=path):
                with Path(path).open("wb") as file:
                    np.savez(file, **logits(sequences, adapted=bool(adapters)))
                self._outgoing.put_nowait(Reply(id=number))
            case protocol.Generate(prompt_logprobs=0, prompt=list() as tokens):
                loss = self.adapter_loss if message.adapters else self.base_loss
                scored = [TokenLogprob(token, b"?", -loss if at else None) for at, token in enumerate(tokens)]
                finish = Finish(
                    reason="length",
                    prompt_tokens=len(tokens),
                    cached_tokens=0,
                    completion_tokens=0,
                    timings=TIMINGS,
                )
                self._outgoing.put_nowait(Step([Delta(id=message.id, prompt=scored, finish=finish)]))
            case _:
                super().send(message)


class ScoringEngines(FakeEngines):
    adapter_loss = 1.0

    async def open(self, base: object) -> FakeEngine:
        engine = ScoringEngine(
            self._ask, context_tokens=self.context_tokens, refuses=self.refuses, gpus=self.gpus
        )
        engine.adapter_loss = self.adapter_loss
        self.opened.append(engine)
        return engine


def reversed_prompt(message: protocol.Generate) -> str:
    """The adapter has learnt what the rows of `rows()` show; the base has not."""
    assert isinstance(message.prompt, list)
    asked = "".join(chr(token) for token in message.prompt[1:])
    return asked[::-1] if message.adapters else "no sé"


def rows(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"¿{n}?", "completion": f"¿{n}?"[::-1]} for n in range(count)]


class Service:
    """One life of the server."""

    def __init__(self, home: Path, mode: str, settings: Settings | None = None) -> None:
        self.settings = settings or Settings(home=home)
        self.registry = Registry.open(home)
        self.engines = ScoringEngines(reversed_prompt)
        self.residents = Residents(self.settings, open_channel=self.engines.open, records=self.registry)
        command = (sys.executable, str(TRAINER), mode)
        self.jobs = Jobs(self.settings, self.registry, self.residents, trainer_command=command)
        urls, secret = self.settings.webhook_urls, self.settings.webhook_secret
        self.webhooks = Webhooks(self.registry.webhooks, urls, self.registry.home, secret)

    def upload(self, data: list[dict[str, Any]] | bytes, filename: str = "datos.jsonl") -> str:
        if isinstance(data, list):
            data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data).encode()
        return self.registry.files.put(filename, "fine-tune", data).id

    def create(self, data: list[dict[str, Any]] | bytes, **request: Any) -> JobRecord:
        defaults: dict[str, Any] = {"model": "tiny", "training_file": self.upload(data), "suffix": "espejo"}
        return self.jobs.create(CreateJob(**(defaults | {"seed": 1} | request)))

    def messages(self, job: JobRecord) -> list[str]:
        return [event.message for event in self.jobs.store.all_events(job.id)]

    async def until(self, job: JobRecord, condition: Callable[[JobRecord], bool]) -> JobRecord:
        deadline = time.monotonic() + 60
        while not condition(found := self.jobs.store.get(job.id)):
            assert time.monotonic() < deadline, self.messages(job)
            await asyncio.sleep(0.02)
        return found

    async def ended(self, job: JobRecord) -> JobRecord:
        return await self.until(job, lambda record: record.ended)


@asynccontextmanager
async def serving(home: Path, mode: str = "good", **settings: Any) -> AsyncIterator[Service]:
    service = Service(home, mode, Settings(home=home, **settings))
    await service.jobs.start()
    service.webhooks.start()
    try:
        yield service
    finally:
        await service.webhooks.close()
        await service.jobs.close()
        await service.residents.close()
        service.registry.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    registry = Registry.open(tmp_path / "home")
    registry.add_base(write_base(tmp_path / "tiny.gguf"))
    registry.close()
    return registry.home
