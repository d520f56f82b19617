"""The fine-tuning service: jobs are created, validated and queued here, and run one at a time."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import logging
import secrets
import time
from collections.abc import Coroutine
from typing import Any, BinaryIO

from llamaleon_server.errors import BadRequest, Conflict, NotFound
from llamaleon_server.jobs.continuing import adapter_of, fixed_by, with_fixed
from llamaleon_server.jobs.pipeline import Pipeline
from llamaleon_server.registry.files import FINE_TUNE
from llamaleon_server.registry.jobstore import (
    CANCELLED,
    PAUSED,
    QUEUED,
    RUNNING,
    VALIDATING,
    JobRecord,
    JobStore,
)
from llamaleon_server.registry.names import check_adapter_name
from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.residents import Residents
from llamaleon_server.settings import Settings
from llamaleon_server.wire.fine_tuning import CreateJob

log = logging.getLogger(__name__)

MAX_SUFFIX = 64
REPORTER_PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboardX"}
AGAIN_S = 10.0  # until a job is begun again whose failure could not be recorded
FIRST, TRAINING = "validate", "train"  # stages of pipeline.py


class Jobs:
    """All methods run on the event loop; what takes longer goes to threads or other processes."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        residents: Residents,
        *,
        trainer_command: tuple[str, ...] | None = None,
        running_limit: int = 1,
    ) -> None:
        self.store: JobStore = registry.jobs
        self._registry = registry
        self._trainer_is_elsewhere = settings.trainer_python is not None or trainer_command is not None
        self._pipeline = Pipeline(settings, registry, residents, trainer_command)
        self._running_limit = running_limit
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._lock: BinaryIO | None = None

    async def start(self) -> None:
        """Go on with what an earlier server left: re-attach to living trainers, resume dead ones.

        Raises:
            Conflict: another server runs on this home.
        """
        lock = (self._registry.home / "server.lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise Conflict(
                f"Another llamaleon server runs on {self._registry.home}: stop it, or use another --home."
            ) from None
        self._lock = lock
        await asyncio.to_thread(self._registry.sweep)
        for record in self.store.unfinished():
            sidecar = self._pipeline.sidecar(record.id)
            if sidecar.stopping:  # the server died while the job was being cancelled
                self.cancel(record.id)
            elif record.status == PAUSED and sidecar.alive():
                self._watch(record, self._pipeline.leave(record.id))
        for job_id in self._pipeline.uncleared():
            self._clear(job_id)
        self._schedule()

    async def close(self) -> None:
        """Stop watching. Trainers go on by themselves; the next server finds them."""
        tasks = [*self._tasks.values(), *self._stopping]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pipeline.release()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # ------------------------------------------------------------ requests

    def create(self, request: CreateJob) -> JobRecord:
        """Raises: BadRequest naming the field, ModelNotFound."""
        target = self._registry.resolve(request.model)
        requested, adapter = request.hyperparameters, adapter_of(target)
        if adapter is not None:
            requested = with_fixed(requested, fixed_by(adapter, target.base.name), request.method)
        self._check_reporters(request.integrations)
        self._check_file(request.training_file, "training_file")
        if request.validation_file is not None:
            self._check_file(request.validation_file, "validation_file")
        job_id = f"ftjob-{secrets.token_hex(12)}"
        record = JobRecord(
            id=job_id,
            created_at=int(time.time()),
            model=request.model,
            base=target.base.name,
            adapter=_adapter_name(request.suffix, job_id),
            suffix=request.suffix,
            training_file=request.training_file,
            validation_file=request.validation_file,
            seed=request.seed if request.seed is not None else secrets.randbelow(2**31),
            requested=requested,
            metadata=request.metadata,
            method=request.method,
            text_template=request.text_template,
            init_adapter=None if adapter is None else f"{adapter.adapter}@{adapter.version}",
            integrations=request.integrations,
            deploy=request.deploy,
        )
        with self.store.db.transaction():
            self.store.create(record)
            self.store.add_event(job_id, f"Created fine-tuning job: {job_id}", once="created")
        self._schedule()
        return record

    def pause(self, job_id: str) -> JobRecord:
        """It is paused at once; a trainer stops at its next step, with a checkpoint to go on from.

        Raises:
            NotFound: no such job.
            BadRequest: it has ended.
        """
        record = self._unfinished(job_id)
        if record.status == PAUSED:
            return record
        if record.stage == TRAINING:
            self._pipeline.sidecar(job_id).ask_to_pause()  # first: whatever happens to us now, it stops
        with self.store.db.transaction():
            record = self.store.update(job_id, status=PAUSED, estimated_finish=None)
            self.store.add_event(job_id, "The job was paused", level="warn")
        self._schedule()
        return record

    def resume(self, job_id: str) -> JobRecord:
        """It takes its old place in the queue, and goes on where it stopped.

        Raises:
            NotFound: no such job.
            BadRequest: it is not paused.
        """
        record = self._unfinished(job_id)
        if record.status != PAUSED:
            raise BadRequest(
                f"Job {job_id} is not paused: it is {record.status}.", param="fine_tuning_job_id"
            )
        with self.store.db.transaction():
            status = VALIDATING if record.stage == FIRST else QUEUED
            record = self.store.update(job_id, status=status)
            self.store.add_event(job_id, "The job was resumed")
        self._schedule()
        return record

    def cancel(self, job_id: str) -> JobRecord:
        """The job is cancelled at once; its trainer stops at its next step.

        Raises:
            NotFound: no such job.
            BadRequest: it has ended.
        """
        self._unfinished(job_id)
        sidecar = self._pipeline.sidecar(job_id)
        if sidecar.directory.is_dir():
            sidecar.ask_to_stop()  # first: whatever happens to us now, the trainer ends, and so will the job
        with self.store.db.transaction():
            record = self.store.update(
                job_id, status=CANCELLED, finished_at=int(time.time()), estimated_finish=None
            )
            self.store.add_event(job_id, "The job was cancelled", level="warn", once="was-cancelled")
        task = self._tasks.pop(job_id, None)
        if task is not None:
            task.cancel()
        if sidecar.directory.is_dir():
            self._clear(job_id)
        self._schedule()
        return record

    def _clear(self, job_id: str) -> None:
        stopping = asyncio.create_task(self._pipeline.clear(job_id))
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopped)

    def _unfinished(self, job_id: str) -> JobRecord:
        record = self.store.get(job_id)
        if record.ended:
            raise BadRequest(
                f"Job {job_id} has already ended: it is {record.status}.", param="fine_tuning_job_id"
            )
        return record

    def _check_reporters(self, integrations: list[dict[str, Any]]) -> None:
        """Before anything is validated or trained. Another interpreter's packages the trainer itself sees."""
        for number, one in enumerate(integrations):
            name = REPORTER_PACKAGES[one["type"]]
            if not self._trainer_is_elsewhere and importlib.util.find_spec(name) is None:
                raise BadRequest(
                    f"`integrations[{number}]`: {name} is not installed where the trainer runs: pip install "
                    f"{name}.",
                    param=f"integrations[{number}]",
                )

    def _check_file(self, file_id: str, param: str) -> None:
        try:
            file = self._registry.files.get(file_id, param)
        except NotFound as error:
            raise BadRequest(f"invalid {param}: {file_id} does not exist.", param=param) from error
        if file.purpose != FINE_TUNE:
            raise BadRequest(
                f"invalid {param}: {file_id} has purpose '{file.purpose}', not '{FINE_TUNE}'.", param=param
            )

    # ------------------------------------------------------------ the queue

    def _schedule(self) -> None:
        """Start whatever may run now: one validation, running jobs again, queued jobs while there is room."""
        if self._lock is None:
            return
        unfinished = [record for record in self.store.unfinished() if record.id not in self._tasks]
        # One that was paused or cancelled counts as long as it still has the machine.
        busy = [self.store.get(job_id).stage for job_id in self._tasks]
        validating = busy.count(FIRST)
        running = len(busy) - validating + len(self._stopping)
        for record in unfinished:
            if record.status == RUNNING:
                self._begin(record)
                running += 1
        for record in unfinished:
            if record.status == QUEUED and running < self._running_limit:
                self._begin(self.store.update(record.id, status=RUNNING))
                running += 1
            elif record.status == VALIDATING and not validating:
                self._begin(record)
                validating += 1

    def _begin(self, record: JobRecord) -> None:
        work = self._pipeline.validate if record.status == VALIDATING else self._pipeline.run
        self._watch(record, work(record.id))

    def _watch(self, record: JobRecord, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=record.id)
        self._tasks[record.id] = task
        task.add_done_callback(lambda done: self._ended(record.id, done))

    def _ended(self, job_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(job_id) is not task:  # cancelled, or the server is closing
            return
        del self._tasks[job_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job %s", job_id, exc_info=error)
            # Not even its failure could be recorded: what is wrong (a full disk) will not be right at once.
            asyncio.get_running_loop().call_later(AGAIN_S, self._schedule)
        else:
            self._schedule()

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._stopping.discard(task)
        if not task.cancelled():
            if (error := task.exception()) is not None:
                log.error("a cancelled job", exc_info=error)
            self._schedule()


def _adapter_name(suffix: str | None, job_id: str) -> str:
    if suffix is None or suffix == "":
        return f"ft-{job_id[-8:]}"
    if len(suffix) > MAX_SUFFIX:
        raise BadRequest(
            f"`suffix` has {len(suffix)} characters, at most {MAX_SUFFIX} are allowed.", param="suffix"
        )
    return check_adapter_name(suffix)
