"""The one place where failures become answers, in the error body of the protocol that was spoken."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from llamaleon_server.errors import LlamaleonError
from llamaleon_server.web.bodies import error_body_for, in_protocol, internal_error, openai_body
from llamaleon_server.web.middleware import CLIENT_CLOSED_REQUEST, REQUEST_ID
from llamaleon_server.web.unsupported import CODE, why_not

log = logging.getLogger(__name__)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")


async def foreseen(request: Request, error: Exception) -> Response:
    assert isinstance(error, LlamaleonError)
    body = error_body_for(request.scope, error)
    return json_response(body, error.status, error.headers())


async def of_http(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, wrong method, malformed multipart."""
    assert isinstance(error, HTTPException)
    message, code, status = error.detail, None, error.status_code
    known = why_not(request.url.path) if status in {404, 405} else None
    allowed = (error.headers or {}).get("Allow", "")
    if known is not None:
        message, code = f"{known} (Allow: {allowed})" if allowed else known, CODE
    elif status == 404:
        message, code = f"Invalid URL ({request.method} {request.url.path}).", "unknown_url"
    elif status == 405:
        message = f"Not allowed to {request.method} on {request.url.path} (Allow: {allowed})."
        code = "method_not_allowed"
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = openai_body(message, kind=kind, code=code)
    shown = in_protocol(request.scope, body, status)
    return json_response(shown, status, dict(error.headers or {}))


async def gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def unforeseen(request: Request, error: Exception) -> Response:
    """Last resort. Starlette raises the error again afterwards, so that the server logs its trace."""
    name = request.scope.get(REQUEST_ID)
    shown = in_protocol(request.scope, internal_error(), 500)
    return json_response(shown, 500, {REQUEST_ID: name} if name else None)


ERROR_HANDLERS: dict[Any, Any] = {
    LlamaleonError: foreseen,
    HTTPException: of_http,
    ClientDisconnect: gone,
    Exception: unforeseen,
}


def stream_error(error: Exception) -> dict[str, Any]:
    """The data of the event that ends a stream which had already begun."""
    if isinstance(error, LlamaleonError):
        return error.body()
    log.error("a stream failed", exc_info=error)
    return internal_error()
