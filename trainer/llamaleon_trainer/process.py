"""Besides training, a process heeds requests to stop and says why it failed. Loads no torch."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Literal

from .errors import JobFailed, NotInstalled, OutOfMemory


class StopRequest:
    """Why the job is to stop at its next step, if it is: a file `cancel` or `pause`.

    SIGTERM and SIGINT pause: a machine that is shut down ends no job.
    """

    def __init__(self, job_dir: Path) -> None:
        self._cancel, self._pause = job_dir / "cancel", job_dir / "pause"
        self.signalled = False
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self.signalled = True

    def __call__(self) -> Literal["cancelled", "paused"] | None:
        if self._cancel.exists():
            return "cancelled"
        return "paused" if self.signalled or self._pause.exists() else None


def why_failed(error: Exception) -> tuple[str, str]:
    """(code, message) of the `failed` event."""
    if isinstance(error, JobFailed):
        return error.code, str(error)
    if isinstance(error, ModuleNotFoundError):
        return NotInstalled.code, f"{error}. Install what training needs: pip install 'llamaleon[train]'."
    if "torch" in sys.modules:
        from .device import is_out_of_memory

        if is_out_of_memory(error):  # outside a training step: the base itself does not fit
            return (
                OutOfMemory.code,
                f"the base does not fit into memory ({error}); use `base_weights` gguf, a smaller base, or a "
                "device with more memory",
            )
    return JobFailed.code, f"{type(error).__name__}: {error} (the traceback is in trainer.log)"
