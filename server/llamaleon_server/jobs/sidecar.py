"""The training process of one job: started in a session of its own, found again, watched, restarted.

It outlives the API. Whether it runs is told by the lock that it holds and the process id that we wrote down.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from llamaleon_server.jobs.failure import JobFailed

log = logging.getLogger(__name__)

POLL_S = 0.1
MAX_RESTARTS = 5
RESTART_PAUSE_S = 0.5
STOP_GRACE_S = 20.0
LOG_LINES = 6
PID_FILE = "trainer.pid"
LOCK_FILE = "trainer.lock"
LOG_FILE = "trainer.log"
CANCEL_FILE = "cancel"
PAUSE_FILE = "pause"


class Word(Enum):
    """What the trainer has said last."""

    GOING = "going"
    PAUSED = "paused"  # it stopped in order, at a checkpoint
    DONE = "done"


class Identity(Struct, frozen=True):
    """A process beyond doubt: ids are used again, start times are not."""

    pid: int
    started: float  # seconds since the epoch


class Sidecar:
    def __init__(self, directory: Path, command: Sequence[str] | None = None) -> None:
        self.directory = directory
        self._command = tuple(command or (sys.executable, "-m", "llamaleon_trainer"))
        self._child: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()  # who looks whether it is alive waits for one that is being started

    def start(self) -> None:
        """Unless it was asked to stop meanwhile. Raises: JobFailed if there is no such command."""
        with self._starting:
            if not self.stopping:
                self._start()

    def _start(self) -> None:
        with (self.directory / LOG_FILE).open("ab") as output:
            try:
                self._child = subprocess.Popen(
                    [*self._command, str(self.directory)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except OSError as error:
                raise JobFailed(
                    "trainer_missing", f"The trainer {self._command[0]} cannot be started: {error}"
                ) from error
        try:
            identity = Identity(self._child.pid, psutil.Process(self._child.pid).create_time())
        except psutil.NoSuchProcess:
            return
        (self.directory / PID_FILE).write_bytes(msgspec.json.encode(identity))

    def alive(self) -> bool:
        with self._starting:
            if self._child is not None:
                return self._child.poll() is None
        return self._process() is not None or self._locked()

    @property
    def exit_code(self) -> int | None:
        """Of a process that we started and that has ended; negative for a signal."""
        return None if self._child is None else self._child.poll()

    @property
    def begun(self) -> bool:
        """It was started before, by this server or an earlier one."""
        return (self.directory / PID_FILE).exists()

    def found_another(self) -> bool:
        """Our start lost against a trainer that already held the job: from now on watch that one."""
        if not self._locked():
            return False
        self._child = None
        return True

    def how_it_died(self) -> str:
        code = self.exit_code
        if code is None:
            return "while no server was watching"
        return f"by signal {-code}" if code < 0 else "it was told to stop"

    def release(self) -> None:
        """This server ends and the trainer goes on: it is nobody's child any more, and that is no mistake."""
        if self._child is not None:
            if self._child.poll() is None:
                job, pid = self.directory.name, self._child.pid
                log.warning(
                    "%s goes on training in process %d; start the server again to follow it", job, pid
                )
            self._child.returncode = self._child.poll() or 0
            self._child = None

    def last_words(self) -> str:
        path = self.directory / LOG_FILE
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join([line for line in lines if line.strip()][-LOG_LINES:])

    def ask_to_stop(self) -> None:
        """The trainer looks for this file at every step. It also stops one that nobody watches any more."""
        (self.directory / CANCEL_FILE).touch()

    @property
    def stopping(self) -> bool:
        return (self.directory / CANCEL_FILE).exists()

    def ask_to_pause(self) -> None:
        """The same, with a checkpoint to go on from. It has the time that it takes: a step may be long."""
        (self.directory / PAUSE_FILE).touch()

    @property
    def pausing(self) -> bool:
        return (self.directory / PAUSE_FILE).exists()

    def unpause(self) -> None:
        """Once it has left, before it is started again: that it left was no death."""
        self._child = None
        (self.directory / PID_FILE).unlink(missing_ok=True)
        (self.directory / PAUSE_FILE).unlink(missing_ok=True)

    async def stopped(self, grace_s: float = STOP_GRACE_S) -> None:
        """Wait until it has stopped; after `grace_s`, end it."""
        deadline = asyncio.get_running_loop().time() + grace_s
        while self.alive():
            if asyncio.get_running_loop().time() > deadline:
                self._kill()
                deadline += grace_s
            await asyncio.sleep(POLL_S)

    def _kill(self) -> None:
        pid = self._child.pid if self._child is not None else None
        if pid is None and (process := self._process()) is not None:
            pid = process.pid
        if pid is not None and self.alive():
            log.warning("the trainer %d of %s does not stop: ending it", pid, self.directory.name)
            os.kill(pid, signal.SIGKILL)

    def _process(self) -> psutil.Process | None:
        """The process that an earlier server wrote down, if it still runs."""
        try:
            identity = msgspec.json.decode((self.directory / PID_FILE).read_bytes(), type=Identity)
            process = psutil.Process(identity.pid)
            same = abs(process.create_time() - identity.started) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (FileNotFoundError, msgspec.DecodeError, psutil.NoSuchProcess):
            return None

    def _locked(self) -> bool:
        try:
            with (self.directory / LOCK_FILE).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


async def supervise(
    sidecar: Sidecar,
    ingest: Callable[[], Awaitable[Word]],
    restarts: int,
    on_restart: Callable[[int, str], None],
) -> bool:
    """Keep the trainer running until `ingest`, which records its new events, says that it is done.

    A trainer that was killed, or told to stop by a signal, is started again and goes on from its newest
    checkpoint; `on_restart` gets the count and how it died. The task may be cancelled: the trainer goes on
    alone.

    Returns: False if it was asked to pause, and has.

    Raises:
        JobFailed: the trainer ended without saying so in an event, or was killed too often.
    """
    try:
        done = await _until_done(sidecar, ingest, restarts, on_restart)
    except JobFailed:
        await sidecar.stopped()
        raise
    await sidecar.stopped()
    return done


async def _until_done(
    sidecar: Sidecar,
    ingest: Callable[[], Awaitable[Word]],
    restarts: int,
    on_restart: Callable[[int, str], None],
) -> bool:
    while await ingest() is not Word.DONE:
        if not await asyncio.to_thread(sidecar.alive):
            word = await ingest()  # its last event may have come between the two looks
            if word is Word.DONE:
                break
            if sidecar.pausing:
                return False
            if word is not Word.PAUSED:
                _raise_if_ended(sidecar)
            if sidecar.begun:
                restarts += 1
                if restarts > MAX_RESTARTS:
                    raise JobFailed(
                        "trainer_died",
                        f"The trainer died {restarts} times. Its last words: {sidecar.last_words() or '-'}",
                    )
                on_restart(restarts, sidecar.how_it_died())
                await asyncio.sleep(RESTART_PAUSE_S)
            await asyncio.to_thread(sidecar.start)
        await asyncio.sleep(POLL_S)
    return True


def _raise_if_ended(sidecar: Sidecar) -> None:
    """A trainer that exits by itself has given up; starting it again would only repeat that."""
    code = sidecar.exit_code
    if code is not None and code >= 0 and not sidecar.found_another():
        words = sidecar.last_words() or "it said nothing"
        raise JobFailed("trainer_failed", f"The trainer ended with exit status {code}: {words}")
