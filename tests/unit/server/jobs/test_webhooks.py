"""Webhooks about jobs: verified and parsed by OpenAI's own client, repeated, and not lost by a restart."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.webhooks import (
    FineTuningJobCancelledWebhookEvent,
    FineTuningJobFailedWebhookEvent,
    FineTuningJobSucceededWebhookEvent,
)
from tests.server import free_port
from tests.unit.server.jobs.conftest import rows, serving

from llamaleon_server.jobs import webhooks
from llamaleon_server.settings import Settings

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cw=="


class Receiver:
    """A web server that keeps what is posted; answers with `statuses` in turn, the last one for ever."""

    def __init__(self, port: int = 0) -> None:
        self.statuses = [200]
        self.received: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append((headers, body))
                pending = receiver.statuses
                self.send_response(pending.pop(0) if len(pending) > 1 else pending[0])
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing on standard error."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    async def until(self, condition: Callable[[Receiver], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition(self):
                await asyncio.sleep(0.02)

    def events(self, secret: str = SECRET) -> list[object]:
        """As a program that OpenAI calls reads them. Raises what the client raises."""
        client = openai.OpenAI(api_key="-", webhook_secret=secret)
        return [client.webhooks.unwrap(body, headers) for headers, body in self.received]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


async def test_the_openai_client_verifies_and_parses_them(home: Path, receiver: Receiver) -> None:
    settings: dict[str, Any] = {"webhook_urls": (receiver.url,), "webhook_secret": SECRET}
    async with serving(home, **settings) as service:
        good = await service.ended(service.create(rows(20)))
        bad = await service.ended(service.create(b"no rows\n"))
        await receiver.until(lambda one: len(one.received) == 2)
    async with serving(home, "slow", **settings) as service:
        ended = service.jobs.cancel(service.create(rows(20)).id)
        await receiver.until(lambda one: len(one.received) == 3)
    succeeded, failed, cancelled = receiver.events()
    assert isinstance(succeeded, FineTuningJobSucceededWebhookEvent)
    assert isinstance(failed, FineTuningJobFailedWebhookEvent)
    assert isinstance(cancelled, FineTuningJobCancelledWebhookEvent)
    assert [one.data.id for one in (succeeded, failed, cancelled)] == [good.id, bad.id, ended.id]
    assert succeeded.object == "event"
    assert succeeded.id == receiver.received[0][0]["webhook-id"]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        receiver.events("whsec_" + "YW5vdGhlcg==")


async def test_what_is_not_accepted_is_sent_again(
    home: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "RETRIES_S", (0.05, 0.05, 0.05))
    receiver.statuses = [500, 302, 204]
    async with serving(home, webhook_urls=(receiver.url,), webhook_secret=SECRET) as service:
        await service.ended(service.create(b"no rows\n"))
        await receiver.until(lambda one: len(one.received) == 3)
        await asyncio.sleep(0.3)
        assert len(receiver.received) == 3, "it was accepted"
        assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1, "one event, one id"
        assert service.registry.webhooks.next_due() is None
    assert len(receiver.events()) == 3, "each attempt is signed with its own time"


async def test_in_the_end_it_is_given_up(
    home: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhooks, "RETRIES_S", (0.01,))
    receiver.statuses = [503]
    async with serving(home, webhook_urls=(receiver.url,)) as service:
        await service.ended(service.create(b"no rows\n"))
        async with asyncio.timeout(60):
            while service.registry.webhooks.next_due() is not None:
                await asyncio.sleep(0.02)
    assert len(receiver.received) == 2
    assert "is given up: it answered with 503" in caplog.text


async def test_gone_is_gone(home: Path, receiver: Receiver) -> None:
    receiver.statuses = [410]
    async with serving(home, webhook_urls=(receiver.url,)) as service:
        await service.ended(service.create(b"no rows\n"))
        await receiver.until(lambda one: len(one.received) == 1)
        async with asyncio.timeout(60):
            while service.registry.webhooks.next_due() is not None:
                await asyncio.sleep(0.02)


async def test_the_next_server_delivers_what_this_one_could_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "RETRIES_S", (0.5,) * 100)
    port = free_port()
    settings: dict[str, Any] = {"webhook_urls": (f"http://127.0.0.1:{port}/hook",), "webhook_secret": SECRET}
    async with serving(home, **settings) as service:
        job = await service.ended(service.create(b"no rows\n"))
        assert service.registry.webhooks.next_due() is not None
    receiver = Receiver(port)
    try:
        async with serving(home, **settings):
            await receiver.until(lambda one: len(one.received) == 1)
    finally:
        receiver.close()
    [event] = receiver.events()
    assert isinstance(event, FineTuningJobFailedWebhookEvent)
    assert event.data.id == job.id


async def test_without_a_secret_the_home_has_one(home: Path, receiver: Receiver) -> None:
    async with serving(home, webhook_urls=(receiver.url,)) as service:
        await service.ended(service.create(b"no rows\n"))
        await receiver.until(lambda one: len(one.received) == 1)
    path = home / webhooks.SECRET_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(receiver.events(path.read_text().strip())) == 1


async def test_nothing_is_kept_where_nobody_listens(home: Path) -> None:
    async with serving(home) as service:
        await service.ended(service.create(b"no rows\n"))
        assert service.registry.webhooks.next_due() is None
        assert not (home / webhooks.SECRET_FILE).exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"webhook_urls": ("ftp://example.org/x",)}, "webhook_urls"),
        ({"webhook_urls": ("http:///x",)}, "webhook_urls"),
        ({"webhook_secret": "whsec_no base64!"}, "webhook_secret"),
        ({"training_gpu": "mine"}, "training_gpu"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Settings(**settings)  # type: ignore[arg-type]  # wrong values are the test
