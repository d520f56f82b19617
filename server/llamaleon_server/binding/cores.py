"""Which cores llama.cpp's threads run on and how they wait for each other: settled before it is loaded.

They meet some thousand times in a pass, and OpenMP, which reads its environment once, leaves much to lose:

- Sleeping at each meeting is cheap for others and slow: two cores gave 26 tokens a second instead of 47.
- Spinning for long, OpenMP's default, is fast until another program wants a core: then each meeting lasts a
  time slice, and 28 tokens a second became 9.
- Spinning a microsecond and then sleeping is as fast as the default, if the threads stay on cores of their
  own: the kernel likes to wake a thread on the core of the one that woke it, where both then take turns.

`python -m tests.bench waiting` measures it.
"""

from __future__ import annotations

import os

import psutil

SPINS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
BOUND = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}

# As it was given to this process: OpenMP will bind the main thread to one of them.
_allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def available_cores() -> int:
    """Physical cores that this process may use; on two or fewer, whatever it may use."""
    allowed = len(_allowed) if _allowed is not None else os.cpu_count() or 1
    if allowed <= 2:
        return allowed
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def settle(threads: int) -> None:
    """Choose how `threads` threads wait, unless the environment says so. Before llama.cpp is loaded.

    They are bound to cores only if they take all there are: two engines of half as many threads would
    otherwise be bound to the same half.
    """
    if any(name in os.environ for name in SPINS):
        return
    os.environ.update(SPINS)
    if threads >= available_cores():
        for name, value in BOUND.items():
            os.environ.setdefault(name, value)


def roam() -> None:
    """Let the calling thread run on any core: it inherits the one that the main thread is bound to."""
    if _allowed is not None:
        os.sched_setaffinity(0, _allowed)
