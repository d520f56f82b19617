"""The one place where failures become answers: OpenAI's error body for every one of them."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from llamaleon_server.errors import LlamaleonError
from llamaleon_server.web.middleware import CLIENT_CLOSED_REQUEST, REQUEST_ID

log = logging.getLogger(__name__)


def error_body(
    message: str, *, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def internal_error() -> dict[str, Any]:
    return error_body("The server made a mistake; its log says which.", kind="server_error")


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")


async def foreseen(request: Request, error: Exception) -> Response:
    assert isinstance(error, LlamaleonError)
    return json_response(error.body(), error.status, error.headers())


async def of_http(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, wrong method, malformed multipart."""
    assert isinstance(error, HTTPException)
    message, code = error.detail, None
    if error.status_code == 404:
        message, code = f"Invalid URL ({request.method} {request.url.path}).", "unknown_url"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"Not allowed to {request.method} on {request.url.path} (Allow: {allowed})."
        code = "method_not_allowed"
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    body = error_body(message, kind=kind, code=code)
    return json_response(body, error.status_code, dict(error.headers or {}))


async def gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def unforeseen(request: Request, error: Exception) -> Response:
    """Last resort. Starlette raises the error again afterwards, so that the server logs its trace."""
    name = request.scope.get(REQUEST_ID)
    return json_response(internal_error(), 500, {REQUEST_ID: name} if name else None)


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
