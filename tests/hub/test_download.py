"""One file over HTTP, from a server that fails in every way that servers do."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from tests.hub.serving import Elsewhere, Fault, sha256

from llamaleon_server.errors import DownloadFailed, HubRefused, NotFound, StorageFull
from llamaleon_server.hub import download
from llamaleon_server.hub.download import RemoteFile, Stopped, Transport, fetch

CONTENT = os.urandom(3_000_000)


class Loader:
    def __init__(self, elsewhere: Elsewhere, folder: Path) -> None:
        self.elsewhere = elsewhere
        self.target = folder / "blobs" / sha256(CONTENT)
        self.partial = Path(f"{self.target}.llamaleon.incomplete")
        self.stop = threading.Event()
        self.told: list[int] = []
        elsewhere.blobs[sha256(CONTENT)] = CONTENT

    def __call__(self, **other: object) -> bytes:
        digest = sha256(CONTENT)
        fields = {
            "url": f"{self.elsewhere.url}/cdn/{digest}",
            "size": len(CONTENT),
            "digest": f"sha256:{digest}",
            "label": "model.gguf",
        }
        file = RemoteFile(**{**fields, **other})  # type: ignore[arg-type]  # a test says what differs
        fetch(file, self.target, Transport(headers={}, stop=self.stop), self.told.append)
        return self.target.read_bytes()

    def ranges(self) -> list[int]:
        """Where each request began."""
        return [
            int(one.headers["range"].removeprefix("bytes=").split("-")[0]) for one in self.elsewhere.asked
        ]


@pytest.fixture
def load(elsewhere: Elsewhere, tmp_path: Path) -> Loader:
    return Loader(elsewhere, tmp_path)


def test_a_whole_file(load: Loader) -> None:
    assert load() == CONTENT
    assert load.told[-1] == len(CONTENT)
    assert not load.partial.exists()
    assert load.ranges() == [0]
    assert load() == CONTENT, "as if another process had been quicker"
    assert not load.partial.exists()
    assert load.ranges() == [0]


def test_a_connection_that_is_cut_twice_is_continued(load: Loader) -> None:
    load.elsewhere.faults = [Fault(cut_after=1_000_000), Fault(cut_after=500_000)]
    assert load() == CONTENT
    assert load.ranges() == [0, 1_000_000, 1_500_000]


def test_what_lies_here_from_another_day_is_not_fetched_again(load: Loader) -> None:
    load.target.parent.mkdir()
    load.partial.write_bytes(CONTENT[:2_500_000])
    assert load() == CONTENT
    assert load.ranges() == [2_500_000]


def test_a_partial_file_that_is_wrong_costs_one_more_try(load: Loader) -> None:
    load.target.parent.mkdir()
    load.partial.write_bytes(bytes(2_000_000))
    assert load() == CONTENT
    assert load.ranges() == [2_000_000, 0]


def test_a_partial_file_that_is_too_long_is_thrown_away(load: Loader) -> None:
    load.target.parent.mkdir()
    load.partial.write_bytes(CONTENT + b"more")
    assert load() == CONTENT
    assert load.ranges() == [0]


def test_a_server_without_ranges_begins_anew(load: Loader) -> None:
    load.elsewhere.faults = [Fault(cut_after=1_000_000), Fault(no_ranges=True)]
    assert load() == CONTENT
    assert load.ranges() == [0, 1_000_000]


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_out_of_order_is_asked_again(load: Loader, status: int) -> None:
    load.elsewhere.faults = [Fault(status=status), Fault(status=status, headers={"Retry-After": "0"})]
    assert load() == CONTENT
    assert len(load.elsewhere.asked) == 3


def test_a_server_that_stays_out_of_order_is_an_error_that_keeps_what_came(load: Loader) -> None:
    load.elsewhere.faults = [Fault(cut_after=1_000_000)] + [Fault(status=503)] * download.ATTEMPTS
    with pytest.raises(DownloadFailed, match="it answers 503") as caught:
        load()
    assert "pull it again" in caught.value.message
    assert load.partial.stat().st_size == 1_000_000
    assert not load.target.exists()
    assert load() == CONTENT


def test_nobody_there(load: Loader) -> None:
    with pytest.raises(DownloadFailed, match=r"cannot be fetched from 127\.0\.0\.1:1"):
        load(url="http://127.0.0.1:1/x")


@pytest.mark.parametrize("status", [401, 403])
def test_refused(load: Loader, status: int) -> None:
    load.elsewhere.faults = [Fault(status=status)]
    with pytest.raises(HubRefused, match="HF_TOKEN") as caught:
        load()
    assert caught.value.status == 403
    assert len(load.elsewhere.asked) == 1


def test_gone(load: Loader) -> None:
    load.elsewhere.faults = [Fault(status=404)]
    with pytest.raises(NotFound, match=r"has no model\.gguf"):
        load()


def test_a_wrong_checksum_is_thrown_away(load: Loader) -> None:
    load.elsewhere.faults = [Fault(wrong_bytes=True)]
    with pytest.raises(DownloadFailed, match="another checksum"):
        load()
    assert not load.target.exists()
    assert load.partial.stat().st_size == 0
    assert load() == CONTENT


def test_more_bytes_than_promised(load: Loader) -> None:
    load.elsewhere.redirects = False
    load.elsewhere.faults = [Fault(no_ranges=True)]
    with pytest.raises(DownloadFailed, match="longer than the 100 bytes"):
        load(size=100)
    assert not load.target.exists()


def test_large_files_are_asked_for_in_pieces(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "REQUEST_BYTES", 1 << 20)
    assert load() == CONTENT
    assert load.ranges() == [0, 1 << 20, 2 << 20]


def test_a_file_that_git_keeps_itself(load: Loader) -> None:
    name = hashlib.sha1(f"blob {len(CONTENT)}\0".encode() + CONTENT).hexdigest()
    assert load(digest=f"git:{name}") == CONTENT


def test_stopped_in_the_middle(load: Loader) -> None:
    pause = threading.Event()
    load.elsewhere.faults = [Fault(pause=pause)]

    def stop_soon(completed: int) -> None:
        load.stop.set()
        pause.set()

    load.told = type("Told", (list,), {"append": staticmethod(stop_soon)})()
    with pytest.raises(Stopped):
        load()
    assert load.partial.exists()
    assert not load.target.exists()


def test_a_full_disk_is_told_before_anything_is_fetched(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    load.target.parent.mkdir()
    load.partial.write_bytes(CONTENT[:1000])
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 5, 5))
    with pytest.raises(StorageFull, match=r"No space left for model\.gguf"):
        load()
    assert load.elsewhere.asked == []
    assert load.partial.read_bytes() == CONTENT[:1000]


def test_a_disk_that_fills_up_on_the_way(load: Loader) -> None:
    load.target.parent.mkdir()
    load.partial.symlink_to("/dev/full")  # every write to it fails as on a full disk
    with pytest.raises(StorageFull) as caught:
        load()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert not load.target.exists()


def test_two_that_want_one_file_fetch_it_once(load: Loader) -> None:
    pause = threading.Event()
    load.elsewhere.faults = [Fault(pause=pause)]
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(load())) for _ in range(2)]
    for thread in threads:
        thread.start()
    while not load.elsewhere.asked:
        time.sleep(0.001)
    pause.set()
    for thread in threads:
        thread.join(60)
    assert found == [CONTENT, CONTENT]
    assert len(load.elsewhere.asked) == 1
