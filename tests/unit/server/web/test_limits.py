"""Limits on one request, in ASGI: sizes while they arrive, and times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from tests.api import CHATML, Api, error_of, events, running_api
from tests.unit.server.registry.small import write_base

CHAT = "/v1/chat/completions"


async def test_a_body_that_is_announced_too_large_is_413_unread(tmp_path: Path) -> None:
    async with running_api(tmp_path / "home", max_body_bytes=1000) as api:
        response = await api.http.post(CHAT, content=b"x" * 1001)
        assert response.status_code == 413
        assert error_of(response)["code"] == "request_too_large"
        assert "--max-body" in error_of(response)["message"]


async def test_one_that_is_not_announced_is_413_while_it_arrives(tmp_path: Path) -> None:
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b" " * 100

    async with running_api(tmp_path / "home", max_body_bytes=1000) as api:
        response = await api.http.post(CHAT, content=endless())
        assert response.status_code == 413
        assert asked == 11


async def test_uploads_have_their_own_limit(tmp_path: Path) -> None:
    async with running_api(tmp_path / "home", max_body_bytes=1000, max_upload_bytes=5000) as api:

        async def upload(size: int) -> httpx.Response:
            files = {"file": ("a.jsonl", b"x" * size)}
            return await api.http.post("/v1/files", data={"purpose": "batch"}, files=files)

        assert (await upload(5000)).status_code == 200
        assert (await upload(5001)).status_code == 413


async def test_nesting_is_limited(api: Api) -> None:
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b'{"messages": ' + b"[" * 200 + b"]" * 200 + b"}"):
        response = await api.http.post(CHAT, content=deep)
        assert response.status_code == 400
        assert "nested deeper than 128" in error_of(response)["message"]
    brackets = await api.chat("[" * 150)
    assert brackets.status_code == 200


async def test_a_body_that_does_not_come_is_408(tmp_path: Path) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b'{"model":'
        await asyncio.sleep(30)

    async with running_api(tmp_path / "home", read_timeout_s=0.1) as api:
        response = await api.http.post(CHAT, content=stuck())
        assert response.status_code == 408
        assert error_of(response)["code"] == "request_timeout"


async def test_dripping_does_not_buy_much_time(tmp_path: Path) -> None:
    async def dripping() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)
            yield b" "

    async with running_api(tmp_path / "home", read_timeout_s=0.3) as api:
        response = await asyncio.wait_for(api.http.post(CHAT, content=dripping()), 30)
        assert response.status_code == 408


async def test_an_answer_that_does_not_begin_is_504_and_ends_its_work(tmp_path: Path) -> None:
    base = write_base(tmp_path / "tiny.gguf", template=CHATML)
    async with running_api(tmp_path / "home", base, request_timeout_s=2) as api:
        assert (await api.chat()).status_code == 200
        api.engines.last.gate.clear()
        response = await api.chat()
        assert response.status_code == 504
        assert error_of(response)["code"] == "answer_timeout"
        assert response.headers["x-should-retry"] == "false"
        async with asyncio.timeout(30):
            while api.engines.last.running:
                await asyncio.sleep(0.01)


async def test_a_stream_that_has_begun_may_take_longer(tmp_path: Path) -> None:
    base = write_base(tmp_path / "tiny.gguf", template=CHATML)
    async with running_api(tmp_path / "home", base, request_timeout_s=1.5) as api:
        await api.chat()
        api.engines.last.step_s = 0.1
        assert events(await api.chat(stream=True))[-1] == "[DONE]"  # 16 steps
