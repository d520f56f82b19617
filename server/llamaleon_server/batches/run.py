"""One batch, from its validation to its files."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from llamaleon_server.batches import lines
from llamaleon_server.batches.results import RequestError, Response, Result, Results
from llamaleon_server.errors import LlamaleonError, NotFound, StorageFull
from llamaleon_server.registry.batches import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    EXPIRED,
    FAILED,
    FINALIZING,
    IN_PROGRESS,
    VALIDATING,
    BatchRecord,
    BatchStore,
    Counts,
    LineError,
)
from llamaleon_server.registry.files import FileStore

log = logging.getLogger(__name__)

OUTPUT_PURPOSE = "batch_output"
AT_ONCE = 4  # requests of all batches together; `Batches` makes it fewer where little can run at once
TRY_AGAIN = frozenset({429, 503})  # the queue is full, or the engine is starting again
ROOM_WAIT_S = 30.0  # between two looks at a full disk
TRIES, FIRST_WAIT_S, LONGEST_WAIT_S = 12, 1.0, 30.0
UNDONE = {
    CANCELLED: RequestError(code="batch_cancelled", message="This batch was cancelled before it ran."),
    EXPIRED: RequestError(code="batch_expired", message="Its completion window ended before it ran."),
}


class Answered(msgspec.Struct, frozen=True):
    status: int
    request_id: str
    body: bytes


Call = Callable[[str, bytes, str], Awaitable[Answered]]
"""Answers a request to one of our own routes: path, body, and what its sender may do."""


class Run:
    def __init__(
        self, batch_id: str, store: BatchStore, files: FileStore, call: Call, gate: asyncio.Semaphore
    ) -> None:
        self.id = batch_id
        self._store = store
        self._files = files
        self._call = call
        self._gate = gate
        self._results: Results | None = None
        self._total = 0

    @property
    def counts(self) -> Counts | None:
        """Now; None before it began."""
        return None if self._results is None else self._results.counts(self._total)

    async def run(self) -> None:
        """Go on where it was, until it has ended. Where its files find no room, that is waited for."""
        while True:
            try:
                return await self._run()
            except StorageFull as error:
                log.warning("batch %s is tried again in %.0f s: %s", self.id, ROOM_WAIT_S, error)
                await asyncio.sleep(ROOM_WAIT_S)

    # ------------------------------------------------------------ inside

    async def _run(self) -> None:
        """Raises: StorageFull; what was done is kept, and it can be run again."""
        try:
            record = self._store.get(self.id)
            if record.status == VALIDATING:
                record = await self._validate(record)
            if record.ended:
                return
            self._total = record.counts.total
            try:
                await _to_the_end(self._open)
                await self._go_on(record)
            finally:
                if self._results is not None:
                    self._results.close()
        except StorageFull:
            raise
        except (LlamaleonError, OSError) as error:
            self._set(FAILED, errors=[_reason(self.id, error)])

    def _open(self) -> None:
        self._results = Results(self._store.results(self.id))

    def _set(self, status: str, **changes: object) -> BatchRecord:
        times = {**self._store.get(self.id).times, status: int(time.time())}
        return self._store.update(self.id, status=status, times=times, **changes)

    async def _validate(self, record: BatchRecord) -> BatchRecord:
        try:
            path = self._files.get(record.input_file_id, "input_file_id").path
            checked = await asyncio.to_thread(lines.check, path, record.endpoint)
        except (NotFound, OSError) as error:
            reason = LineError(code="missing_file", message=str(error), param="input_file_id")
            return self._set(FAILED, errors=[reason])
        if checked.errors:
            return self._set(FAILED, errors=checked.errors)
        return self._set(IN_PROGRESS, counts=Counts(total=checked.total), model=checked.model)

    async def _go_on(self, record: BatchRecord) -> None:
        if record.status == IN_PROGRESS:
            errors: list[LineError] = []
            try:
                end = await self._work(record)
            except StorageFull:
                raise
            except (LlamaleonError, OSError) as error:  # what was done is kept all the same
                end, errors = FAILED, [_reason(self.id, error)]
            record = self._set(FINALIZING, end=end, errors=errors)
        elif record.status == CANCELLING:
            record = self._store.update(self.id, end=CANCELLED)
        await _to_the_end(self._finalize, record)

    async def _work(self, record: BatchRecord) -> str:
        """Until every request has ended, or the time is up. Returns what the batch becomes."""
        path = self._files.get(record.input_file_id, "input_file_id").path
        waiting = lines.requests(path)
        try:
            async with asyncio.timeout(max(0.0, record.expires_at - time.time())):
                async with asyncio.TaskGroup() as workers:
                    for _ in range(AT_ONCE):
                        workers.create_task(self._worker(record, waiting))
        except TimeoutError:
            return EXPIRED
        except ExceptionGroup as group:  # the first is enough to say why
            raise group.exceptions[0] from group
        return COMPLETED

    async def _worker(self, record: BatchRecord, waiting: Iterator[tuple[int, lines.Request]]) -> None:
        assert self._results is not None
        for number, request in waiting:
            if number in self._results:
                continue
            async with self._gate:
                answered = await self._answer(record, bytes(request.body))
            body = msgspec.json.decode(answered.body) if answered.body else None
            response = Response(status_code=answered.status, request_id=answered.request_id, body=body)
            self._results.add(number, _result(request, response))

    async def _answer(self, record: BatchRecord, body: bytes) -> Answered:
        wait_s = FIRST_WAIT_S
        for _ in range(TRIES - 1):
            answered = await self._call(record.endpoint, body, record.granted)
            if answered.status not in TRY_AGAIN:
                return answered
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        return await self._call(record.endpoint, body, record.granted)

    def _finalize(self, record: BatchRecord) -> None:
        """Done again, it writes the same files once more."""
        assert self._results is not None
        if record.end in UNDONE:
            self._give_up(record)
        made = {
            "output_file_id": self._file(record, "output", succeeded=True),
            "error_file_id": self._file(record, "error", succeeded=False),
        }
        counts = self._results.counts(self._total)
        self._set(record.end, counts=counts, tokens=self._results.tokens, **made)
        self._results.remove()

    def _give_up(self, record: BatchRecord) -> None:
        """What was not run is told so; where the input has gone, what was done is kept all the same."""
        assert self._results is not None
        try:
            path = self._files.get(record.input_file_id, "input_file_id").path
        except NotFound as error:
            log.warning("batch %s: %s", self.id, error)
            return
        for number, request in lines.requests(path):
            if number not in self._results:
                self._results.add(number, _result(request, None, UNDONE[record.end]))

    def _file(self, record: BatchRecord, kind: str, *, succeeded: bool) -> str | None:
        assert self._results is not None
        upload = self._files.upload(2**63)
        upload.id = f"file-{record.id.removeprefix('batch_')}-{kind}"
        try:
            written = self._results.write(upload.write, succeeded=succeeded)
        except BaseException:
            upload.abort()
            raise
        if not written:
            upload.abort()
            return None
        lasting_s = record.output_expires_s
        expires = None if lasting_s is None else int(time.time()) + lasting_s
        return upload.commit(f"{record.id}_{kind}.jsonl", OUTPUT_PURPOSE, expires).id


async def _to_the_end(work: Callable[..., None], *args: object) -> None:
    """In a thread. It cannot be interrupted, so who is cancelled waits: its files are free only then."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _result(request: lines.Request, response: Response | None, error: RequestError | None = None) -> Result:
    name = f"batch_req_{secrets.token_hex(12)}"
    return Result(id=name, custom_id=request.custom_id, response=response, error=error)


def _reason(batch_id: str, error: LlamaleonError | OSError) -> LineError:
    log.warning("batch %s: %s", batch_id, error)
    code = (error.code or error.type) if isinstance(error, LlamaleonError) else "server_error"
    return LineError(code=code, message=str(error))
