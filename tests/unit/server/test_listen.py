"""The socket that the server listens on."""

from __future__ import annotations

import asyncio
import socket

from llamaleon_server.__main__ import listen


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
