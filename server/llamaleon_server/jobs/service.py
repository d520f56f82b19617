"""The fine-tuning service: jobs are created, validated and queued here, and run one at a time."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import secrets
import time
from typing import BinaryIO

from llamaleon_server.errors import BadRequest, Conflict, NotFound
from llamaleon_server.jobs.pipeline import Pipeline
from llamaleon_server.registry.files import FINE_TUNE
from llamaleon_server.registry.jobstore import (
    CANCELLED,
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
        self._lock = (self._registry.home / "server.lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Conflict(
                f"Another llamaleon server runs on {self._registry.home}: stop it, or use another --home."
            ) from None
        await asyncio.to_thread(self._registry.sweep)
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

    # ------------------------------------------------------------ requests

    def create(self, request: CreateJob) -> JobRecord:
        """Raises: BadRequest naming the field, ModelNotFound."""
        target = self._registry.resolve(request.model)
        if target.adapters:
            raise BadRequest(
                f"`{request.model}` is an adapter: training starts from a base. Use `{target.base.name}`.",
                param="model",
            )
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
            requested=request.hyperparameters,
            metadata=request.metadata,
        )
        with self.store.db.transaction():
            self.store.create(record)
            self.store.add_event(job_id, f"Created fine-tuning job: {job_id}", once="created")
        self._schedule()
        return record

    async def cancel(self, job_id: str) -> JobRecord:
        """The job is cancelled at once; its trainer stops at its next step.

        Raises:
            NotFound: no such job.
            BadRequest: it has ended.
        """
        record = self.store.get(job_id)
        if record.ended:
            raise BadRequest(
                f"Job {job_id} has already ended: it is {record.status}.", param="fine_tuning_job_id"
            )
        sidecar = self._pipeline.sidecar(job_id)
        if sidecar.directory.is_dir():
            sidecar.ask_to_stop()  # first: whatever happens to us now, the trainer ends
        with self.store.db.transaction():
            record = self.store.update(
                job_id, status=CANCELLED, finished_at=int(time.time()), estimated_finish=None
            )
            self.store.add_event(job_id, "The job was cancelled", level="warn", once="was-cancelled")
        task = self._tasks.pop(job_id, None)
        if task is not None:
            task.cancel()
            stopping = asyncio.create_task(sidecar.stopped())
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)
        self._schedule()
        return record

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
        busy = [self.store.get(job_id).status for job_id in self._tasks]
        validating, running = busy.count(VALIDATING), len(busy) - busy.count(VALIDATING)
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
        task = asyncio.create_task(work(record.id), name=record.id)
        self._tasks[record.id] = task
        task.add_done_callback(lambda done: self._ended(record.id, done))

    def _ended(self, job_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(job_id) is not task:  # cancelled, or the server is closing
            return
        del self._tasks[job_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job %s", job_id, exc_info=error)
        self._schedule()


def _adapter_name(suffix: str | None, job_id: str) -> str:
    if suffix is None or suffix == "":
        return f"ft-{job_id[-8:]}"
    if len(suffix) > MAX_SUFFIX:
        raise BadRequest(
            f"`suffix` has {len(suffix)} characters, at most {MAX_SUFFIX} are allowed.", param="suffix"
        )
    return check_adapter_name(suffix)
