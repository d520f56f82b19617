"""A job from upload to served name, its ways to fail, and the deaths it survives."""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.server.jobs.conftest import Service, rows, serving
from tests.unit.server.jobs.fake_trainer import CHECKPOINT, STEPS

from llamaleon_server.chat.training import Segment
from llamaleon_server.errors import BadRequest, Conflict, ModelNotFound
from llamaleon_server.evaluation.rows import read_answers
from llamaleon_server.jobs import sidecar
from llamaleon_server.jobs.service import Jobs
from llamaleon_server.registry.jobstore import RUNNING, JobRecord

EVENTS = "SELECT seq, message FROM job_events WHERE job = ?"


def recorded_steps(service: Service, job: JobRecord) -> list[int]:
    metrics = service.jobs.store.all_events(job.id, type="metrics")
    return [event.data["step"] for event in metrics if "train_loss" in event.data]


async def test_from_upload_to_served_name(home: Path) -> None:
    async with serving(home) as service:
        job = service.create(rows(20), hyperparameters={"n_epochs": 2}, metadata={"team": "norte"})
        assert job.status == "validating_files"
        job = await service.ended(job)
        messages = service.messages(job)
        assert job.status == "succeeded", messages
        name = f"ft:tiny:local:espejo:{job.id[-8:]}"
        assert job.fine_tuned_model == name
        assert messages[:2] == [
            f"Created fine-tuning job: {job.id}",
            f"Validating training file: {job.training_file}",
        ]
        assert f"Step 2/{STEPS}: training loss=3.0000" in messages
        assert messages[-2:] == [
            f"New fine-tuned model created: {name}",
            "The job has successfully completed",
        ]
        assert recorded_steps(service, job) == list(range(1, STEPS + 1))
        assert (job.resolved["n_epochs"], job.resolved["lora_alpha"], job.trained_tokens) == (2, 32.0, 60)

        deployed = service.registry.resolve("tiny+espejo").adapters[0][0]
        assert deployed == service.registry.resolve(name).adapters[0][0]
        expected = {"loss": 1.0, "rows": 2, "generated": 2, "exact_match": 1.0}
        assert expected.items() <= deployed.manifest.evaluation["adapter"].items()
        assert deployed.manifest.evaluation["base"]["exact_match"] == 0.0
        assert deployed.manifest.training["job"] == job.id
        assert (deployed.directory / "peft" / "adapter_config.json").exists()

        [point] = service.jobs.store.checkpoints(job.id, after=None, limit=5)[0]
        assert (point.step, point.ft_name) == (CHECKPOINT, f"{name}:ckpt-step-{CHECKPOINT}")
        assert service.registry.resolve(point.ft_name).adapters[0][0].key != deployed.key


async def test_result_files_hold_every_step_and_the_evaluation(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMALEON_LANG", "en")
    async with serving(home) as service:
        job = await service.ended(service.create(rows(20)))
        metrics, evaluation, page = (service.registry.files.get(name) for name in job.result_files)
        assert {metrics.purpose, evaluation.purpose, page.purpose} == {"fine-tune-results"}
        table = list(csv.DictReader(io.StringIO(metrics.path.read_text())))
        assert [int(line["step"]) for line in table] == list(range(1, STEPS + 1))
        assert table[CHECKPOINT - 1]["valid_loss"] == "2.5"
        report = json.loads(evaluation.path.read_text())
        assert report["parity"]["mean_kl"] <= report["parity"]["gate"]
        assert report["evaluation"]["rows"] == 2
        assert page.filename == "report.html"
        html = page.path.read_text("utf-8")
        assert "Deployed" in html, "the page says how the job ends, though it is made just before"
        assert "<polyline" in html
        assert "Side by side" in html


async def test_every_malformed_row_is_named_before_an_engine_starts(home: Path) -> None:
    bad = b'{"prompt": "a", "completion": "b"}\n{"prompt": 3, "completion": "b"}\n\n{no\n'
    async with serving(home) as service:
        job = await service.ended(service.create(bad))
        assert job.status == "failed"
        assert job.error is not None
        assert job.error.param == "training_file"
        assert "2 of 3 rows" in job.error.message
        assert "line 2" in job.error.message
        assert "line 4" in job.error.message
        assert service.engines.opened == []


async def test_rows_longer_than_the_limit_are_named_not_cut(home: Path) -> None:
    data = [*rows(5), {"prompt": "x" * 50, "completion": "y"}]
    async with serving(home) as service:
        job = await service.ended(service.create(data, hyperparameters={"max_sequence_tokens": 30}))
        assert job.error is not None
        assert "line 6: 53 tokens" in job.error.message  # with BOS and EOS
        job = await service.ended(service.create(rows(5), hyperparameters={"max_sequence_tokens": 5000}))
        assert job.error is not None
        assert job.error.param == "method.supervised.hyperparameters.max_sequence_tokens"


async def test_one_row_cannot_be_split(home: Path) -> None:
    async with serving(home) as service:
        job = await service.ended(service.create(rows(1)))
        assert job.error is not None
        assert "validation_file" in job.error.message


async def test_a_validation_file_is_held_out_whole(home: Path) -> None:
    async with serving(home) as service:
        validation = service.upload(rows(24)[20:])
        job = await service.ended(service.create(rows(20), validation_file=validation))
        assert job.status == "succeeded"
        assert job.evaluation["rows"] == 4
        directory = service.jobs.store.directory(job.id)
        assert len((directory / "train.jsonl").read_text().splitlines()) == 20


async def test_of_many_held_out_rows_some_are_drawn_not_the_first_taken(home: Path) -> None:
    """Files are often sorted: the first 50 answers would all be of one label, and that is no classifier."""
    data = [{"prompt": f"¿{n}?", "completion": "sí" if n < 60 else "no"} for n in range(120)]
    async with serving(home) as service:
        job = await service.ended(service.create(rows(20), validation_file=service.upload(data)))
        assert job.evaluation["kind"] == "labels"
        assert (job.evaluation["rows"], job.evaluation["adapter"]["generated"]) == (120, 50)
        lines = [row.line for row in read_answers(service.jobs.store.directory(job.id))]
        assert lines == sorted(lines)


async def test_a_row_of_the_validation_file_that_the_template_refuses_is_named_there(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picky(template: object, messages: list[dict[str, str]], **more: object) -> list[Segment]:
        if messages[0]["content"] == "mal":
            raise ValueError("no me gusta")
        return [Segment(message["content"], float(at)) for at, message in enumerate(messages)]

    def chat(said: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": "sí"}]}

    monkeypatch.setattr("llamaleon_server.jobs.encode.training_segments", picky)
    async with serving(home) as service:
        validation = service.upload([chat("bien"), chat("mal")])
        job = await service.ended(
            service.create([chat(f"{n}") for n in range(9)], validation_file=validation)
        )
        assert job.error is not None
        assert (job.error.code, job.error.param) == ("invalid_validation_file", "validation_file")
        assert "line 2" in job.error.message


async def test_training_tokens_are_what_serving_tokenises(home: Path) -> None:
    async with serving(home) as service:
        job = await service.ended(service.create(rows(20)))
        directory = service.jobs.store.directory(job.id)
        first = msgspec.json.decode((directory / "train.jsonl").read_bytes().splitlines()[0])
        assert first["tokens"] == [1, *map(ord, "¿0?" + "?0¿"), 2]
        assert first["weights"] == [0, 0, 0, 0, 1, 1, 1, 1]


async def test_a_killed_trainer_goes_on_from_its_checkpoint(home: Path) -> None:
    async with serving(home, "dies") as service:
        job = await service.ended(service.create(rows(20)))
        assert job.status == "succeeded", service.messages(job)
        assert job.restarts == 1
        assert "The trainer died (by signal 9); it goes on from its last checkpoint." in service.messages(job)
        assert f"Training resumed from step {CHECKPOINT}." in service.messages(job)
        assert recorded_steps(service, job) == list(range(1, STEPS + 1)), "repeated steps are recorded once"


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("fails", "out_of_memory", "not enough memory"),
        ("silent", "trainer_failed", "no module named torch"),
        ("wrong", "parity_failed", "does not compute what was trained"),
    ],
)
async def test_ways_to_fail(home: Path, mode: str, code: str, words: str) -> None:
    async with serving(home, mode) as service:
        job = await service.ended(service.create(rows(20)))
        assert job.status == "failed"
        assert job.fine_tuned_model is None
        assert job.error is not None
        assert job.error.code == code
        assert words in job.error.message
        with pytest.raises(ModelNotFound):
            service.registry.resolve("tiny+espejo")


async def test_a_trainer_that_dies_every_time_ends_the_job(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "MAX_RESTARTS", 1)
    monkeypatch.setattr(sidecar, "RESTART_PAUSE_S", 0.0)
    async with serving(home, "cursed") as service:
        job = await service.ended(service.create(rows(20)))
        assert job.error is not None
        assert job.error.code == "trainer_died"
        assert job.restarts == 1


async def test_an_adapter_worse_than_the_base_is_registered_not_deployed(home: Path) -> None:
    async with serving(home) as service:
        service.engines.adapter_loss = 2.5
        job = await service.ended(service.create(rows(20)))
        assert job.error is not None
        assert job.error.code == "worse_than_base"
        _, _, page = (service.registry.files.get(name) for name in job.result_files)
        assert "Not deployed" in page.path.read_text("utf-8")
        with pytest.raises(ModelNotFound):
            service.registry.resolve("tiny+espejo")
        refused = service.registry.resolve("tiny+espejo@1").adapters[0][0]
        assert refused.state == "registered"
        assert "worse than the base" in (refused.reason or "")


async def test_the_gate_is_the_metric_that_was_asked_for(home: Path) -> None:
    async with serving(home) as service:
        service.engines.adapter_loss = 2.5
        job = await service.ended(service.create(rows(20), hyperparameters={"gate_metric": "exact_match"}))
        assert job.status == "succeeded", service.messages(job)
        assert "Good enough to deploy: exact_match 100.0% against 0.0% of the base." in service.messages(job)
        job = await service.ended(service.create(rows(20), hyperparameters={"gate_margin": 0.6}))
        assert job.status == "succeeded", service.messages(job)
        job = await service.ended(service.create(rows(20), hyperparameters={"gate_margin": 0.4}))
        assert job.error is not None
        assert "worse than the base by more than 0.4: loss 2.5000 against 2.0000" in job.error.message


class EveryKey(set[str]):
    def __contains__(self, key: object) -> bool:
        return True


async def test_an_adapter_that_the_engine_refuses_has_failed(home: Path) -> None:
    async with serving(home) as service:
        service.engines.refuses = EveryKey()
        job = await service.ended(service.create(rows(20)))
        assert job.error is not None
        assert job.error.code == "adapter_refused"
        [version] = [found for found in service.registry.adapters() if found.adapter == "espejo"]
        assert (version.state, "does not fit" in (version.reason or "")) == ("failed", True)


async def test_a_pinned_name_follows_what_a_job_deploys(home: Path) -> None:
    async with serving(home) as service:
        await service.ended(service.create(rows(20)))
        first = service.registry.pin("tiny+espejo")
        await service.residents.settle_pins(service.registry.base("tiny"))
        assert service.engines.last.pinned == {first.key}
        job = await service.ended(service.create(rows(24)))
        assert job.status == "succeeded", service.messages(job)
        second = service.registry.resolve("tiny+espejo").adapters[0][0]
        assert second.version == 2
        async with asyncio.timeout(30):
            while service.engines.last.pinned != {second.key}:
                await asyncio.sleep(0.01)


async def test_the_trainer_outlives_the_server_and_is_found_again(home: Path) -> None:
    async with serving(home, "slow") as service:
        job = service.create(rows(20))
        await service.until(job, lambda record: record.last_step == STEPS)
        pid = json.loads((service.jobs.store.directory(job.id) / "trainer.pid").read_text())["pid"]
    os.kill(pid, 0)  # still there
    async with serving(home, "slow") as service:
        assert service.jobs.store.get(job.id).status == RUNNING
        # Were a second trainer started, it would say so.
        assert (service.jobs.cancel(job.id)).status == "cancelled"
        for task in list(service.jobs._stopping):
            await task
        assert sum(message.startswith("Training started") for message in service.messages(job)) == 1
        assert recorded_steps(service, job) == list(range(1, STEPS + 1))
    with pytest.raises(ProcessLookupError):
        _alive(pid)


def _alive(pid: int) -> None:
    """Raises ProcessLookupError for a process that has ended, reaped or not."""
    os.kill(pid, 0)
    if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
        raise ProcessLookupError


async def test_a_trainer_killed_while_no_server_ran_is_resumed(home: Path) -> None:
    async with serving(home, "slow") as service:
        job = service.create(rows(20))
        await service.until(job, lambda record: record.last_step == STEPS)
        pid = json.loads((service.jobs.store.directory(job.id) / "trainer.pid").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    async with serving(home, "good") as service:
        job = await service.ended(job)
        assert job.status == "succeeded", service.messages(job)
        assert recorded_steps(service, job) == list(range(1, STEPS + 1))


class Died(Exception):
    """The server did the work of a stage and died before it could record that."""


@pytest.mark.parametrize("stage", ["validate", "probe", "convert", "prove", "evaluate", "deploy"])
async def test_a_server_killed_in_any_stage_goes_on_there(
    home: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    def die(*_: object, **__: object) -> None:
        raise Died

    async with serving(home) as service:
        work = service.jobs._pipeline._stages[stage]

        async def unrecorded(record: JobRecord) -> JobRecord:
            with monkeypatch.context() as patch:
                patch.setattr(service.jobs.store, "update", die)
                with pytest.raises(Died):
                    await work(record)
            reached.set()
            await asyncio.Event().wait()  # nothing more happens in this life
            return record

        monkeypatch.setitem(service.jobs._pipeline._stages, stage, unrecorded)
        job = service.create(rows(20))
        await asyncio.wait_for(reached.wait(), 60)
    async with serving(home) as service:
        job = await service.ended(job)
        assert job.status == "succeeded", service.messages(job)
        assert len(service.registry.versions("tiny+espejo")) == 1
        for once in (
            "Adapter converted",
            "Parity of",
            "Evaluated on",
            "New fine-tuned",
            "The job has success",
        ):
            assert sum(message.startswith(once) for message in service.messages(job)) == 1


async def test_jobs_run_one_at_a_time_in_order(home: Path) -> None:
    async with serving(home) as service:
        jobs = [service.create(rows(20), suffix=f"job-{n}") for n in range(3)]
        for job in jobs:
            await service.ended(job)
        finished = [service.jobs.store.get(job.id) for job in jobs]
        assert [job.status for job in finished] == ["succeeded"] * 3
        numbers = [
            {row["message"]: row["seq"] for row in service.registry.db.rows(EVENTS, job.id)} for job in jobs
        ]
        for earlier, later in itertools.pairwise(numbers):
            assert earlier["The job has successfully completed"] < later["Fine-tuning job started"]


async def test_cancelling_what_waits_and_what_runs(home: Path) -> None:
    async with serving(home, "slow") as service:
        running = service.create(rows(20))
        waiting = service.create(rows(20), suffix="b")
        await service.until(running, lambda record: record.last_step == STEPS)
        await service.until(waiting, lambda record: record.status == "queued")
        assert (service.jobs.cancel(waiting.id)).status == "cancelled"
        assert (service.jobs.cancel(running.id)).finished_at is not None
        with pytest.raises(BadRequest, match="already ended"):
            service.jobs.cancel(running.id)


async def test_one_server_per_home(home: Path) -> None:
    async with serving(home) as service:
        other = Jobs(service.settings, service.registry, service.residents)
        with pytest.raises(Conflict, match="Another llamaleon server"):
            await other.start()
