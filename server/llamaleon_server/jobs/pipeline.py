"""One job from its first row to its served name, stage by stage; after a crash a stage begins again."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine

from llamaleon_server.errors import AdapterRefused, EngineFailed, EngineUnavailable, LlamaleonError
from llamaleon_server.jobs import auto, finish
from llamaleon_server.jobs.continuing import INIT_DIRECTORY, bring_weights
from llamaleon_server.jobs.dataset import read_rows
from llamaleon_server.jobs.events import Ingester
from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.jobs.need import needed_bytes
from llamaleon_server.jobs.prepare import prepare
from llamaleon_server.jobs.results import write_results
from llamaleon_server.jobs.sidecar import Sidecar, Word, supervise
from llamaleon_server.registry.files import StoredFile
from llamaleon_server.registry.jobstore import (
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    VALIDATING,
    JobError,
    JobRecord,
)
from llamaleon_server.registry.records import RETIRED, AdapterVersion
from llamaleon_server.registry.registry import Registry
from llamaleon_server.registry.resolve import refuse_other_base
from llamaleon_server.residents.residents import Residents
from llamaleon_server.residents.sharing import Sharing
from llamaleon_server.settings import Settings

log = logging.getLogger(__name__)

ENGINE_ATTEMPTS = 3
ENGINE_PAUSE_S = 1.0
MOST_CHECKPOINTS = 100_000  # of a job: all of them

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
        self._sharing = Sharing(residents, settings.training_gpu)
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
        await self._guarded(job_id, self._stages_while(job_id, VALIDATING))

    async def run(self, job_id: str) -> None:
        """`running` becomes `succeeded` or `failed`; a job that was paused stays where it is."""
        await self._guarded(job_id, self._stages_while(job_id, RUNNING))

    async def leave(self, job_id: str) -> None:
        """Follow the trainer of a paused job until it has stopped."""
        await self._guarded(job_id, self._follow(self._store.get(job_id)))

    async def clear(self, job_id: str) -> None:
        """After a job has ended: its trainer stops, its last checkpoint is kept, its room is not."""
        record, sidecar = self._store.get(job_id), self.sidecar(job_id)
        if sidecar.directory.is_dir():
            sidecar.ask_to_stop()
        await sidecar.stopped()
        ingester = Ingester(self._store, job_id, self.ft_name(record))
        for rest in (lambda: asyncio.to_thread(ingester.ingest), lambda: self._convert_checkpoints(record)):
            try:
                await rest()
            except (JobFailed, LlamaleonError) as error:  # of a failed job it is what it failed of
                log.warning("%s is %s, and then: %s", job_id, record.status, error)
        self._forget_unconverted(record)
        await asyncio.to_thread(self._tidy, job_id)

    def uncleared(self) -> list[str]:
        """Jobs that have ended and still take their room: the server died before it had cleared them."""
        left_over = self._store.directory("any").parent.glob("*/checkpoints")
        known = {record.id for record in self._store.unfinished()}
        return [path.parent.name for path in left_over if path.parent.name not in known]

    async def _guarded(self, job_id: str, work: Coroutine[None, None, object]) -> None:
        try:
            await work
        except JobFailed as failure:
            self.fail(job_id, failure)
        except LlamaleonError as error:
            self.fail(job_id, JobFailed(error.code or "internal", error.message, error.param))
        except Exception as error:
            log.exception("job %s", job_id)
            self.fail(job_id, JobFailed("internal", f"{type(error).__name__}: {error}"))
        if self._store.get(job_id).status == FAILED:
            await self.clear(job_id)

    async def _stages_while(self, job_id: str, status: str) -> None:
        """Stage after stage. A job that is paused meanwhile ends the stage that it is in."""
        record = self._store.get(job_id)
        while record.status == status:
            record = await self._attempt(record)

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
        rows = await asyncio.to_thread(read_rows, training, validation, record.text_template)
        base = finish.base_of(self._registry, record)
        directory = self._store.directory(record.id)
        if record.init_adapter is not None:
            await asyncio.to_thread(
                bring_weights, self._registry, record.base, record.init_adapter, directory
            )
        async with self._residents.lease(base) as engine:
            prepared = await prepare(directory, record, base, engine, rows)
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
            paused = self._store.get(record.id).status == PAUSED
            return self._store.update(
                record.id, status=PAUSED if paused else QUEUED, stage="probe", resolved=prepared.resolved
            )

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
        sidecar = self.sidecar(record.id)
        done = False
        if sidecar.pausing:  # it was resumed: the trainer that was asked to stop leaves first
            done = await self._follow(record)
            sidecar.unpause()
        if not done:
            begun = await asyncio.to_thread(sidecar.alive)
            gpu = self._residents.room.on_gpu
            need = await asyncio.to_thread(needed_bytes, self._store.directory(record.id), gpu=gpu)
            async with self._sharing.place(
                need,
                wanted=lambda: self._store.get(record.id).status == RUNNING,
                say=lambda message: self._store.add_event(record.id, message),
                begun=begun,
            ) as granted:
                done = granted and await self._follow(self._store.get(record.id))
        return self._store.update(record.id, stage="convert") if done else self._store.get(record.id)

    async def _follow(self, record: JobRecord) -> bool:
        """The trainer, to its end; False: it has paused."""
        ingester = Ingester(self._store, record.id, self.ft_name(record))

        async def ingest() -> Word:
            word = await asyncio.to_thread(ingester.ingest)
            if ingester.has_checkpoints:
                ingester.has_checkpoints = False
                await self._convert_checkpoints(record)
            return word

        def restarted(count: int, how: str) -> None:
            self._store.update(record.id, restarts=count)
            self._store.add_event(
                record.id, f"The trainer died ({how}); it goes on from its last checkpoint.", level="warn"
            )

        return await supervise(self.sidecar(record.id), ingest, record.restarts, restarted)

    async def _convert_checkpoints(self, record: JobRecord) -> None:
        """Every checkpoint answers under its own name while the training goes on."""
        directory = self._store.directory(record.id) / "checkpoints"
        waiting = [
            point
            for point in self._store.checkpoints(record.id, after=None, limit=MOST_CHECKPOINTS)[0]
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

    def _forget_unconverted(self, record: JobRecord) -> None:
        for point in self._store.checkpoints(record.id, after=None, limit=MOST_CHECKPOINTS)[0]:
            if self._registry.by_ft_name(point.ft_name) is None:  # GGUF cannot express it, or it is gone
                self._store.remove_checkpoint(point)

    async def _convert(self, record: JobRecord) -> JobRecord:
        await self._convert_checkpoints(record)
        self._forget_unconverted(record)
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
            message = f"Evaluated on {evaluation['rows']} held-out rows: " + finish.comparison(evaluation)
            self._store.add_event(record.id, message, data={"evaluation": evaluation}, once="evaluation")
            return self._store.update(record.id, stage="deploy", evaluation=evaluation)

    async def _deploy(self, record: JobRecord) -> JobRecord:
        version = self._version(record)
        name = self.ft_name(record)
        results = await asyncio.to_thread(write_results, self._registry, record, name)
        failure = finish.refusal(record.parity, record.evaluation, record.resolved)
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
            passed = f"Good enough to deploy: {finish.gate_note(record.evaluation, record.resolved)}"
            self._store.add_event(record.id, passed, once="gate")
            if record.deploy:
                self._registry.deploy(version)
            else:
                self._registry.undeployed(version, "The job was asked not to deploy it.")
            self._store.add_event(record.id, f"New fine-tuned model created: {name}", once="created-model")
            self._store.add_event(record.id, "The job has successfully completed", once="completed")
            done = self._store.update(
                record.id, status=SUCCEEDED, fine_tuned_model=name, finished_at=int(time.time())
            )
        await asyncio.to_thread(self._tidy, record.id)
        await self._residents.settle_pins(finish.base_of(self._registry, record))
        return done

    def _tidy(self, job_id: str) -> None:
        """What only a running job needs: optimizer states, the weights it began with, logits."""
        directory = self._store.directory(job_id)
        for folder in ("checkpoints", INIT_DIRECTORY):
            shutil.rmtree(directory / folder, ignore_errors=True)
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
