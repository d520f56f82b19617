"""The batches of a server: made, continued after a restart, cancelled."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time

import msgspec

from llamaleon_server.batches.run import AT_ONCE, Call, Run
from llamaleon_server.errors import BadRequest, NotFound, StorageFull
from llamaleon_server.registry.batches import (
    CANCELLED,
    CANCELLING,
    FAILED,
    IN_PROGRESS,
    VALIDATING,
    BatchRecord,
    BatchStore,
    LineError,
)
from llamaleon_server.registry.files import FileStore
from llamaleon_server.wire.batches import WINDOW_S, CreateBatch

log = logging.getLogger(__name__)

BATCH_PURPOSE = "batch"


class Batches:
    """Requests of batches wait for each other, so that interactive ones need not wait for many of them.

    At most a quarter of what an engine runs at once, and never more than a few, are of batches.
    """

    def __init__(self, store: BatchStore, files: FileStore, call: Call, parallel: int) -> None:
        self._store = store
        self._files = files
        self._call = call
        self._gate = asyncio.Semaphore(max(1, min(AT_ONCE, parallel // 4)))
        self._runs: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._cancelling = asyncio.Lock()  # of two at once, the second finds what the first has done

    def start(self) -> None:
        """Go on with what an earlier server left."""
        for record in self._store.unfinished():
            self._begin(record.id)

    async def close(self) -> None:
        """Stop; the next server goes on."""
        tasks = [task for _, task in self._runs.values()]
        self._runs.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def create(self, request: CreateBatch, granted: str) -> BatchRecord:
        """`granted`: what the creator's key may do, and so each of the requests. Raises: BadRequest."""
        try:
            file = self._files.get(request.input_file_id, "input_file_id")
        except NotFound as error:
            raise BadRequest(error.message, param="input_file_id") from error
        if file.purpose != BATCH_PURPOSE:
            raise BadRequest(
                f"{file.id} has the purpose '{file.purpose}', not '{BATCH_PURPOSE}'.", param="input_file_id"
            )
        now = int(time.time())
        lasting = request.output_expires_after
        record = BatchRecord(
            id=f"batch_{secrets.token_hex(12)}",
            created_at=now,
            endpoint=request.endpoint,
            input_file_id=file.id,
            completion_window=request.completion_window,
            expires_at=now + WINDOW_S,
            granted=granted,
            metadata=request.metadata,
            output_expires_s=None if lasting is None else lasting.seconds,
        )
        self._store.add(record)
        self._begin(record.id)
        return record

    def get(self, batch_id: str) -> BatchRecord:
        """Raises: NotFound."""
        return self._counted(self._store.get(batch_id))

    def page(self, *, after: str | None, limit: int) -> tuple[list[BatchRecord], bool]:
        """Newest first: one page, and whether there is more. Raises: NotFound for `after`."""
        page, more = self._store.page(after=after, limit=limit)
        return [self._counted(record) for record in page], more

    async def cancel(self, batch_id: str) -> BatchRecord:
        """It is `cancelling` until its files are written. Raises: NotFound, BadRequest if it has ended."""
        async with self._cancelling:
            return await self._cancel(batch_id)

    # ------------------------------------------------------------ inside

    async def _cancel(self, batch_id: str) -> BatchRecord:
        record = self._store.get(batch_id)
        if record.status == CANCELLING:
            return self.get(batch_id)
        if record.status not in {VALIDATING, IN_PROGRESS}:
            raise BadRequest(
                f"Batch '{batch_id}' is {record.status}: it cannot be cancelled.", param="batch_id"
            )
        found = self._runs.pop(batch_id, None)  # it is not there if it met an unforeseen end
        if found is not None:
            found[1].cancel()
            await asyncio.wait([found[1]])
        # Its validation cannot be interrupted, only left: there is nothing to write then.
        status = CANCELLED if record.status == VALIDATING else CANCELLING
        now = int(time.time())
        times = {**record.times, CANCELLING: now} | ({CANCELLED: now} if status == CANCELLED else {})
        try:
            record = self._store.update(batch_id, status=status, times=times)
        except StorageFull:  # it was not cancelled, and goes on
            self._begin(batch_id)
            raise
        if status == CANCELLING:
            self._begin(batch_id)
        return record

    def _counted(self, record: BatchRecord) -> BatchRecord:
        run, _ = self._runs.get(record.id, (None, None))
        counts = None if run is None or record.ended else run.counts
        return record if counts is None else msgspec.structs.replace(record, counts=counts)

    def _begin(self, batch_id: str) -> None:
        run = Run(batch_id, self._store, self._files, self._call, self._gate)
        task = asyncio.create_task(run.run(), name=batch_id)
        self._runs[batch_id] = run, task
        task.add_done_callback(lambda done: self._ended(batch_id, done))

    def _ended(self, batch_id: str, task: asyncio.Task[None]) -> None:
        found = self._runs.get(batch_id)
        if found is None or found[1] is not task:  # cancelled, or the server is closing
            return
        del self._runs[batch_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("batch %s", batch_id, exc_info=error)
            mistake = LineError(code="server_error", message="The server made a mistake; its log says which.")
            times = {**self._store.get(batch_id).times, FAILED: int(time.time())}
            self._store.update(batch_id, status=FAILED, times=times, errors=[mistake])
