"""How the one engine of a base is to run, of all that is said about the models that share it.

From weakest to strongest: the flags of `serve`, patterns of the presets file, what was made of the base (of
several made models the one changed last), the base's own name in the presets file. Only `context_tokens` is
another matter: the most that anybody asks for is loaded (as far as the model was trained for it and memory
holds it), and whoever asked for less is limited to that.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from llamaleon_server.registry.made import MadeStore
from llamaleon_server.registry.presets import Presets
from llamaleon_server.settings import EngineSettings

CONTEXT = "context_tokens"


class EngineWishes:
    def __init__(self, made: MadeStore, presets: Presets) -> None:
        self._made = made
        self._presets = presets
        self._known: dict[str, tuple[Any, EngineSettings]] = {}

    def settings(self, base: str, default: EngineSettings) -> EngineSettings:
        seen = self._made.changes, self._presets.stamp, default
        known = self._known.get(base)
        if known is None or known[0] != seen:
            self._known[base] = known = seen, self._settings(base, default)
        return known[1]

    def keep_alive(self, base: str) -> float | UnsetType | None:
        exact = self._presets.exact(base).keep_alive
        return self._presets.patterns(base).keep_alive if exact is UNSET else exact

    def _settings(self, base: str, default: EngineSettings) -> EngineSettings:
        said = dict(self._presets.patterns(base).engine)
        most = 0
        for made in sorted(self._made.all(base), key=lambda one: one.modified):
            wish = made.engine | self._presets.exact(made.name).engine
            most = max(most, wish.pop(CONTEXT, 0))
            said |= wish
        own = self._presets.exact(base).engine
        least = 0 if CONTEXT in own else most
        return msgspec.structs.replace(default, **(said | own), least_context_tokens=least)
