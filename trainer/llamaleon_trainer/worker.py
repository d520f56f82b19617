"""`python -m llamaleon_trainer.worker JOB_DIR RANK PARENT`: a rank of a job of several processes.

Exit status: 0 done; 1 failed, with the reason in a file that the parent reads.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

import msgspec

from .events import EventWriter, SilentWriter
from .inputs import read_inputs
from .job import write_atomic
from .launch import Failure, die_with_parent, failure_path, meeting_path
from .process import StopRequest, why_failed
from .reporting import reporting


def main(arguments: list[str]) -> int:
    job_dir, rank, parent = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    die_with_parent()
    stop = StopRequest(job_dir)
    events = SilentWriter() if rank else EventWriter(job_dir / "events.jsonl")
    try:
        inputs = read_inputs(job_dir)
        from .parallel import join, leave  # torch and transformers: seconds
        from .recipe import run

        with nullcontext() if rank else reporting(inputs.spec, job_dir, events):
            ranks = join(inputs.spec, rank, meeting_path(job_dir, parent))
            run(job_dir, inputs, events, stop, ranks)
        leave()
    except Exception as error:
        traceback.print_exc()
        failure = Failure(*why_failed(error))
        write_atomic(failure_path(job_dir, rank), msgspec.json.encode(failure))
        return 1
    finally:
        events.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
