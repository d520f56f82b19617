"""Limits on one request: how large its body, how slow its sender, how long until it is answered."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamaleon_server.errors import AnswerTooSlow, BodyTooSlow, TooLarge
from llamaleon_server.settings import Settings

LEAST_BYTES_PER_S = (
    10_000  # what arrives buys its sender time at this rate, beyond the first `read_timeout_s`
)


class Limited:
    """Around one route. `upload`: the route limits the size of its body itself."""

    def __init__(self, app: ASGIApp, settings: Settings, *, upload: bool) -> None:
        self.app = app
        self._most_bytes = None if upload else settings.max_body_bytes
        self._read_timeout_s = settings.read_timeout_s
        self._answer_timeout_s = settings.request_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: TooLarge, BodyTooSlow, AnswerTooSlow, where nothing has been answered yet."""
        self._check_announced(scope)
        loop = asyncio.get_running_loop()
        body = _Body(receive, self._most_bytes, self._read_timeout_s)
        clock = asyncio.timeout(self._answer_timeout_s)
        begun = False

        async def receive_limited() -> Message:
            message = await body.receive()
            wait(self._answer_timeout_s)
            return message

        async def send_begun(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                wait(None)
            await send(message)

        def wait(seconds: float | None) -> None:
            if not clock.expired() and not (begun and seconds is not None):
                clock.reschedule(None if seconds is None else loop.time() + seconds)

        try:
            async with clock:
                await self.app(scope, receive_limited, send_begun)
        except TimeoutError as error:
            if not clock.expired():
                raise
            raise AnswerTooSlow(
                f"Nothing was answered within {self._answer_timeout_s:g} s (--request-timeout)."
            ) from error

    def _check_announced(self, scope: Scope) -> None:
        """Before a byte of it is read."""
        announced = Headers(scope=scope).get("content-length", "")
        if self._most_bytes is not None and announced.isascii() and announced.isdigit():
            check_size(int(announced), self._most_bytes)


class _Body:
    """A body as it arrives: never more of it than is allowed, never later."""

    def __init__(self, receive: Receive, most_bytes: int | None, timeout_s: float) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._timeout_s = timeout_s
        self._began: float | None = None
        self._seen = 0
        self._whole = False

    async def receive(self) -> Message:
        """Raises: TooLarge, BodyTooSlow."""
        if self._whole:  # what comes now is the end of the connection, whenever that is
            return await self._receive()
        loop = asyncio.get_running_loop()
        self._began = loop.time() if self._began is None else self._began
        try:
            async with asyncio.timeout_at(self._began + self._timeout_s + self._seen / LEAST_BYTES_PER_S):
                message = await self._receive()
        except TimeoutError as error:
            raise BodyTooSlow(
                f"The body did not arrive in time: {self._seen} bytes in {loop.time() - self._began:.0f} s."
            ) from error
        self._seen += len(message.get("body", b""))
        if self._most_bytes is not None:
            check_size(self._seen, self._most_bytes)
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message


def check_size(size: int, most: int) -> None:
    """Raises: TooLarge."""
    if size > most:
        raise TooLarge(f"The body is larger than the limit of {most} bytes (--max-body).")
