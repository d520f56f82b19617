"""`python -m llamaleon_trainer JOB_DIR`: the process of one job, whose files job.py lists.

Exit status: 0 finished or cancelled; 1 failed, with a `failed` event; 2 not begun (no such directory, or
another trainer holds the job), said on standard error and in no event.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

from .errors import JobFailed, OutOfMemory
from .events import EventWriter
from .inputs import read_inputs
from .lock import JobLocked, job_lock

# How OpenMP's threads wait for one another. By default they spin for long: beside a busy program (an engine
# that serves) that made a step nine times slower. Sleeping at once took 1.4 times as long on an idle machine.
# A microsecond of spinning, then sleeping, has little of either. The engine does the same (binding/cores.py).
OPENMP_WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m llamaleon_trainer JOB_DIR   (an existing directory)", file=sys.stderr)
        return 2
    job_dir = Path(arguments[0])
    if not any(name in os.environ for name in OPENMP_WAITING):  # read once, when torch is loaded
        os.environ.update(OPENMP_WAITING)
    try:
        with job_lock(job_dir / "trainer.lock"):
            _log_to(job_dir / "trainer.log")
            return _run(job_dir)
    except JobLocked as error:
        print(error, file=sys.stderr)
        return 2


def _run(job_dir: Path) -> int:
    stop = _StopRequest(job_dir / "cancel")
    events = EventWriter(job_dir / "events.jsonl")
    try:
        inputs = read_inputs(job_dir)
        from .recipe import run  # torch and transformers: seconds

        run(job_dir, inputs, events, stop)
    except JobFailed as error:
        traceback.print_exc()
        events.write("failed", code=error.code, message=str(error))
    except ModuleNotFoundError as error:
        traceback.print_exc()
        message = f"{error}. Install what training needs: pip install 'llamaleon[train]'."
        events.write("failed", code="not_installed", message=message)
    except Exception as error:
        traceback.print_exc()
        code, message = _unexpected(error)
        events.write("failed", code=code, message=message)
    else:
        return 0
    finally:
        events.close()
    return 1


def _unexpected(error: Exception) -> tuple[str, str]:
    """(code, message) of what no part of the job foresaw."""
    if "torch" in sys.modules:
        from .device import is_out_of_memory

        if is_out_of_memory(error):  # outside a training step: the base itself does not fit
            return (
                OutOfMemory.code,
                f"the base does not fit into memory ({error}); use a smaller base or a GPU",
            )
    return JobFailed.code, f"{type(error).__name__}: {error} (the traceback is in trainer.log)"


class _StopRequest:
    """True once the job is to be cancelled: a file `cancel`, SIGTERM or SIGINT."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._signalled = False
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._signalled = True

    def __call__(self) -> bool:
        return self._signalled or self._file.exists()


def _log_to(path: Path) -> None:
    """Everything on standard error, torch's own included, goes to the job's log from here on."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
