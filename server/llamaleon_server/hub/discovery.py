"""Keeps the registry in step with the models that lie in the folders of other programs.

They are registered in place, marked with whose folder it is, and forgotten when their files go. A name that
somebody registered is never touched. What was read of a file is kept by its path, size and time, so that a
restart costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path

from llamaleon_convert.split import files_of
from llamaleon_server.errors import LlamaleonError
from llamaleon_server.hub.finding import Finder
from llamaleon_server.hub.ollama import StoredModel
from llamaleon_server.hub.recording import own_store, record
from llamaleon_server.registry.records import Base
from llamaleon_server.registry.registry import Registry

log = logging.getLogger(__name__)

RESCAN_S = 5.0
PATIENCE_S = 0.2  # of a server that starts
AT_MOST = 0.02  # of the time is spent looking

Stamp = tuple[tuple[int, int], ...]


class Discovery:
    def __init__(self, registry: Registry, *, look: bool = True) -> None:
        """`look` False: nothing is found, and what was found before is forgotten."""
        self._registry = registry
        self._look = look
        self._finder = Finder(registry.home)
        self._recorded: dict[str, StoredModel] = {}
        self._refused: dict[Path, Stamp] = {}
        self._looked = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            begin = time.monotonic()
            try:
                await self.refresh()
            except Exception:  # the disk of another program is no reason to end
                log.exception("looking for models failed; trying again")
            self._looked.set()
            if not self._look:
                return
            await asyncio.sleep(max(RESCAN_S, (time.monotonic() - begin) / AT_MOST))

    async def settled(self) -> None:
        """Until it has looked once, but not for long: what is read quickly answers the first request."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._looked.wait(), PATIENCE_S)

    async def refresh(self) -> None:
        """Look once, and register what is new, changed or gone."""
        found = await asyncio.to_thread(self._finder.find) if self._look else {}
        bases = {base.name: base for base in await asyncio.to_thread(self._registry.bases)}
        hidden = self._registry.hidden_files()
        for name, (whose, model) in found.items():
            if model.path not in hidden and not self._is_known(bases.get(name), model):
                await self._record(model, whose)
        for base in bases.values():
            stays = base.name in found and found[base.name][1].path not in hidden
            if base.found_in is not None and not stays:
                self._registry.remove_base(base.name, hide=False)
                log.info("%s is gone: %s", base.name, base.path)
        await asyncio.to_thread(self._sweep)

    def _is_known(self, base: Base | None, model: StoredModel) -> bool:
        """Registered by somebody, or as it is."""
        if base is None:
            return self._refused.get(model.path) == _stamp(model.path)
        if base.found_in is None:
            return True
        return base.path == model.path and self._recorded.setdefault(model.name, model) == model

    async def _record(self, model: StoredModel, whose: str) -> None:
        try:
            for note in await record(self._registry, model, whose):
                self._finder.say(f"{model.name}: {note}")
        except (LlamaleonError, OSError) as error:
            self._refused[model.path] = _stamp(model.path)
            self._finder.say(f"{model.path}, found as {model.name}, is not served: {error}")
        else:
            self._recorded[model.name] = model
            log.info("found %s: %s", model.name, model.path)

    def _sweep(self) -> None:
        own_store(self._registry).sweep(set(self._registry.base_names()))


def _stamp(path: Path) -> Stamp:
    """Sizes and times of a model's files; of one that is not there nothing."""
    found = []
    for file in files_of(path):
        try:
            stat = file.stat()
        except OSError:  # it went meanwhile
            continue
        found.append((stat.st_size, stat.st_mtime_ns))
    return tuple(found)
