"""What is left of a job that has ended, by whatever it ended, and of a server that died meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.server.jobs.conftest import Service, rows, serving
from tests.unit.server.jobs.fake_trainer import STEPS

from llamaleon_server.errors import StorageFull
from llamaleon_server.jobs import events
from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.jobs.sidecar import Sidecar
from llamaleon_server.registry.jobstore import RUNNING, JobRecord


async def cleared(service: Service, job: JobRecord) -> None:
    """Wait until nothing of a job is left that only a running one needs."""
    directory = service.jobs.store.directory(job.id)
    async with asyncio.timeout(30):
        while (directory / "checkpoints").exists() or list(directory.glob("*.npz")):
            await asyncio.sleep(0.01)


async def test_a_failed_job_keeps_its_checkpoints_as_models_and_gives_its_room_back(home: Path) -> None:
    async with serving(home, "wrong") as service:
        job = await service.ended(service.create(rows(20)))
        assert job.status == "failed"
        await cleared(service, job)
        [point] = service.jobs.store.checkpoints(job.id, after=None, limit=5)[0]
        assert service.registry.resolve(point.ft_name).adapters


async def test_a_server_that_died_before_it_had_cleared_a_job_does_so_later(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(job_id: str) -> None:
        await asyncio.Event().wait()

    async with serving(home, "wrong") as service:
        monkeypatch.setattr(service.jobs._pipeline, "clear", dies)
        job = await service.ended(service.create(rows(20)))
        assert (service.jobs.store.directory(job.id) / "checkpoints").exists()
    async with serving(home) as service:
        await cleared(service, job)


async def test_a_trainer_ends_with_its_job_whatever_that_failed_of(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trips(*_: object) -> None:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setitem(events._HANDLERS, "eval", trips)
    async with serving(home, "slow") as service:
        job = await service.ended(service.create(rows(20)))
        assert job.error is not None
        assert "nobody thought of this" in job.error.message
        trainer = service.jobs._pipeline.sidecar(job.id)
        async with asyncio.timeout(30):
            while trainer.alive():
                await asyncio.sleep(0.01)


async def test_a_failure_that_cannot_be_recorded_is_not_tried_again_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def full(job_id: str, failure: JobFailed) -> None:
        tried.append(failure.code)
        raise StorageFull("No space left.")

    async with serving(home, "fails") as service:
        monkeypatch.setattr(service.jobs._pipeline, "fail", full)
        job = service.create(rows(20))
        async with asyncio.timeout(30):
            while not tried:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert tried == ["out_of_memory"]
        assert service.jobs.store.get(job.id).status == RUNNING
        monkeypatch.undo()
        service.jobs._schedule()  # as it does itself, later
        assert (await service.ended(job)).status == "failed"


async def test_a_job_that_was_being_cancelled_when_the_server_died_is_cancelled(home: Path) -> None:
    async with serving(home, "slow") as service:
        job = service.create(rows(20))
        await service.until(job, lambda record: record.last_step == STEPS)
        directory = service.jobs.store.directory(job.id)
    Sidecar(directory).ask_to_stop()  # and that is as far as it came
    async with serving(home, "slow") as service:
        assert service.jobs.store.get(job.id).status == "cancelled"
        await cleared(service, job)
