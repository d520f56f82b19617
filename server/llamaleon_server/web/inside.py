"""Our own routes, called from within: exactly what a client's request does, without a socket."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from llamaleon_server.batches.run import Answered
from llamaleon_server.web.access import ASSUMED
from llamaleon_server.web.middleware import REQUEST_ID


class Inside:
    """`attach` the application before the first call."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None

    def attach(self, app: ASGIApp) -> None:
        self._app = app

    async def call(self, path: str, body: bytes, granted: str) -> Answered:
        """POST with what the creator's key may do, instead of a key. Cancelling this cancels the request."""
        import httpx  # seen by servers that run batches only: it takes its time

        app = self._app
        assert app is not None

        async def known(scope: Scope, receive: Receive, send: Send) -> None:
            scope[ASSUMED] = granted  # no client can set a key of the scope
            await app(scope, receive, send)

        transport = httpx.ASGITransport(known, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.post(path, content=body, timeout=None)
        return Answered(answer.status_code, answer.headers.get(REQUEST_ID, ""), answer.content)
