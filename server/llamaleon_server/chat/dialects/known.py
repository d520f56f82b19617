"""Which dialect a model's template belongs to."""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import entry_points

from llamaleon_server.chat.dialects.dialect import Dialect
from llamaleon_server.chat.dialects.gemma import FunctionGemma, Gemma
from llamaleon_server.chat.dialects.generic import Generic
from llamaleon_server.chat.dialects.granite import Granite
from llamaleon_server.chat.dialects.harmony import Harmony
from llamaleon_server.chat.dialects.hermes import Hermes
from llamaleon_server.chat.dialects.llama import Llama
from llamaleon_server.chat.dialects.mistral import Mistral, MistralIdentified, MistralNamed
from llamaleon_server.chat.dialects.qwen_coder import QwenCoder

GROUP = "llamaleon.dialects"

log = logging.getLogger(__name__)

# Whoever's mark is the most particular is asked first.
OURS: tuple[Dialect, ...] = (
    Harmony(),
    Gemma(),
    FunctionGemma(),
    MistralIdentified(),
    MistralNamed(),
    Mistral(),
    Granite(),
    QwenCoder(),
    Hermes(),
    Llama(),
)
GENERIC = Generic()


@cache
def dialects() -> tuple[Dialect, ...]:
    """Other packages' own, then ours; all but the generic one."""
    others = []
    for entry in entry_points(group=GROUP):
        try:
            others.append(_loaded(entry.load()))
        except Exception:  # another package's code: without it, the server still serves
            log.exception("the dialect %s of %s cannot be loaded", entry.name, entry.value)
    return (*others, *OURS)


def _loaded(found: object) -> Dialect:
    made = found() if isinstance(found, type) else found
    if not isinstance(made, Dialect):
        raise TypeError(f"{made!r} is no Dialect")
    return made
