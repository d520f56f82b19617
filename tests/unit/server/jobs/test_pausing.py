"""A job is paused, resumed and cancelled in every state, and across restarts of the server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from tests.unit.server.jobs.conftest import Service, rows, serving
from tests.unit.server.jobs.fake_trainer import STEPS

from llamaleon_server.errors import BadRequest
from llamaleon_server.jobs.sidecar import PAUSE_FILE, PID_FILE
from llamaleon_server.registry.jobstore import JobRecord


def trainer_pid(service: Service, job: JobRecord) -> int:
    return int(json.loads((service.jobs.store.directory(job.id) / PID_FILE).read_text())["pid"])


def begins(service: Service, job: JobRecord) -> int:
    return sum(message.startswith(("Training started", "Training res")) for message in service.messages(job))


async def training(service: Service) -> JobRecord:
    job = service.create(rows(20))
    await service.until(job, lambda record: record.last_step == STEPS)
    return job


async def left(service: Service, job: JobRecord) -> None:
    """Until nothing of the server follows the job any more."""
    async with asyncio.timeout(60):
        while job.id in service.jobs._tasks:
            await asyncio.sleep(0.02)


async def test_a_training_job_pauses_with_a_checkpoint_and_goes_on_to_its_end(home: Path) -> None:
    async with serving(home, "patient") as service:
        job = await training(service)
        assert service.jobs.pause(job.id).status == "paused"
        assert service.jobs.pause(job.id).status == "paused", "to pause twice is to pause"
        await left(service, job)
        assert f"Training paused at step {STEPS}" in service.messages(job)
        assert not service.jobs._pipeline.sidecar(job.id).alive()
        assert service.jobs.resume(job.id).status in {"queued", "running"}
        job = await service.ended(job)
        assert job.status == "succeeded", service.messages(job)
        assert (job.restarts, begins(service, job)) == (0, 2), "that it left was no death"


async def test_resumed_before_the_trainer_has_left(home: Path) -> None:
    async with serving(home, "patient") as service:
        job = await training(service)
        service.jobs.pause(job.id)
        service.jobs.resume(job.id)
        job = await service.ended(job)
        assert job.status == "succeeded", service.messages(job)
        assert begins(service, job) == 2


async def test_the_next_job_runs_while_one_is_paused(home: Path) -> None:
    async with serving(home, "patient") as service:
        first = await training(service)
        second = service.create(rows(20), suffix="b")
        await service.until(second, lambda record: record.status == "queued")
        service.jobs.pause(first.id)
        await service.until(second, lambda record: record.last_step == STEPS)
        assert service.jobs.store.get(first.id).status == "paused"
        service.jobs.resume(first.id)
        assert service.jobs.store.get(first.id).status == "queued", "it waits for its turn"
        service.jobs.cancel(second.id)
        assert (await service.ended(first)).status == "succeeded"


async def test_paused_while_it_waits_or_is_validated(home: Path) -> None:
    async with serving(home, "slow") as service:
        running = await training(service)
        waiting = service.create(rows(20), suffix="b")
        assert service.jobs.pause(waiting.id).status == "paused"
        await left(service, waiting)
        assert service.jobs.store.get(waiting.id).status == "paused"
        service.jobs.resume(waiting.id)
        await service.until(waiting, lambda record: record.status == "queued")
        assert service.jobs.pause(waiting.id).status == "paused"
        service.jobs.cancel(running.id)
        await asyncio.sleep(0.3)
        assert service.jobs.store.get(waiting.id).status == "paused", "nothing but resume starts it"
        assert service.jobs.cancel(waiting.id).status == "cancelled"


@pytest.mark.parametrize("stage", ["probe", "convert", "prove", "evaluate"])
async def test_paused_in_any_stage_goes_on_after_it(
    home: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(home) as service:
        work = service.jobs._pipeline._stages[stage]
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def held_up(record: JobRecord) -> JobRecord:
            reached.set()
            await go_on.wait()
            return await work(record)

        monkeypatch.setitem(service.jobs._pipeline._stages, stage, held_up)
        job = service.create(rows(20))
        await asyncio.wait_for(reached.wait(), 60)
        service.jobs.pause(job.id)
        go_on.set()
        await left(service, job)
        job = service.jobs.store.get(job.id)
        assert (job.status, job.stage != stage) == ("paused", True)
    async with serving(home) as service:
        assert service.jobs.store.get(job.id).status == "paused", "a restart resumes nothing by itself"
        service.jobs.resume(job.id)
        assert (await service.ended(job)).status == "succeeded"
        for once in ("Adapter converted", "Parity of", "Evaluated on"):
            assert sum(message.startswith(once) for message in service.messages(job)) == 1


async def test_a_server_that_dies_while_a_job_pauses_finds_it_paused(home: Path) -> None:
    async with serving(home, "patient") as service:
        job = await training(service)
    # No server: a trainer is asked to pause, and the next server finds it still there.
    async with serving(home, "patient") as service:
        service.jobs.store.update(job.id, status="paused")
        (service.jobs.store.directory(job.id) / PAUSE_FILE).touch()
    async with serving(home, "patient") as service:
        await left(service, job)
        assert service.jobs.store.get(job.id).status == "paused"
        service.jobs.resume(job.id)
        assert (await service.ended(job)).status == "succeeded", service.messages(job)
        assert service.jobs.store.get(job.id).restarts == 0


async def test_a_trainer_killed_while_it_should_pause_has_paused(home: Path) -> None:
    async with serving(home, "patient") as service:
        job = await training(service)
        pid = trainer_pid(service, job)
        os.kill(pid, signal.SIGSTOP)  # it does not see the file
        service.jobs.pause(job.id)
        os.kill(pid, signal.SIGKILL)
        await left(service, job)
        assert service.jobs.store.get(job.id).status == "paused"
        service.jobs.resume(job.id)
        assert (await service.ended(job)).status == "succeeded", service.messages(job)


async def test_a_trainer_stopped_by_a_signal_goes_on(home: Path) -> None:
    """As when the machine shuts down: nobody asked for the job to pause."""
    async with serving(home, "patient") as service:
        job = await training(service)
        os.kill(trainer_pid(service, job), signal.SIGTERM)
        job = await service.ended(job)
        assert job.status == "succeeded", service.messages(job)
        assert job.restarts == 1
        assert any("(it was told to stop)" in message for message in service.messages(job))


async def test_a_paused_job_is_cancelled_also_after_a_restart(home: Path) -> None:
    async with serving(home, "patient") as service:
        job = await training(service)
        service.jobs.pause(job.id)
        await left(service, job)
    async with serving(home, "patient") as service:
        assert service.jobs.cancel(job.id).status == "cancelled"
        for task in list(service.jobs._stopping):
            await task
        with pytest.raises(BadRequest, match="already ended: it is cancelled"):
            service.jobs.resume(job.id)
        assert not (service.jobs.store.directory(job.id) / "checkpoints").exists()


async def test_only_what_is_paused_is_resumed(home: Path) -> None:
    async with serving(home, "slow") as service:
        job = await training(service)
        with pytest.raises(BadRequest, match="is not paused: it is running"):
            service.jobs.resume(job.id)
        service.jobs.cancel(job.id)
        with pytest.raises(BadRequest, match="already ended"):
            service.jobs.pause(job.id)


async def test_a_cancelled_trainer_leaves_before_the_next_begins(home: Path) -> None:
    async with serving(home, "patient") as service:
        first = await training(service)
        second = service.create(rows(20), suffix="b")
        await service.until(second, lambda record: record.status == "queued")
        os.kill(trainer_pid(service, first), signal.SIGSTOP)
        service.jobs.cancel(first.id)
        await asyncio.sleep(0.3)
        assert service.jobs.store.get(second.id).status == "queued", "the first still has the memory"
        os.kill(trainer_pid(service, first), signal.SIGCONT)
        await service.until(second, lambda record: record.last_step == STEPS)
        [point] = service.jobs.store.checkpoints(first.id, after=None, limit=5)[0]
        assert service.registry.resolve(point.ft_name).adapters, "what was learnt until then answers"
        assert not (service.jobs.store.directory(first.id) / "checkpoints").exists()
        service.jobs.cancel(second.id)


async def test_the_estimate_and_the_rate_that_was_found_are_told(home: Path) -> None:
    async with serving(home) as service:
        job = await service.ended(service.create(rows(20), hyperparameters={"learning_rate": "find"}))
        assert job.status == "succeeded", service.messages(job)
        told = {event.message: event.data for event in service.jobs.store.all_events(job.id)}
        assert told["Estimated: 3.2 GB of memory, 2 min"] == {
            "estimate": {"memory_bytes": 3_200_000_000, "seconds": 95.0, "basis": "measured"}
        }
        assert "Learning rate found: 0.00123" in told
        assert (job.resolved["learning_rate"], job.resolved["learning_rate_multiplier"]) == (
            0.00123456,
            6.1728,
        )


async def test_a_job_that_is_not_deployed_answers_by_its_long_name_alone(home: Path) -> None:
    async with serving(home) as service:
        await service.ended(service.create(rows(20)))
        deployed = service.registry.resolve("tiny+espejo").adapters[0][0]
        job = await service.ended(service.create(rows(24), deploy=False))
        assert job.status == "succeeded", service.messages(job)
        assert job.fine_tuned_model is not None
        trial = service.registry.resolve(job.fine_tuned_model).adapters[0][0]
        assert (trial.state, trial.version) == ("registered", 2)
        assert service.registry.resolve("tiny+espejo").adapters[0][0] == deployed
