"""One trainer a job: a lock that the system releases however the process ends. No torch here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

WINDOWS_LOCKED_BYTE = 1 << 30  # far behind the pid, which others may read: Windows locks are mandatory


class JobLocked(Exception):
    """Another trainer works on this job."""


@contextmanager
def job_lock(path: Path) -> Iterator[int]:
    """Hold the lock, with this process's id in the file. Gives its descriptor: who inherits it holds it too.

    Raises:
        JobLocked: another process holds it.
    """
    with path.open("a+b") as file:
        try:
            _lock_soon(file)
        except OSError as error:
            file.seek(0)
            holder = file.read(20).decode(errors="replace").strip()
            raise JobLocked(f"{path.parent} is being trained by process {holder}") from error
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        yield file.fileno()


def _lock_soon(file: BinaryIO) -> None:
    """A server that looks whether the lock is held holds it for an instant itself: try more than once."""
    for pause_s in (0.05, 0.1, 0.2):
        try:
            return _lock(file)
        except OSError:
            time.sleep(pause_s)
    return _lock(file)


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(WINDOWS_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
