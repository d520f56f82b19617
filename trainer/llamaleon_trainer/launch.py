"""The parent of a job's ranks: starts them, watches them, ends as they end. No torch here.

Ours rather than torchrun: the ranks hold the job's lock with their parent, none of them outlives it, and a
rank that was killed ends the job by a signal, which says "start me again" to whoever supervises it, as with
one process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from .events import EventWriter
from .inputs import Inputs
from .process import StopRequest

POLL_S = 0.05
GRACE_S = 5.0  # for the others to say why they fail as well, once one has


class Failure(Struct, frozen=True):
    """Why a rank gave up; written by it, told by the parent."""

    code: str
    message: str


def failure_path(job_dir: Path, rank: int) -> Path:
    return job_dir / f".rank-{rank}.failed.json"


def meeting_path(job_dir: Path, parent: int) -> Path:
    """Where the ranks of this parent find each other."""
    return job_dir / f".ranks-{parent}"


def run_ranks(job_dir: Path, inputs: Inputs, events: EventWriter, stop: StopRequest, lock: int) -> int:
    """Run the job in `processes` ranks, to its end. Returns the exit status of the whole.

    If a rank was killed the rest is, and then this process kills itself: the job goes on from its newest
    checkpoint when it is started again. `lock` is the descriptor of the job's lock.
    """
    count = inputs.spec.processes
    for rank in range(count):
        failure_path(job_dir, rank).unlink(missing_ok=True)
    meeting = meeting_path(job_dir, os.getpid())
    meeting.unlink(missing_ok=True)
    ranks = [_start(job_dir, rank, _threads(inputs, count), lock) for rank in range(count)]
    try:
        codes = _wait(ranks, stop)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
        meeting.unlink(missing_ok=True)
    if not any(codes):
        return 0
    if any(code < 0 for code in codes):
        print(f"a rank was killed (exit statuses {codes}); ending with it", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    failure = _reason(job_dir, count)
    events.write("failed", code=failure.code, message=failure.message)
    return 1


def die_with_parent() -> None:
    """A rank whose parent is gone must not go on: its standard input ends with it."""

    def watch() -> None:
        os.read(0, 1)  # returns at its end alone; `sys.stdin` has a lock that would hold up our own end
        os.kill(os.getpid(), signal.SIGKILL if os.name != "nt" else signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _start(job_dir: Path, rank: int, threads: int, lock: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llamaleon_trainer.worker", str(job_dir), str(rank), str(os.getpid())]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # never written: see die_with_parent
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        pass_fds=() if os.name == "nt" else (lock,),  # a new trainer begins when all of them are gone
    )


def _threads(inputs: Inputs, count: int) -> int:
    cores = inputs.spec.threads or psutil.cpu_count(logical=False) or 1
    return max(1, cores // count)


def _wait(ranks: Sequence[subprocess.Popen[bytes]], stop: StopRequest) -> list[int]:
    """Exit statuses, once all have ended or one has failed and the others had time to say why they do."""
    deadline, told = None, False
    while True:
        if stop.signalled and not told:
            ranks[0].terminate()  # it decides for all, at the next step
            told = True
        codes = [process.poll() for process in ranks]
        ended = [code for code in codes if code is not None]
        if len(ended) == len(ranks):
            return ended
        if any(ended) and deadline is None:
            deadline = time.monotonic() + (0.0 if min(ended) < 0 else GRACE_S)
        if deadline is not None and time.monotonic() >= deadline:
            return ended
        time.sleep(POLL_S)


def _reason(job_dir: Path, count: int) -> Failure:
    """Of all ranks' failures the one that is not merely of having lost another."""
    found = []
    for rank in range(count):
        with suppress(FileNotFoundError, msgspec.DecodeError):
            found.append(msgspec.json.decode(failure_path(job_dir, rank).read_bytes(), type=Failure))
    for rank in range(count):
        failure_path(job_dir, rank).unlink(missing_ok=True)
    named = [failure for failure in found if failure.code != "internal"]
    return [*named, *found, Failure("internal", "a rank ended without a word (see trainer.log)")][0]
