"""One job from its first row to its served name, stage by stage; after a crash a stage begins again."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from llamaleon_server.errors import AdapterRefused, EngineFailed, EngineUnavailable, LlamaleonError
from llamaleon_server.jobs import auto, finish
from llamaleon_server.jobs.events import Ingester
from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.jobs.prepare import prepare, read_rows
from llamaleon_server.jobs.results import write_results
from llamaleon_server.jobs.sidecar import Sidecar, supervise
from llamaleon_server.registry.files import StoredFile
from llamaleon_server.registry.jobstore import FAILED, QUEUED, SUCCEEDED, JobError, JobRecord
from llamaleon_server.registry.records import RETIRED, AdapterVersion
from llamaleon_server.registry.registry import Registry
from llamaleon_server.registry.resolve import refuse_other_base
from llamaleon_server.residents.residents import Residents
from llamaleon_server.settings import Settings

log = logging.getLogger(__name__)

ENGINE_ATTEMPTS = 3
ENGINE_PAUSE_S = 1.0

Stage = Callable[[JobRecord], Awaitable[JobRecord]]


class Pipeline:
    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        residents: Residents,
        trainer_command: tuple[str, ...] | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._residents = residents
        self._store = registry.jobs
        python = settings.trainer_python or sys.executable
        self._trainer_command = trainer_command or (python, "-m", "llamaleon_trainer")
        self._sidecars: dict[str, Sidecar] = {}
        self._stages: dict[str, Stage] = {
            "validate": self._validate,
            "probe": self._probe,
            "train": self._train,
            "convert": self._convert,
            "prove": self._prove,
            "evaluate": self._evaluate,
            "deploy": self._deploy,
        }

    def sidecar(self, job_id: str) -> Sidecar:
        """One per job: it holds the process, if this server started it."""
        if job_id not in self._sidecars:
            self._sidecars[job_id] = Sidecar(self._store.directory(job_id), self._trainer_command)
        return self._sidecars[job_id]

    def release(self) -> None:
        """Leave the trainers to themselves: this server ends."""
        for sidecar in self._sidecars.values():
            sidecar.release()
        self._sidecars.clear()

    def ft_name(self, record: JobRecord) -> str:
        organization, short = self._settings.organization, record.id[-8:]
        return f"ft:{record.base}:{organization}:{record.suffix or ''}:{short}"

    async def validate(self, job_id: str) -> None:
        """`validating_files` becomes `queued`, or `failed`."""
        await self._guarded(job_id, until=QUEUED)

    async def run(self, job_id: str) -> None:
        """`running` becomes `succeeded` or `failed`."""
        await self._guarded(job_id, until=SUCCEEDED)

    async def _guarded(self, job_id: str, until: str) -> None:
        try:
            record = self._store.get(job_id)
            while record.status != until and not record.ended:
                record = await self._attempt(record)
        except JobFailed as failure:
            self.fail(job_id, failure)
        except LlamaleonError as error:
            self.fail(job_id, JobFailed(error.code or "internal", error.message, error.param))
        except Exception as error:
            log.exception("job %s", job_id)
            self.fail(job_id, JobFailed("internal", f"{type(error).__name__}: {error}"))

    async def _attempt(self, record: JobRecord) -> JobRecord:
        """One stage; an engine that dies in it is given another chance."""
        for attempt in range(1, ENGINE_ATTEMPTS + 1):
            try:
                return await self._stages[record.stage](record)
            except (EngineFailed, EngineUnavailable) as error:
                if attempt == ENGINE_ATTEMPTS:
                    raise
                message = f"The engine failed ({error.message}); trying again."
                self._store.add_event(record.id, message, level="warn")
                await asyncio.sleep(ENGINE_PAUSE_S * attempt)
        raise AssertionError("the last attempt returns or raises")

    def fail(self, job_id: str, failure: JobFailed) -> None:
        with self._store.db.transaction():
            if self._store.get(job_id).ended:
                return
            self._store.update(
                job_id,
                status=FAILED,
                error=JobError(failure.code, failure.message, failure.param),
                finished_at=int(time.time()),
                estimated_finish=None,
            )
            self._store.add_event(job_id, failure.message, level="error", data={"code": failure.code})

    # ------------------------------------------------------------ stages

    async def _validate(self, record: JobRecord) -> JobRecord:
        self._store.add_event(
            record.id, f"Validating training file: {record.training_file}", once="validating"
        )
        training = self._file(record.training_file, "training_file")
        validation = None
        if record.validation_file is not None:
            validation = self._file(record.validation_file, "validation_file")
        rows = await asyncio.to_thread(read_rows, training, validation)
        base = finish.base_of(self._registry, record)
        async with self._residents.lease(base) as engine:
            prepared = await prepare(self._store.directory(record.id), record, base, engine, rows)
        with self._store.db.transaction():
            for number, warning in enumerate(prepared.warnings):
                self._store.add_event(record.id, warning, level="warn", once=f"warning-{number}")
            self._store.add_event(
                record.id,
                f"Files validated: {prepared.train_rows} rows to train on, {prepared.valid_rows} held out. "
                "The job is queued.",
                data={
                    "train_rows": prepared.train_rows,
                    "valid_rows": prepared.valid_rows,
                    **prepared.resolved,
                },
                once="validated",
            )
            return self._store.update(record.id, status=QUEUED, stage="probe", resolved=prepared.resolved)

    def _file(self, file_id: str, param: str) -> StoredFile:
        try:
            return self._registry.files.get(file_id, param)
        except LlamaleonError as error:
            raise JobFailed("file_missing", f"{file_id} was deleted before it was read.", param) from error

    async def _probe(self, record: JobRecord) -> JobRecord:
        base = finish.base_of(self._registry, record)
        self._store.add_event(record.id, "Fine-tuning job started", once="running")
        await finish.dump_probe(self._residents, base, self._store.directory(record.id), finish.PROBE_BASE)
        return self._store.update(record.id, stage="train")

    async def _train(self, record: JobRecord) -> JobRecord:
        ingester = Ingester(self._store, record.id, self.ft_name(record))

        async def ingest() -> bool:
            done = await asyncio.to_thread(ingester.ingest)
            await self._convert_checkpoints(record)
            return done

        def restarted(count: int, how: str) -> None:
            self._store.update(record.id, restarts=count)
            self._store.add_event(
                record.id, f"The trainer died ({how}); it goes on from its last checkpoint.", level="warn"
            )

        await supervise(self.sidecar(record.id), ingest, record.restarts, restarted)
        return self._store.update(record.id, stage="convert")

    async def _convert_checkpoints(self, record: JobRecord) -> None:
        """Every checkpoint answers under its own name while the training goes on."""
        directory = self._store.directory(record.id) / "checkpoints"
        waiting = [
            point
            for point in self._store.checkpoints(record.id, after=None, limit=1000)[0]
            if self._registry.by_ft_name(point.ft_name) is None
            and (directory / f"step-{point.step}").is_dir()
        ]
        if not waiting:
            return
        finisher = self._finisher(record)
        for point in reversed(waiting):
            name = f"{record.adapter}.ckpt-step-{point.step}"
            try:
                await finisher.convert(record, directory / f"step-{point.step}", name, point.ft_name)
            except (JobFailed, OSError) as failure:  # or the trainer removed it while it was being read
                message = f"Checkpoint {point.step} cannot be served: {failure}"
                self._store.add_event(record.id, message, level="warn", once=f"unconverted-{point.step}")

    async def _convert(self, record: JobRecord) -> JobRecord:
        await self._convert_checkpoints(record)
        for point in self._store.checkpoints(record.id, after=None, limit=1000)[0]:
            if self._registry.by_ft_name(point.ft_name) is None:  # removed while no server was watching
                self._store.remove_checkpoint(point)
        peft = self._store.directory(record.id) / "adapter"
        version = await self._finisher(record).convert(record, peft, record.adapter, self.ft_name(record))
        with self._store.db.transaction():
            held = f"{len(version.manifest.target_tensors)} tensors, rank {version.manifest.rank}"
            self._store.add_event(record.id, f"Adapter converted: {held}", once="converted")
            return self._store.update(record.id, stage="prove")

    async def _prove(self, record: JobRecord) -> JobRecord:
        version = self._version(record)
        parity = await self._finisher(record).prove(record, version)
        with self._store.db.transaction():
            self._store.add_event(
                record.id,
                f"Parity of trained and served adapter: mean KL {parity['mean_kl']:.2g} per token, largest "
                f"difference {parity['max_abs_diff']:.2g}, on {parity['tokens']} held-out tokens",
                data=parity,
                once="parity",
            )
            return self._store.update(record.id, stage="evaluate", parity=parity)

    async def _evaluate(self, record: JobRecord) -> JobRecord:
        evaluation = await self._finisher(record).evaluate(record, self._version(record))
        with self._store.db.transaction():
            message = f"Evaluated on {evaluation['rows']} held-out rows: " + _comparison(evaluation)
            self._store.add_event(record.id, message, data={"evaluation": evaluation}, once="evaluation")
            return self._store.update(record.id, stage="deploy", evaluation=evaluation)

    async def _deploy(self, record: JobRecord) -> JobRecord:
        version = self._version(record)
        name = self.ft_name(record)
        results = await asyncio.to_thread(write_results, self._registry, record, name)
        failure = finish.refusal(record.parity, record.evaluation)
        version = await asyncio.to_thread(
            self._registry.set_manifest, version, finish.final_manifest(version, record)
        )
        with self._store.db.transaction():
            self._store.update(record.id, result_files=results, estimated_finish=None)
            if failure is not None:
                self._registry.undeployed(version, failure.message)
                message = f"{failure.message} It is registered as {name}, and not deployed."
                self.fail(record.id, JobFailed(failure.code, message))
                return self._store.get(record.id)
            self._registry.deploy(version)
            self._store.add_event(record.id, f"New fine-tuned model created: {name}", once="created-model")
            self._store.add_event(record.id, "The job has successfully completed", once="completed")
            done = self._store.update(
                record.id, status=SUCCEEDED, fine_tuned_model=name, finished_at=int(time.time())
            )
        await asyncio.to_thread(self._tidy, record.id)
        await self._residents.settle_pins(finish.base_of(self._registry, record))
        return done

    def _tidy(self, job_id: str) -> None:
        """What only a running job needs: optimizer states and logits."""
        directory = self._store.directory(job_id)
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        for logits in directory.glob("*.npz"):
            logits.unlink(missing_ok=True)

    def _version(self, record: JobRecord) -> AdapterVersion:
        version = self._registry.by_ft_name(self.ft_name(record))
        if version is None or version.state == RETIRED:
            raise JobFailed("adapter_deleted", "The adapter was deleted before the job had finished.")
        try:
            refuse_other_base(version.manifest, version.model, finish.base_of(self._registry, record))
        except AdapterRefused as error:
            raise JobFailed("base_changed", f"The base changed under the job: {error.message}") from error
        return version

    def _finisher(self, record: JobRecord) -> finish.Finisher:
        base = finish.base_of(self._registry, record)
        kinds = self._registry.engine_settings(base.name, self._settings.engine).kv_types
        coarser = max(kinds, key=lambda kind: kind not in auto.PRECISE_KV_TYPES)
        return finish.Finisher(self._registry, self._residents, base, coarser)


def _comparison(evaluation: dict[str, Any]) -> str:
    """`loss 2.1 -> 0.3, exact_match 0 % -> 92 %`"""
    parts = []
    for key, shares in (("loss", False), ("exact_match", True), ("valid_json", True)):
        before, after = evaluation["base"].get(key), evaluation["adapter"].get(key)
        if before is not None and after is not None:
            shown = f"{before:.1%} -> {after:.1%}" if shares else f"{before:.4f} -> {after:.4f}"
            parts.append(f"{key} {shown}")
    return ", ".join(parts) + " (base -> adapter)"
