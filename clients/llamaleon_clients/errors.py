"""What may go wrong on this side, light to import: one clear line for the user, never a traceback.

ClientError
├── BadInput            a file or an option that cannot be used
├── ServerUnreachable   nobody answers at the URL
├── StartFailed         a server was started and did not come up
└── ServerRefused       the server answered with an error
"""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """Base of every expected failure. `str()` is what the user reads."""


class BadInput(ClientError):
    """A file or an option that cannot be used; the message names it."""


class ServerUnreachable(ClientError):
    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no server answers at {url} ({reason}). Start one with `llamaleon serve`.")
        self.url = url


class StartFailed(ClientError):
    """A background server did not come up; the message carries the end of its log."""


class ServerRefused(ClientError):
    """The error body of the server, with its status code."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message if param is None or param in message else f"{message} (field: {param})")
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    @classmethod
    def from_body(cls, status: int, body: Any) -> ServerRefused:
        """OpenAI's `{"error": {...}}`; any other body is quoted, because another program answered."""
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict):
            return cls(status, f"the server answered {status}: {str(body)[:300]}")
        return cls(
            status,
            str(error.get("message") or f"the server answered {status}"),
            param=error.get("param"),
            code=error.get("code"),
        )
