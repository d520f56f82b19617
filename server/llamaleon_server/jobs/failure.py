"""Why a job ends as `failed`."""

from __future__ import annotations


class JobFailed(Exception):
    """Becomes the job's `error`: `code`, the message, and the request field it is about."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
