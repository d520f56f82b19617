"""The body that a failure has in the protocol that was spoken."""

from __future__ import annotations

import logging
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from llamaleon_server.errors import LlamaleonError
from llamaleon_server.web.middleware import REQUEST_ID

log = logging.getLogger(__name__)

# https://docs.claude.com/en/api/errors
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def openai_body(
    message: str, *, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def path_of(scope: Scope) -> str:
    """The path within this application, wherever it is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def is_anthropic(scope: Scope) -> bool:
    """Their models list has OpenAI's path; only the header tells."""
    path = path_of(scope)
    listing = path == "/v1/models" or path.startswith("/v1/models/")
    return path.startswith("/v1/messages") or (listing and "anthropic-version" in Headers(scope=scope))


def error_body_for(scope: Scope, error: LlamaleonError) -> dict[str, Any]:
    return in_protocol(scope, error.body(), error.status)


def failed_stream(scope: Scope, error: Exception) -> dict[str, Any]:
    """What ends a stream that had already begun; a mistake of ours goes to the log as well."""
    if isinstance(error, LlamaleonError):
        return error_body_for(scope, error)
    log.error("a stream failed", exc_info=error)
    return in_protocol(scope, internal_error(), 500)


def internal_error() -> dict[str, Any]:
    return openai_body("The server made a mistake; its log says which.", kind="server_error")


def in_protocol(scope: Scope, body: dict[str, Any], status: int) -> dict[str, Any]:
    """`body` is OpenAI's error body."""
    message = body["error"]["message"]
    if is_anthropic(scope):
        other = "invalid_request_error" if status < 500 else "api_error"
        shown: dict[str, Any] = {"type": ANTHROPIC_TYPES.get(status, other), "message": message}
        if body["error"]["code"] is not None:
            shown["details"] = {"error_code": body["error"]["code"]}
        return {"type": "error", "error": shown, "request_id": scope.get(REQUEST_ID)}
    if path_of(scope).startswith("/api/"):
        return {"error": message}
    return body
