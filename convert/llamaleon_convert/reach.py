"""Which modules of a transformers model may carry a LoRA that llama.cpp will apply: asked before training."""

from __future__ import annotations

from collections.abc import Sequence

from llamaleon_convert.errors import Refused
from llamaleon_convert.header import Header
from llamaleon_convert.plan import places_of, require_supported


def reasons(base: Header, modules: Sequence[str]) -> dict[str, str]:
    """See `llamaleon_convert.expressible`."""
    try:
        require_supported(base)
    except Refused as refusal:
        return dict.fromkeys(modules, str(refusal))
    found: dict[str, str] = {}
    for module in modules:
        try:
            places_of(base, module.removesuffix(".weight"), f"module {module!r}")
        except Refused as refusal:
            found[module] = str(refusal)
    return found
