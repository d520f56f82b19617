"""Which adapters the engines hold: loaded when used or registered, pinned, refused, forgotten."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Protocol

from llamaleon_server.errors import AdapterRefused, EngineFailed, EngineUnavailable, LlamaleonError
from llamaleon_server.registry.records import AdapterVersion
from llamaleon_server.residents.engine import Engine

log = logging.getLogger(__name__)


class AdapterRecords(Protocol):
    """What the engines' keepers need of the registry."""

    def adapter_keys(self) -> Collection[str]:
        """Contents that a name still stands for; others leave an engine once unused."""

    def pinned(self, base: str) -> Sequence[AdapterVersion]:
        """Versions that stay in the bank."""

    def adapter_refused(self, version: AdapterVersion, reason: str) -> bool:
        """Record that the engine does not take it. False if it was no longer served."""


class AdapterKeeper:
    """Without `records` nothing is pinned, recorded or forgotten."""

    def __init__(self, records: AdapterRecords | None) -> None:
        self._records = records

    async def load(self, engine: Engine, version: AdapterVersion) -> None:
        """Make a version usable. Raises: AdapterRefused, which is recorded: it is not served any more."""
        known = version.key in engine.adapter_keys
        try:
            loaded = await engine.load_adapter(version.key, version.path)
        except AdapterRefused as error:
            if self._records is not None and self._records.adapter_refused(version, error.message):
                log.error("%s is refused by its engine: %s", version.full_name, error.message)  # noqa: TRY400 (foreseen)
            raise
        if not known:
            facts = loaded.rank, loaded.bytes / 1e6, loaded.load_s * 1000
            log.info("%s is loaded: rank %d, %.1f MB, %.0f ms", version.full_name, *facts)

    async def offer(self, engine: Engine, version: AdapterVersion) -> None:
        """Load what was just registered, so that what only the engine can refuse is refused now.

        Raises: AdapterRefused. An engine that dies of it or meanwhile leaves that to the first request.
        """
        try:
            await self.load(engine, version)
            await self.settle_pins(engine)  # the name may be pinned, and now mean this version
        except (EngineFailed, EngineUnavailable) as error:
            log.warning("%s could not be tried in its engine: %s", version.full_name, error.message)

    async def settle_pins(self, engine: Engine) -> dict[str, LlamaleonError]:
        """Pin and unpin until the engine holds what the records say.

        Returns: by content key why a pin failed; logged already.
        """
        if self._records is None:
            return {}
        failures: dict[str, LlamaleonError] = {}
        async with engine.pinning:
            wanted = {version.key: version for version in self._records.pinned(engine.name)}
            for key in [key for key in engine.pinned if key not in wanted]:
                try:
                    await engine.unpin(key)
                except LlamaleonError as error:  # it died: nothing is pinned in it
                    log.warning("the adapter %.12s cannot be unpinned: %s", key, error.message)
            for key in [key for key in wanted if key not in engine.pinned]:
                try:
                    await self.load(engine, wanted[key])
                    await engine.pin(key, wanted[key].path)
                except LlamaleonError as error:
                    log.warning("%s cannot be pinned: %s", wanted[key].full_name, error.message)
                    failures[key] = error
        return failures

    async def forget(self, engine: Engine) -> None:
        """Unload contents that no name stands for any more and that no request uses."""
        if self._records is None or not engine.adapter_keys:
            return
        live = self._records.adapter_keys()
        for key in engine.adapter_keys:
            if key not in live and not engine.adapter_users[key]:
                log.debug("the adapter %.12s leaves the engine of %s", key, engine.name)
                await engine.unload_adapter(key)
