"""A client that goes away: the engine is told at once, whether the request was plain or streamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.api import Api

from llamaleon_server.engine.protocol import Cancel, Generate


class LeavingClient:
    """Speaks ASGI itself: sends one request and goes away when told to."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [],
            "client": ("test", 1),
            "server": ("test", 80),
        }
        self.leave = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self._body: bytes | None = json.dumps(body).encode()

    async def receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("before_the_first_token", [False, True])
async def test_the_engine_is_told_at_once(api: Api, stream: bool, before_the_first_token: bool) -> None:
    await api.complete("warm", max_tokens=1)
    engine = api.engines.last
    engine.received.clear()
    engine.step_s = 0.001
    api.engines.answer = lambda message: "x" * 100_000
    if before_the_first_token:
        engine.gate.clear()
    client = LeavingClient(
        "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 100_000, "stream": stream, "n": 2}
    )
    call = asyncio.create_task(api.app(client.scope, client.receive, client.send))
    while engine.running < 2:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    client.leave.set()
    await asyncio.wait_for(call, 30)
    started = {message.id for message in engine.received if isinstance(message, Generate)}
    cancelled = {message.id for message in engine.received if isinstance(message, Cancel)}
    assert len(started) == 2
    assert cancelled == started
    [resident] = api.services.residents.ps()
    assert resident.running == 0


async def test_who_goes_away_while_the_model_loads_does_not_stop_the_load(api: Api) -> None:
    api.engines.load_s = 0.1
    client = LeavingClient("/v1/completions", {"model": "tiny", "prompt": "x"})
    call = asyncio.create_task(api.app(client.scope, client.receive, client.send))
    staying = asyncio.create_task(api.complete())
    await asyncio.sleep(0.03)
    client.leave.set()
    await call
    assert (await staying).status_code == 200
    assert len(api.engines.opened) == 1
