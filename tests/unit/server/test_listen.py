"""The socket that the server listens on, and what it logs."""

from __future__ import annotations

import asyncio
import logging
import socket

import httpx
import pytest

from llamaleon_server.__main__ import listen, log_to_stderr


async def test_connections_send_a_token_at_once() -> None:
    """Without TCP_NODELAY a streamed token waits for the ACK of the one before: 40 ms."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with listen("127.0.0.1", 0) as listener:
        async with await asyncio.start_server(serve, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            assert await asyncio.wait_for(accepted, 5)
            writer.close()
            await writer.wait_closed()


def test_the_urls_of_downloads_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    loggers = [logging.getLogger(name) for name in ("httpx", "httpx2")]
    levels = [logger.level for logger in loggers]
    caplog.set_level(logging.DEBUG)
    try:
        log_to_stderr("debug")
        with httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200))) as client:
            client.get("https://cdn.example/model.gguf?signature=secret")
        assert "secret" not in caplog.text
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
