"""Webhooks: verified and parsed by OpenAI's own client, repeated, and not lost by a restart."""

from __future__ import annotations

import asyncio
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.webhooks import (
    BatchCancelledWebhookEvent,
    BatchCompletedWebhookEvent,
    BatchExpiredWebhookEvent,
    BatchFailedWebhookEvent,
    FineTuningJobCancelledWebhookEvent,
    FineTuningJobFailedWebhookEvent,
    FineTuningJobSucceededWebhookEvent,
    ResponseCancelledWebhookEvent,
    ResponseCompletedWebhookEvent,
    ResponseFailedWebhookEvent,
    ResponseIncompleteWebhookEvent,
)
from tests.api import CHATML, running_api
from tests.server import free_port
from tests.unit.server.jobs.conftest import Service, rows, serving
from tests.unit.server.registry.small import write_base
from tests.unit.server.web.responses import respond, whole
from tests.unit.server.web.test_batches import begin, line, until_running
from tests.unit.server.web.test_responses_background import begun

from llamaleon_server import webhooks
from llamaleon_server.registry.registry import Registry
from llamaleon_server.registry.webhooks import Webhook, WebhookStore
from llamaleon_server.settings import Settings

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cw=="


class Receiver:
    """A web server that keeps what is posted; answers with `statuses` in turn, the last one for ever."""

    def __init__(self, port: int = 0) -> None:
        self.statuses = [200]
        self.answers = threading.Event()  # cleared: it takes what is posted and says nothing
        self.answers.set()
        self.received: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append((headers, body))
                receiver.answers.wait()
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
        self.answers.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    async def has(self, count: int) -> None:
        """So many events; one that is being delivered while its server stops comes again from the next."""
        async with asyncio.timeout(60):
            while len({headers["webhook-id"] for headers, _ in self.received}) < count:
                await asyncio.sleep(0.02)

    def events(self, secret: str = SECRET) -> list[Any]:
        """As a program that OpenAI calls reads them, each once. Raises what the client raises."""
        client = openai.OpenAI(api_key="-", webhook_secret=secret)
        read = [client.webhooks.unwrap(body, headers) for headers, body in self.received]
        return list({event.id: event for event in read}.values())


async def nothing_waits(service: Service, url: str) -> None:
    async with asyncio.timeout(60):
        while service.registry.webhooks.next_due(url) is not None:
            await asyncio.sleep(0.02)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    registry = Registry.open(tmp_path / "home")
    registry.add_base(write_base(tmp_path / "tiny.gguf", template=CHATML))
    registry.close()
    return registry.home


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


async def test_how_jobs_end(home: Path, receiver: Receiver) -> None:
    settings: dict[str, Any] = {"webhook_urls": (receiver.url,), "webhook_secret": SECRET}
    async with serving(home, **settings) as service:
        good = await service.ended(service.create(rows(20)))
        bad = await service.ended(service.create(b"no rows\n"))
        await receiver.has(2)
    async with serving(home, "slow", **settings) as service:
        ended = service.jobs.cancel(service.create(rows(20)).id)
        await receiver.has(3)
    succeeded, failed, cancelled = receiver.events()
    assert isinstance(succeeded, FineTuningJobSucceededWebhookEvent)
    assert isinstance(failed, FineTuningJobFailedWebhookEvent)
    assert isinstance(cancelled, FineTuningJobCancelledWebhookEvent)
    assert [one.data.id for one in (succeeded, failed, cancelled)] == [good.id, bad.id, ended.id]
    assert succeeded.object == "event"
    assert succeeded.id == receiver.received[0][0]["webhook-id"]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        receiver.events("whsec_" + "YW5vdGhlcg==")


async def test_how_batches_end(home: Path, receiver: Receiver) -> None:
    async with running_api(home, webhook_urls=(receiver.url,), webhook_secret=SECRET) as api:
        completed = await begin(api, [line("a")])
        failed = await begin(api, ["no line"])
        await receiver.has(2)
        api.engines.last.gate.clear()
        cancelled, expired = await begin(api, [line("a")]), await begin(api, [line("a")])
        await until_running(api, 2)
        await api.http.post(f"/v1/batches/{cancelled.id}/cancel")
        await receiver.has(3)
        await api.services.batches.close()
        api.services.registry.batches.update(expired.id, expires_at=expired.created_at - 1)
        api.services.batches.start()
        await receiver.has(4)
    events = receiver.events()
    assert {type(event): event.data.id for event in events} == {
        BatchCompletedWebhookEvent: completed.id,
        BatchFailedWebhookEvent: failed.id,
        BatchCancelledWebhookEvent: cancelled.id,
        BatchExpiredWebhookEvent: expired.id,
    }


async def test_how_background_responses_end_and_only_those(home: Path, receiver: Receiver) -> None:
    settings: dict[str, Any] = {"webhook_urls": (receiver.url,), "webhook_secret": SECRET}
    async with running_api(home, **settings) as api:
        whole(await respond(api))
        completed = whole(await respond(api, background=True))
        await receiver.has(1)
        incomplete = whole(await respond(api, background=True, max_output_tokens=4))
        await receiver.has(2)
        failed = whole(await respond(api, "x" * 300, background=True))
        await receiver.has(3)
        cancelled = await begun(api)
        await api.http.post(f"/v1/responses/{cancelled}/cancel")
        await receiver.has(4)
        api.engines.last.gate.set()
        stopped = await begun(api)
    async with running_api(home, **settings) as api:
        await api.http.get("/v1/models")
        await receiver.has(5)
    assert [(type(event), event.data.id) for event in receiver.events()] == [
        (ResponseCompletedWebhookEvent, completed.id),
        (ResponseIncompleteWebhookEvent, incomplete.id),
        (ResponseFailedWebhookEvent, failed.id),
        (ResponseCancelledWebhookEvent, cancelled),
        (ResponseFailedWebhookEvent, stopped),
    ]


async def test_a_response_that_a_killed_server_left_has_failed(home: Path, receiver: Receiver) -> None:
    settings: dict[str, Any] = {"webhook_urls": (receiver.url,), "webhook_secret": SECRET}
    async with running_api(home) as api:
        running = whole(await respond(api, background=True)).id
        record = api.services.registry.responses.get(running)
        while api.services.responses.find(running):
            await asyncio.sleep(0.01)
        api.services.registry.responses.delete(running)
        api.services.registry.responses.add(record, [])
    async with running_api(home, **settings) as api:
        await api.http.get("/v1/models")
        await receiver.has(1)
    [event] = receiver.events()
    assert (type(event), event.data.id) == (ResponseFailedWebhookEvent, running)


async def test_who_says_nothing_keeps_nobody_waiting(
    home: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 600.0)
    silent = Receiver()
    silent.answers.clear()
    try:
        async with serving(home, webhook_urls=(silent.url, receiver.url), webhook_secret=SECRET) as service:
            for count in (1, 2, 3):
                await service.ended(service.create(b"no rows\n"))
                await receiver.has(count)
            assert len(silent.received) == 1, "the first still waits for its answer"
    finally:
        silent.close()


async def test_what_is_added_in_a_long_transaction_is_seen_when_that_ends(
    home: Path, receiver: Receiver
) -> None:
    """The sender is woken before the thread that records an event has committed it."""

    def record(service: Service) -> None:
        with service.registry.db.transaction():
            service.registry.webhooks.announce("batch.completed", "batch_1")
            time.sleep(0.3)

    async with serving(home, webhook_urls=(receiver.url,), webhook_secret=SECRET) as service:
        await asyncio.to_thread(record, service)
        await receiver.has(1)


async def test_a_failure_of_ours_is_not_the_end(
    home: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhooks, "PAUSE_S", 0.05)
    failures = iter([ZeroDivisionError("a mistake")])

    def due(store: WebhookStore, *asked: Any) -> list[Webhook]:
        for failure in failures:
            raise failure
        return unharmed(store, *asked)

    unharmed = WebhookStore.due
    monkeypatch.setattr(WebhookStore, "due", due)
    async with serving(home, webhook_urls=(receiver.url,), webhook_secret=SECRET) as service:
        await service.ended(service.create(b"no rows\n"))
        await receiver.has(1)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("secret", ["", "whsec_no base64!"])
async def test_without_a_good_secret_nothing_is_sent_until_there_is_one(
    home: Path,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    secret: str,
) -> None:
    monkeypatch.setattr(webhooks, "RETRIES_S", (0.05,) * 1000)
    path = home / webhooks.SECRET_FILE
    path.write_text(secret)
    async with serving(home, webhook_urls=(receiver.url,)) as service:
        await service.ended(service.create(b"no rows\n"))
        async with asyncio.timeout(60):
            while str(path) not in caplog.text:
                await asyncio.sleep(0.02)
        assert receiver.received == []
        path.write_text(SECRET)
        await receiver.has(1)
    assert len(receiver.events()) == 1


async def test_what_waits_for_a_url_of_yesterday_is_forgotten(home: Path, receiver: Receiver) -> None:
    dead = f"http://127.0.0.1:{free_port()}/hook"
    async with serving(home, webhook_urls=(dead,)) as service:
        await service.ended(service.create(b"no rows\n"))
        assert service.registry.webhooks.next_due(dead) is not None
    async with serving(home, webhook_urls=(receiver.url,)) as service:
        assert service.registry.webhooks.next_due(dead) is None


async def test_what_is_not_accepted_is_sent_again(
    home: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "RETRIES_S", (0.05, 0.05, 0.05))
    receiver.statuses = [500, 302, 204]
    async with serving(home, webhook_urls=(receiver.url,), webhook_secret=SECRET) as service:
        await service.ended(service.create(b"no rows\n"))
        await nothing_waits(service, receiver.url)
    assert len(receiver.received) == 3, "then it was accepted"
    assert len(receiver.events()) == 1, "one event, one id; each attempt is signed with its own time"


async def test_in_the_end_it_is_given_up(
    home: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhooks, "RETRIES_S", (0.01,))
    receiver.statuses = [503]
    async with serving(home, webhook_urls=(receiver.url,)) as service:
        await service.ended(service.create(b"no rows\n"))
        await nothing_waits(service, receiver.url)
    assert len(receiver.received) == 2
    assert "is given up: it answered with 503" in caplog.text


async def test_gone_is_gone(home: Path, receiver: Receiver) -> None:
    receiver.statuses = [410]
    async with serving(home, webhook_urls=(receiver.url,)) as service:
        await service.ended(service.create(b"no rows\n"))
        await receiver.has(1)
        await nothing_waits(service, receiver.url)


async def test_the_next_server_delivers_what_this_one_could_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "RETRIES_S", (0.5,) * 100)
    port = free_port()
    settings: dict[str, Any] = {"webhook_urls": (f"http://127.0.0.1:{port}/hook",), "webhook_secret": SECRET}
    async with serving(home, **settings) as service:
        job = await service.ended(service.create(b"no rows\n"))
        assert service.registry.webhooks.next_due(settings["webhook_urls"][0]) is not None
    receiver = Receiver(port)
    try:
        async with serving(home, **settings):
            await receiver.has(1)
    finally:
        receiver.close()
    [event] = receiver.events()
    assert isinstance(event, FineTuningJobFailedWebhookEvent)
    assert event.data.id == job.id


async def test_without_a_secret_the_home_has_one(home: Path, receiver: Receiver) -> None:
    async with serving(home, webhook_urls=(receiver.url,)) as service:
        await service.ended(service.create(b"no rows\n"))
        await receiver.has(1)
    path = home / webhooks.SECRET_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(receiver.events(path.read_text().strip())) == 1


async def test_nothing_is_kept_where_nobody_listens(home: Path) -> None:
    async with serving(home) as service:
        await service.ended(service.create(b"no rows\n"))
        assert service.registry.db.rows("SELECT * FROM webhooks") == []
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
