"""Files of the home directory: written under a temporary name, synced, renamed, and only then recorded."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llamaleon_server.errors import StorageFull

COPY_BYTES = 1 << 20


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """A full disk or quota becomes `StorageFull`, which names what could not be stored.

    Raises:
        StorageFull: no space is left; nothing was recorded.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull(
                f"No space left on the disk while storing {what}; nothing was recorded. Free some space, "
                "or serve with --home on another disk."
            ) from error
        raise


def sync_directory(path: Path) -> None:
    """A rename survives a power cut only once its directory is synced."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_synced(source: Path, target: Path) -> str:
    """The sha256 of what was copied, which is not what lay there a moment ago if somebody writes to it."""
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as write:
        while piece := read.read(COPY_BYTES):
            digest.update(piece)
            write.write(piece)
        write.flush()
        os.fsync(write.fileno())
    return digest.hexdigest()


def move_synced(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)


def write_synced(target: Path, data: bytes) -> None:
    with target.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def copy_peft_synced(source: Path, target: Path) -> None:
    """What peft needs to load it: a checkpoint's optimizer state has no place in an adapter."""
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and (path.name.startswith("adapter_") or path.suffix == ".md"):
            copy_synced(path, target / path.name)


@contextmanager
def new_directory(final: Path, what: str) -> Iterator[Path]:
    """Fill the directory that is handed out; it appears as `final`, whole, or not at all."""
    building = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    with disk_errors(what):
        building.mkdir(parents=True)
        try:
            yield building
            sync_directory(building)
            if final.exists():  # left by a process that died between the rename and the record
                shutil.rmtree(final)
            building.replace(final)
            sync_directory(final.parent)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise


def remove_tree(path: Path) -> None:
    """Running engines keep what they have mapped: unlinking takes only the name away."""
    shutil.rmtree(path, ignore_errors=True)
