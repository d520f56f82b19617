"""ASGI middleware around every route."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "x-request-id"
ANTHROPIC_REQUEST_ID = "request-id"
TAKE_BYTES, TAKE_S = 8 * 1024 * 1024, 2.0  # of a body that nobody wants
CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody reads it, the access log does
_ACCEPTABLE = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class RequestId:
    """Every answer carries `x-request-id`: the client's own where it sent one, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        name = given if _ACCEPTABLE.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        scope[REQUEST_ID] = name  # for the last-resort error answer, which is made outside of us

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update({REQUEST_ID: name, ANTHROPIC_REQUEST_ID: name})
            await send(message)

        await self.app(scope, receive, send_named)


class Measure:
    """Counts every request by the template of its route: names in paths would make a time series each."""

    def __init__(
        self, app: ASGIApp, answered: Callable[[str, str, int, float], None], routes: Sequence[Route]
    ) -> None:
        self.app = app
        self._answered = answered  # method, route, status, seconds
        # By its first path, where one endpoint has several.
        self._templates = {route.endpoint: route.path.replace(":path}", "}") for route in reversed(routes)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, began = CLIENT_CLOSED_REQUEST, time.perf_counter()  # nothing is sent to who has gone

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_seen)
        except Exception:
            status = 500  # made outside of us
            raise
        finally:
            route = self._templates.get(scope["endpoint"], "unknown") if "endpoint" in scope else "unknown"
            self._answered(scope["method"], route, status, time.perf_counter() - began)


class StartFirst:
    """Starts the services before the first request, for a host application that runs no lifespan of ours."""

    def __init__(self, app: ASGIApp, start: Callable[[], Awaitable[None]]) -> None:
        self.app = app
        self._start = start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._start()
        await self.app(scope, receive, send)


class TakeAll:
    """Takes the rest of a body that nobody wanted, within reason, if the connection ends with the answer.

    One that is closed while its client still sends is reset, and the answer is lost with it. One that is kept
    needs no help: uvicorn reads on.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _leaves_body(scope):
            await self.app(scope, receive, send)
            return
        whole = False

        async def receive_seen() -> Message:
            nonlocal whole
            message = await receive()
            whole = whole or message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def send_after(message: Message) -> None:
            if message["type"] == "http.response.start" and not whole:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TAKE_S):
                        taken = 0
                        while not whole and taken < TAKE_BYTES:
                            taken += len((await receive_seen()).get("body", b""))
            await send(message)

        await self.app(scope, receive_seen, send_after)


def _leaves_body(scope: Scope) -> bool:
    """Who waits for `100 Continue` has not begun to send one, and need not."""
    headers = Headers(scope=scope)
    announced = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    ends = scope["http_version"] == "1.0" or "close" in headers.get("connection", "").lower()
    return announced and ends and "expect" not in headers
