"""Why a job failed. Each becomes one `failed` event that says what to do about it. No torch here.

JobFailed
├── BadJob           bad_job           the job directory breaks its contract
├── BaseUnsupported  base_unsupported  no exact way to load this base
├── BaseMismatch     base_mismatch     the base loaded is not the one that is served
├── NotInstalled     not_installed     a package that this job asks for
├── OutOfMemory      out_of_memory
└── Diverged         diverged          a loss that is not a number
"""

from __future__ import annotations

from typing import ClassVar


class JobFailed(Exception):
    """Base of every failure with a remedy; anything else is a bug and reported as `internal`."""

    code: ClassVar[str] = "internal"


class BadJob(JobFailed):
    code = "bad_job"


class BaseUnsupported(JobFailed):
    code = "base_unsupported"


class BaseMismatch(JobFailed):
    code = "base_mismatch"


class NotInstalled(JobFailed):
    code = "not_installed"

    @classmethod
    def of(cls, extra: str, what: str, error: ImportError) -> NotInstalled:
        """`extra` is ours that brings it."""
        return cls(f"{what} is not installed ({error}): pip install 'llamaleon[{extra}]'")


class OutOfMemory(JobFailed):
    code = "out_of_memory"


class Diverged(JobFailed):
    code = "diverged"
