"""OpenAI's webhook events about fine-tuning jobs, signed and delivered, also after a restart.

Signed by the scheme of https://www.standardwebhooks.com, as OpenAI's are: `client.webhooks.unwrap` of the
`openai` package verifies and parses them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llamaleon_server.errors import StorageFull
from llamaleon_server.registry.jobstore import JobRecord
from llamaleon_server.registry.webhooks import Webhook, WebhookStore
from llamaleon_server.settings import is_loopback

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

SECRET_PREFIX = "whsec_"
SECRET_FILE = "webhook.secret"
SECRET_BYTES = 32
# Seconds from one attempt to the next; after the last one it is given up: three days in all.
RETRIES_S = (5, 30, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 72_000)
TIMEOUT_S = 15.0
FULL_DISK_S = 60.0
GONE = 410  # the receiver says that it does not want any more


def signature(secret: str, identifier: str, timestamp: int, body: str) -> str:
    """The header `webhook-signature`. A `whsec_` secret is base64, any other is its own bytes."""
    key = (
        base64.b64decode(secret[len(SECRET_PREFIX) :])
        if secret.startswith(SECRET_PREFIX)
        else secret.encode()
    )
    signed = f"{identifier}.{timestamp}.{body}".encode()
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def secret_of(home: Path, given: str | None) -> str:
    """The one that was given, else this home's own: made with the first use, readable by its owner alone."""
    if given is not None:
        return given
    path = home / SECRET_FILE
    if not path.exists():
        path.touch(mode=0o600)
        made = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        path.write_text(f"{SECRET_PREFIX}{made}\n", encoding="utf-8")
        log.info("webhooks are signed with the secret in %s", path)
    return path.read_text(encoding="utf-8").strip()


class Webhooks:
    """Without URLs nothing is recorded or sent."""

    def __init__(self, store: WebhookStore, urls: Sequence[str], home: Path, secret: str | None) -> None:
        self._store = store
        self._urls = tuple(urls)
        self._home = home
        self._secret = secret
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def announce(self, record: JobRecord) -> None:
        """That a job has ended. Call it in the transaction that records that."""
        if self._urls:
            self._store.add(self._urls, f"fine_tuning.job.{record.status}", {"id": record.id})
            self._wake.set()

    def start(self) -> None:
        """Also what an earlier server could not deliver."""
        if self._urls:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ------------------------------------------------------------ inside

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                due = self._store.due(time.time())
                await asyncio.gather(*(self._deliver(webhook) for webhook in due))
                following = self._store.next_due()
            except StorageFull as error:  # what was delivered cannot be struck out: it will come twice
                log.error("webhooks wait: %s", error.message)  # noqa: TRY400 (the message says everything)
                following = time.time() + FULL_DISK_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if following is None else following - time.time()):
                    await self._wake.wait()

    async def _deliver(self, webhook: Webhook) -> None:
        if webhook.url not in self._urls:  # it was configured once
            self._store.remove(webhook)
            return
        failure = await self._post(webhook)
        if failure is None:
            self._store.remove(webhook)
        elif webhook.attempts >= len(RETRIES_S):
            log.error("the webhook %s to %s is given up: %s", webhook.id, webhook.url, failure)
            self._store.remove(webhook)
        else:
            pause_s = RETRIES_S[webhook.attempts]
            log.warning(
                "the webhook %s to %s is sent again in %d s: %s", webhook.id, webhook.url, pause_s, failure
            )
            self._store.postpone(webhook, time.time() + pause_s)

    async def _post(self, webhook: Webhook) -> str | None:
        """Why it was not accepted, if so. Redirections are not followed: it is meant for this receiver."""
        import httpx

        timestamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": "llamaleon",
            "webhook-id": webhook.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(
                secret_of(self._home, self._secret), webhook.id, timestamp, webhook.body
            ),
        }
        try:
            async with _client(webhook.url) as client:
                response = await client.post(webhook.url, content=webhook.body.encode(), headers=headers)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        if response.status_code == GONE:
            log.warning("%s wants no webhook %s (410)", webhook.url, webhook.id)
            return None
        return None if response.is_success else f"it answered with {response.status_code}"


def _client(url: str) -> httpx.AsyncClient:
    import httpx

    local = is_loopback(urlsplit(url).hostname or "")  # no proxy of the environment reaches it
    return httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=not local)
