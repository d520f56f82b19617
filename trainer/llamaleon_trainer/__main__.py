"""`python -m llamaleon_trainer JOB_DIR`: the process of one job, whose files job.py lists.

Exit status: 0 finished, cancelled or paused; 1 failed, with a `failed` event; 2 not begun (no such directory,
or another trainer holds the job), said on standard error and in no event.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from .events import EventWriter
from .inputs import read_inputs
from .launch import run_ranks
from .lock import JobLocked, job_lock
from .process import StopRequest, why_failed
from .reporting import reporting

# How OpenMP's threads wait for one another. By default they spin for long: beside a busy program (an engine
# that serves) that made a step nine times slower. Sleeping at once took 1.4 times as long on an idle machine.
# A microsecond of spinning, then sleeping, has little of either. The engine does the same (binding/cores.py).
OPENMP_WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
# Tensors of 2 MiB and more begin at whole huge pages. Otherwise glibc (2.36) seldom gives a tensor the place
# that one of the same size left, since it looks for the alignment's 64 bytes more. Recomputing activations
# took a quarter less memory so, and a step 5 to 10 % less time: fewer pages are faulted in.
HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m llamaleon_trainer JOB_DIR   (an existing directory)", file=sys.stderr)
        return 2
    job_dir = Path(arguments[0])
    for settings in (OPENMP_WAITING, HUGE_PAGES):  # read once, when torch is loaded
        if not any(name in os.environ for name in settings):
            os.environ.update(settings)
    try:
        with job_lock(job_dir / "trainer.lock") as lock:
            _log_to(job_dir / "trainer.log")
            return _run(job_dir, lock)
    except JobLocked as error:
        print(error, file=sys.stderr)
        return 2


def _run(job_dir: Path, lock: int) -> int:
    stop = StopRequest(job_dir)
    events = EventWriter(job_dir / "events.jsonl")
    try:
        inputs = read_inputs(job_dir)
        if inputs.spec.processes > 1:
            return run_ranks(job_dir, inputs, events, stop, lock)
        with reporting(inputs.spec, job_dir, events):
            from .recipe import run  # torch and transformers: seconds

            run(job_dir, inputs, events, stop)
    except Exception as error:
        traceback.print_exc()
        code, message = why_failed(error)
        events.write("failed", code=code, message=message)
        return 1
    finally:
        events.close()
    return 0


def _log_to(path: Path) -> None:
    """Everything on standard error, torch's own included, goes to the job's log from here on."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
