"""Files are whole or absent, listed in pages, and gone when they expire."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from llamaleon_server.errors import NotFound, StorageFull, TooLarge
from llamaleon_server.registry import blobs
from llamaleon_server.registry.registry import Registry


def names(registry: Registry) -> list[str]:
    return sorted(path.name for path in (registry.home / "files").iterdir())


def test_an_upload_in_pieces(registry: Registry) -> None:
    upload = registry.files.upload(max_bytes=100)
    upload.write("mañana ".encode())
    upload.write(b"ok")
    stored = upload.commit("datos ñ.jsonl", "fine-tune")
    assert stored.path.read_text() == "mañana ok"
    assert (stored.filename, stored.bytes, stored.purpose) == ("datos ñ.jsonl", 10, "fine-tune")
    assert registry.files.get(stored.id) == stored
    assert names(registry) == [stored.id]


def test_too_much_leaves_nothing(registry: Registry) -> None:
    upload = registry.files.upload(max_bytes=3)
    upload.write(b"abc")
    with pytest.raises(TooLarge, match="limit of 3 bytes"):
        upload.write(b"d")
    assert names(registry) == []


class Full:
    """An open file on a disk with no room left."""

    def __init__(self, inner: Any, fails: str) -> None:
        self._inner, self._fails = inner, fails

    def __getattr__(self, name: str) -> Any:
        if name == self._fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return getattr(self._inner, name)


@pytest.mark.parametrize("fails", ["write", "flush"])
def test_a_full_disk_leaves_nothing(registry: Registry, fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = registry.files.upload(max_bytes=100)
    monkeypatch.setattr(upload, "_file", Full(upload._file, fails))

    def send() -> None:
        upload.write(b"abc")
        upload.commit("a", "fine-tune")

    with pytest.raises(StorageFull):
        send()
    assert names(registry) == []
    assert registry.files.page() == ([], False)


def test_a_record_that_fails_removes_the_blob(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(blobs, "sync_directory", fail)
    upload = registry.files.upload(max_bytes=100)
    with pytest.raises(StorageFull):
        upload.commit("a", "fine-tune")
    assert names(registry) == []
    assert registry.files.page() == ([], False)


def test_a_restart_sweeps_uploads_that_died(registry: Registry) -> None:
    upload = registry.files.upload(max_bytes=100)
    upload.write(b"half")
    Registry.open(registry.home).close()
    assert len(names(registry)) == 1, "opening alone touches nothing: another server may be writing"
    registry.sweep()
    assert names(registry) == []
    upload.abort()


def test_pages_in_both_orders(registry: Registry) -> None:
    ids = [registry.files.put(f"{n}.jsonl", "fine-tune", b"x").id for n in range(5)]
    registry.files.put("other", "assistants", b"x")
    page, more = registry.files.page(purpose="fine-tune", limit=2)
    assert ([file.id for file in page], more) == (ids[:-3:-1], True)
    page, more = registry.files.page(purpose="fine-tune", limit=3, after=page[-1].id)
    assert ([file.id for file in page], more) == (ids[2::-1], False)
    page, _ = registry.files.page(purpose="fine-tune", descending=False, after=ids[2])
    assert [file.id for file in page] == ids[3:]
    with pytest.raises(NotFound):
        registry.files.page(after="file-nothing")


def test_deleted_and_expired_files_are_gone(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, deleted = (registry.files.put(name, "fine-tune", b"x") for name in "ab")
    upload = registry.files.upload(10)
    expiring = upload.commit("c", "fine-tune", expires=kept.created + 60)
    registry.files.delete(deleted.id)
    monkeypatch.setattr(time, "time", lambda: kept.created + 61)
    for gone in (deleted, expiring):
        with pytest.raises(NotFound):
            registry.files.get(gone.id)
    assert expiring.path.exists()
    registry.files.sweep()
    assert names(registry) == [kept.id]
    assert not expiring.path.exists()


def test_a_result_written_twice_is_one_file(registry: Registry) -> None:
    registry.files.put("step_metrics.csv", "fine-tune-results", b"old", file_id="file-abc")
    stored = registry.files.put("step_metrics.csv", "fine-tune-results", b"new", file_id="file-abc")
    assert stored.path.read_bytes() == b"new"
    assert [file.id for file in registry.files.page()[0]] == ["file-abc"]
