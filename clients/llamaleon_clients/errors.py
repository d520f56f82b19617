"""What may go wrong on this side, light to import: one clear line for the user, never a traceback.

ClientError
├── BadInput            a file or an option that cannot be used
├── FileTrouble         a file that the system does not let us read or write
├── CommandRefused      another program of ours, run for this command, refused
├── ServerUnreachable   nobody answers at the URL
├── StartFailed         a server was started and did not come up
└── ServerRefused       the server answered with an error
"""

from __future__ import annotations

import json
from typing import Any

from llamaleon_clients.words import say


class ClientError(Exception):
    """Base of every expected failure. `str()` is what the user reads."""

    def body(self) -> dict[str, Any]:
        """What `--json` writes on standard error: OpenAI's error body, with the fields that are known."""
        fields = {name: getattr(self, name, None) for name in ("code", "param", "status")}
        message = str(getattr(self, "message", self))
        known = {name: value for name, value in fields.items() if value is not None}
        return {"error": {"message": message, **known}}


class BadInput(ClientError):
    """A file or an option that cannot be used; the message names it."""


class FileTrouble(ClientError):
    def __init__(self, error: OSError) -> None:
        """`error` names a file."""
        super().__init__(f"{error.filename}: {error.strerror or error}")


class CommandRefused(ClientError):
    """What a program that prints its errors as JSON said on standard error."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code

    @classmethod
    def from_output(cls, text: str) -> CommandRefused:
        """The error body in the last line of `text`; another text as it is."""
        try:
            error = json.loads(text.strip().rpartition("\n")[2])["error"]
            return cls(str(error["message"]), param=error.get("param"), code=error.get("code"))
        except (ValueError, KeyError, TypeError):
            return cls(text.strip())


class ServerUnreachable(ClientError):
    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            say(
                "no server answers at {url} ({reason}). Start one with `llamaleon serve`.",
                url=url,
                reason=reason,
            )
        )
        self.url = url
        self.code = "server_unreachable"


class StartFailed(ClientError):
    """A background server did not come up; the message carries the end of its log."""


class ServerRefused(ClientError):
    """The error body of the server, with its status code."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        named = param is None or param in message
        super().__init__(
            message if named else say("{message} (field: {param})", message=message, param=param)
        )
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    @classmethod
    def from_body(cls, status: int, body: Any) -> ServerRefused:
        """OpenAI's `{"error": {...}}`; any other body is quoted, because another program answered."""
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict):
            quoted = str(body)[:300]
            return cls(status, say("the server answered {status}: {body}", status=status, body=quoted))
        return cls(
            status,
            str(error.get("message") or say("the server answered {status}", status=status)),
            param=error.get("param"),
            code=error.get("code"),
        )
