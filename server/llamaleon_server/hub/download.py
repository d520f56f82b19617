"""One file over HTTP: resumed where it broke off, checked, and only then given its name.

huggingface_hub's own downloader cannot do this: since its version 1 a partial file is unique to one call and
removed when the call fails, only the size is compared, and a running download cannot be ended.
(`file_download._download_to_tmp_and_move`.)
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from msgspec import Struct

from llamaleon_server.errors import DownloadFailed, HubRefused, LlamaleonError, NotFound, StorageFull
from llamaleon_server.registry.blobs import sync_directory

if TYPE_CHECKING:
    import httpx  # takes a tenth of a second, which only those pay who pull

TIMEOUT_S = 30.0  # of silence
ATTEMPTS = 6  # without a single new byte
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
REPORT_EVERY_S = 0.1
REQUEST_BYTES = 8 << 30  # CDNs refuse to send more than some tens of GB at once
HASHED_AT_ONCE = 1 << 20
BUSY_STATUSES = {408, 425, 429}


class Stopped(Exception):
    """Nobody waits for this download any more."""


class RemoteFile(Struct, frozen=True, kw_only=True):
    """A file elsewhere. `digest` is `sha256:HEX`, or `git:HEX`, git's name of its content."""

    url: str
    size: int
    digest: str
    label: str  # for people

    @property
    def hex(self) -> str:
        return self.digest.partition(":")[2]


@dataclass(frozen=True, kw_only=True)
class Transport:
    """How one download asks. `headers` are dropped where a redirect leads to another host."""

    headers: dict[str, str]
    stop: threading.Event

    def client(self) -> httpx.Client:
        """Proxies and certificates as the environment says."""
        import httpx

        return httpx.Client(headers=self.headers, timeout=TIMEOUT_S, follow_redirects=True)

    def wait(self, attempt: int, told_s: float | None = None) -> None:
        """Raises: Stopped."""
        pause = min(FIRST_PAUSE_S * 2**attempt if told_s is None else told_s, LONGEST_PAUSE_S)
        if self.stop.wait(pause):
            raise Stopped


def fetch(file: RemoteFile, target: Path, transport: Transport, report: Callable[[int], None]) -> None:
    """Make `target` exist with the content of `file`; `report` is told how many bytes are here.

    Raises:
        DownloadFailed, HubRefused, NotFound: what came is kept beside `target` for the next call, unless it
            had the wrong checksum.
        StorageFull: likewise.
        Stopped.
    """
    partial = target.with_name(f"{target.name}.llamaleon.incomplete")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("a+b") as local:
            _locked(local, transport)
            if target.exists():  # another process had it
                partial.unlink(missing_ok=True)  # ours, which is empty: its own has become the target
                return
            _complete(file, local, transport, _sometimes(report))
            report(file.size)
            local.flush()
            os.fsync(local.fileno())
            partial.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _full(file, target) from error
        raise DownloadFailed(f"{target} cannot be written: {error.strerror or error}.") from error


def _sometimes(report: Callable[[int], None]) -> Callable[[int], None]:
    """Not for every piece of some kilobytes."""
    due = 0.0

    def told(completed: int) -> None:
        nonlocal due
        if (now := time.monotonic()) >= due:
            due = now + REPORT_EVERY_S
            report(completed)

    return told


def _locked(local: BinaryIO, transport: Transport) -> None:
    """Two processes must not write one file; the lock ends with the process."""
    while True:
        try:
            fcntl.flock(local, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            transport.wait(0)


def _complete(file: RemoteFile, local: BinaryIO, transport: Transport, report: Callable[[int], None]) -> None:
    resumed = _Writer(file, local, transport, report)
    room = shutil.disk_usage(Path(local.name).parent).free
    if file.size - resumed.size > room:
        raise _full(file, Path(local.name), room)
    begun_at = resumed.size
    _fill(resumed, transport, report)
    if resumed.is_right():
        return
    resumed.restart()
    if begun_at:  # the part that lay here was at fault, perhaps: once more, all of it
        _fill(resumed, transport, report)
        if resumed.is_right():
            return
        resumed.restart()
    raise DownloadFailed(
        f"{file.label} came with another checksum than {file.digest}: it was thrown away. Pull it again; if "
        "this happens again, the file is damaged where it comes from."
    )


class _Writer:
    """The local beginning of a file and its running checksum."""

    def __init__(
        self, file: RemoteFile, local: BinaryIO, transport: Transport, report: Callable[[int], None]
    ) -> None:
        """Reads what is here already. Raises: Stopped."""
        self.file = file
        self._local = local
        self.size = local.seek(0, os.SEEK_END)
        if self.size > file.size:
            self.restart()
            return
        self._hash = self._new_hash()
        local.seek(0)
        for at in range(0, self.size, HASHED_AT_ONCE):
            if transport.stop.is_set():
                raise Stopped
            report(at)
            self._hash.update(local.read(min(HASHED_AT_ONCE, self.size - at)))

    def _new_hash(self) -> Any:
        if self.file.digest.startswith("git:"):  # of small files, which git stores itself
            return hashlib.sha1(f"blob {self.file.size}\0".encode(), usedforsecurity=False)
        return hashlib.sha256()

    def restart(self) -> None:
        self._local.truncate(0)
        self._hash, self.size = self._new_hash(), 0

    def write(self, piece: bytes) -> None:
        """Raises: DownloadFailed for more bytes than the file has."""
        if self.size + len(piece) > self.file.size:
            self.restart()
            raise DownloadFailed(
                f"{self.file.label} is longer than the {self.file.size} bytes it should have."
            )
        self._local.write(piece)
        self._hash.update(piece)
        self.size += len(piece)

    def is_right(self) -> bool:
        return bool(self._hash.hexdigest() == self.file.hex)


def _fill(local: _Writer, transport: Transport, report: Callable[[int], None]) -> None:
    """Ask for what is missing until all is here; give up after some tries that brought nothing."""
    import httpx

    attempt, furthest, reason = 0, local.size, "no answer"
    with transport.client() as client:
        while local.size < local.file.size:
            told_s = None
            try:
                told_s, reason = _ask_once(client, local, transport, report)
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
                raise DownloadFailed(f"{local.file.label}: {error}.") from error
            if local.size == local.file.size:
                break
            attempt = 0 if local.size > furthest else attempt + 1
            furthest = max(furthest, local.size)
            if attempt >= ATTEMPTS:
                raise DownloadFailed(
                    f"{local.file.label} cannot be fetched from {_host(local.file.url)}: {reason}. "
                    "What came is kept: pull it again to go on from there."
                )
            transport.wait(attempt, told_s)


def _ask_once(
    client: httpx.Client, local: _Writer, transport: Transport, report: Callable[[int], None]
) -> tuple[float | None, str]:
    """One request. Returns how long to wait before the next if we were told, and why there must be one.

    Raises: httpx.TransportError; HubRefused, NotFound, DownloadFailed where asking again does not help.
    """
    last = min(local.size + REQUEST_BYTES, local.file.size) - 1
    headers = {"Range": f"bytes={local.size}-{last}", "Accept-Encoding": "identity"}
    with client.stream("GET", local.file.url, headers=headers) as response:
        strange = response.status_code == 206 and not _continues(response, local.size)
        if strange or response.status_code == 416:
            local.restart()
            return None, "the server does not continue where it stopped"
        if response.status_code not in {200, 206}:
            return _busy(response, local.file)
        if response.status_code == 200 and local.size:  # this server knows no ranges
            local.restart()
        for piece in response.iter_raw():
            if transport.stop.is_set():
                raise Stopped
            local.write(piece)
            report(local.size)
    return (0.0 if local.size > last else None), "the connection ended early"


def _continues(response: httpx.Response, start: int) -> bool:
    said: str = response.headers.get("Content-Range", "")
    return said.strip().startswith(f"bytes {start}-")


def _busy(response: httpx.Response, file: RemoteFile) -> tuple[float | None, str]:
    status = response.status_code
    if status >= 500 or status in BUSY_STATUSES:
        told = response.headers.get("Retry-After", "")
        return (float(told) if told.isdecimal() else None), f"it answers {status}"
    raise refused(status, file.label, _host(file.url), response.headers.get("X-Error-Message", ""))


def refused(status: int, what: str, host: str, said: str = "") -> LlamaleonError:
    """What an answer that will not change means. `said`: the other side's own words."""
    answer = f"it answers {status}: {said}" if said else f"it answers {status}"
    if status in {401, 403}:
        return HubRefused(
            f"{host} does not give {what} to us ({answer}): it may be private, or its licence "
            "must be accepted on its page first. Set HF_TOKEN where the server runs, or give a token.",
            param="model",
        )
    if status in {404, 410}:
        return NotFound(f"{host} has no {what} ({answer}).", param="model")
    return DownloadFailed(f"{host} does not give {what}: {answer}.")


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _full(file: RemoteFile, target: Path, room: int | None = None) -> StorageFull:
    free = "" if room is None else f" ({room / 1e9:.1f} GB are free)"
    return StorageFull(
        f"No space left for {file.label}, {file.size / 1e9:.1f} GB, in {target.parent}{free}. What came is "
        "kept: free some space and pull it again."
    )
