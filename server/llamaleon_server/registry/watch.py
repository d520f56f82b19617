"""Watched folders: drop a GGUF LoRA file or a PEFT directory in, and its name answers.

The name is the file's stem or the directory's name. Changed content becomes a new version; a removed file
retires the versions that came from it; a bad one is logged and recorded with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from watchfiles import awatch

from llamaleon_server.errors import AdapterRefused, LlamaleonError, ModelNotFound
from llamaleon_server.registry.hot import PEFT_CONFIG, Offer, load_adapter
from llamaleon_server.registry.records import AdapterVersion, WatchedFile
from llamaleon_server.registry.registry import Registry

log = logging.getLogger(__name__)

DEBOUNCE_MS = 60
STEP_MS = 10
SETTLE_S = 0.03  # unchanged for so long: the writer has finished
PATIENCE_S = 2.0  # unchanged for so long and still unreadable: it is bad, not unfinished
RETRY_S = 1.0


class Watcher:
    def __init__(self, registry: Registry, folders: Sequence[Path], offer: Offer | None = None) -> None:
        self._registry = registry
        self._offer = offer
        self._folders = [folder.expanduser().absolute() for folder in folders]
        self._busy: dict[Path, asyncio.Task[None]] = {}
        self._again: set[Path] = set()  # of the busy ones: they changed, perhaps after they were read

    async def run(self) -> None:
        """Until cancelled."""
        if not self._folders:
            return
        try:
            async with asyncio.TaskGroup() as group:
                for folder in self._folders:
                    group.create_task(self._watch(folder))
        finally:
            self._again.clear()
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def _watch(self, folder: Path) -> None:
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # Runs at the first pause of `_follow`, when the kernel already reports changes: what appears
                # between the two is seen twice rather than never.
                asyncio.get_running_loop().call_soon(self._scan, folder)
                await self._follow(folder)
            except OSError as error:
                log.warning("cannot watch %s: %s; trying again", folder, error)
            await asyncio.sleep(RETRY_S)

    def rescan(self) -> None:
        """Look at everything again: what failed before may fit a base that came since."""
        for folder in self._folders:
            self._scan(folder)

    def _scan(self, folder: Path) -> None:
        known = {file.path for file in self._registry.watched.all() if file.path.parent == folder}
        present = set(folder.iterdir()) if folder.is_dir() else set()
        for entry in known | present:
            self._look_at(entry)

    async def _follow(self, folder: Path) -> None:
        async for changes in awatch(folder, debounce=DEBOUNCE_MS, step=STEP_MS, watch_filter=None):
            for _, changed in changes:
                inside = Path(changed).relative_to(folder).parts
                if inside:
                    self._look_at(folder / inside[0])
            if not folder.exists():
                raise FileNotFoundError(f"{folder} was removed")

    def _look_at(self, entry: Path) -> None:
        if entry.name.startswith("."):
            return
        if entry in self._busy:
            self._again.add(entry)
            return
        task = asyncio.create_task(self._settle(entry))
        self._busy[entry] = task
        task.add_done_callback(lambda done: self._looked(entry, done))

    def _looked(self, entry: Path, task: asyncio.Task[None]) -> None:
        del self._busy[entry]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("the watched file %s could not be handled", entry, exc_info=error)
        if entry in self._again:
            self._again.remove(entry)
            self._look_at(entry)

    async def _settle(self, entry: Path) -> None:
        """Take in what lies there, as often as it changes meanwhile; ends when it is what was taken."""
        bad_since: float | None = None
        pause_s: float | None = None
        while True:
            stamp = _stamp(entry)
            known = self._registry.watched.get(entry)
            if stamp is None:
                if known is not None:
                    await asyncio.to_thread(self._retire, known)
                return
            if known is not None and known.stamp == stamp and known.reason is None:
                return
            # A file that was moved in has been whole for long: its times say so, and nobody need wait.
            pause_s = max(0.0, SETTLE_S - _quiet_s(stamp)) if pause_s is None else pause_s
            await asyncio.sleep(pause_s)
            if _stamp(entry) != stamp:
                bad_since, pause_s = None, None
                continue
            reason = await self._take(entry, stamp, known)
            if reason is None:
                return
            # Perhaps half a file: only when it stays as it is does it count as bad.
            bad_since = bad_since or time.monotonic()
            if time.monotonic() - bad_since >= PATIENCE_S:
                self._fail(entry, stamp, known, reason)
                return
            pause_s = max(SETTLE_S, 2 * pause_s)

    async def _take(self, entry: Path, stamp: str, known: WatchedFile | None) -> str | None:
        """None when it was taken in, else why not."""
        name = _name(entry)
        before = known.versions if known is not None else ()

        def record(version: AdapterVersion) -> None:
            versions = before if version.version in before else (*before, version.version)
            self._registry.watched.put(WatchedFile(path=entry, stamp=stamp, name=name, versions=versions))

        try:
            version = await load_adapter(self._registry, name, entry, replace=True, also=record)
        except LlamaleonError as error:
            return error.message
        except OSError as error:  # it vanished or became unreadable meanwhile
            return str(error)
        log.info("%s is now %s (version %d)", entry, version.model, version.version)
        if self._offer is not None:
            # What the engine now refuses is a failed version, not a bad file: reading it again helps nothing.
            with contextlib.suppress(AdapterRefused, ModelNotFound):  # logged there; the base is gone
                await self._offer(self._registry.base(version.base), version)
        return None

    def _fail(self, entry: Path, stamp: str, known: WatchedFile | None, reason: str) -> None:
        log.error("the watched file %s was refused: %s", entry, reason)
        versions = known.versions if known is not None else ()
        self._registry.watched.put(
            WatchedFile(path=entry, stamp=stamp, name=_name(entry), versions=versions, reason=reason)
        )

    def _retire(self, known: WatchedFile) -> None:
        gone = [
            version
            for version in self._registry.adapters()
            if version.adapter == known.name and version.version in known.versions
        ]
        self._registry.retire(gone, also=lambda: self._registry.watched.remove(known.path))
        log.info("%s is gone: %s was retired", known.path, known.name)


def _name(entry: Path) -> str:
    return entry.stem if entry.is_file() else entry.name


def _quiet_s(stamp: str) -> float:
    """Seconds since anything in a stamp was last written."""
    files = msgspec.json.decode(stamp, type=list[tuple[str, int, int, int]])
    return time.time() - max(modified_ns for _, _, modified_ns, _ in files) / 1e9


def _stamp(entry: Path) -> str | None:
    """Sizes and times of the content; None if there is nothing here that could be an adapter."""
    try:
        if entry.is_dir():
            if not (entry / PEFT_CONFIG).exists():
                return None
            files = sorted(path for path in entry.iterdir() if path.is_file())
        elif entry.suffix == ".gguf" and entry.is_file():
            files = [entry]
        else:
            return None
        stats = [(file.name, file.stat()) for file in files]
    except FileNotFoundError:  # removed while we looked
        return None
    return msgspec.json.encode([(name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in stats]).decode()
