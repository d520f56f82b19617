"""OpenAI's webhook events, signed and delivered, also after a restart. The registry's stores record them.

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
from llamaleon_server.registry.webhooks import Webhook, WebhookStore
from llamaleon_server.settings import check_webhook_secret, is_loopback

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

SECRET_PREFIX = "whsec_"
SECRET_FILE = "webhook.secret"
SECRET_BYTES = 32
# Seconds from one attempt to the next; after the last one it is given up: three days in all.
RETRIES_S = (5, 30, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 72_000)
TIMEOUT_S = 15.0
PAUSE_S = 60.0  # after a failure of ours
AT_ONCE = 8  # requests to one URL
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
    """The one that was given, else this home's own: made with the first use, readable by its owner alone.

    Raises: OSError; ValueError if that file holds none.
    """
    if given is not None:
        return given
    path = home / SECRET_FILE
    if not path.exists():
        written = path.with_suffix(".new")  # whole before it has its name: the disk may be full
        written.touch(mode=0o600)
        made = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        written.write_text(f"{SECRET_PREFIX}{made}\n", encoding="utf-8")
        written.replace(path)
        log.info("webhooks are signed with the secret in %s", path)
    secret = path.read_text(encoding="utf-8").strip()
    try:
        check_webhook_secret(secret)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; remove it, and another one is made") from error
    return secret


class Webhooks:
    """Without URLs nothing is recorded or sent. A URL that does not answer holds up no other."""

    def __init__(self, store: WebhookStore, urls: Sequence[str], home: Path, secret: str | None) -> None:
        self._store = store
        self._home = home
        self._secret = secret
        self._wakes = {url: asyncio.Event() for url in urls}
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        store.listen(tuple(self._wakes), self._added)

    def start(self) -> None:
        """Also what an earlier server could not deliver. Only for the server that holds this home's lock."""
        self._loop = asyncio.get_running_loop()
        if self._wakes:
            with contextlib.suppress(StorageFull):  # it can wait for the next start
                self._store.forget_others(list(self._wakes))
        self._tasks = [asyncio.create_task(self._run(url), name=url) for url in self._wakes]

    async def close(self) -> None:
        """What is not delivered yet, and what is recorded from now on, the next server delivers."""
        self._loop = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------ inside

    def _added(self) -> None:
        """From any thread, and in a transaction that is still open: reading what is due waits for its end."""
        loop = self._loop  # `close` may be taking it away
        if loop is not None:
            loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for wake in self._wakes.values():
            wake.set()

    async def _run(self, url: str) -> None:
        wake = self._wakes[url]
        while True:
            wake.clear()
            try:
                following = await self._deliver_due(url)
            except Exception:  # the disk is full, say; what was delivered and not struck out comes twice
                log.exception("webhooks to %s wait", url)
                following = time.time() + PAUSE_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if following is None else following - time.time()):
                    await wake.wait()

    async def _deliver_due(self, url: str) -> float | None:
        """A few of them. Returns when the next is due: it may be at once."""
        due = self._store.due(url, time.time(), AT_ONCE)
        if due:
            async with _client(url) as client:
                delivering = (self._deliver(client, webhook) for webhook in due)
                ends = await asyncio.gather(*delivering, return_exceptions=True)
            for error in filter(None, ends):
                raise error
        return self._store.next_due(url)

    async def _deliver(self, client: httpx.AsyncClient, webhook: Webhook) -> None:
        failure = await self._post(client, webhook)
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

    async def _post(self, client: httpx.AsyncClient, webhook: Webhook) -> str | None:
        """Why it was not accepted, if so. Redirections are not followed: it is meant for this receiver."""
        import httpx

        timestamp = int(time.time())
        try:
            secret = secret_of(self._home, self._secret)
            headers = {
                "content-type": "application/json",
                "user-agent": "llamaleon",
                "webhook-id": webhook.id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signature(secret, webhook.id, timestamp, webhook.body),
            }
            response = await client.post(webhook.url, content=webhook.body.encode(), headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # or the secret's file
            return f"{type(error).__name__}: {error}"
        if response.status_code == GONE:
            log.warning("%s wants no webhook %s (410)", webhook.url, webhook.id)
            return None
        return None if response.is_success else f"it answered with {response.status_code}"


def _client(url: str) -> httpx.AsyncClient:
    import httpx

    local = is_loopback(urlsplit(url).hostname or "")  # no proxy of the environment reaches it
    return httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=not local)
