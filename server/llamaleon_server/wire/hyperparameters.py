"""Hyperparameters of supervised fine-tuning: OpenAI's three, and the LoRA settings that we accept beside."""

from __future__ import annotations

import math
from typing import Any

from msgspec import Struct

from llamaleon_server.errors import BadRequest

AUTO = "auto"


class Rule(Struct, frozen=True):
    """What a value may be: a whole number or any, between bounds. Every one may be "auto"."""

    whole: bool
    least: float
    most: float
    above: bool = False  # `least` itself is too small

    def describe(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        lower = f"above {self.least:g}" if self.above else f"from {self.least:g}"
        return f'"auto" or {kind} {lower} to {self.most:g}'

    def accepts(self, value: Any) -> bool:
        if value == AUTO:
            return True
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if self.whole and value != int(value):
            return False
        return self.least <= value <= self.most and not (self.above and value == self.least)


RULES: dict[str, Rule] = {
    "n_epochs": Rule(True, 1, 50),
    "batch_size": Rule(True, 1, 256),
    "learning_rate_multiplier": Rule(False, 0, 10_000, above=True),
    "learning_rate": Rule(False, 0, 1, above=True),
    "lora_r": Rule(True, 1, 1024),
    "lora_alpha": Rule(False, 0, 4096, above=True),
    "lora_dropout": Rule(False, 0, 0.9),
    "max_sequence_tokens": Rule(True, 8, 1_048_576),
    "held_out_fraction": Rule(False, 0, 0.5, above=True),
}
OPENAI_KEYS = ("n_epochs", "batch_size", "learning_rate_multiplier")


def parse_hyperparameters(value: Any, where: str) -> dict[str, Any]:
    """The given values, "auto" kept.

    Raises:
        BadRequest: an unknown name or a value out of bounds, naming it.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"`{where}` must be an object.", param=where)
    parsed: dict[str, Any] = {}
    for key, given in value.items():
        rule = RULES.get(key)
        if rule is None:
            raise BadRequest(
                f"Unknown hyperparameter `{where}.{key}`: expected {', '.join(RULES)}.",
                param=f"{where}.{key}",
            )
        if not rule.accepts(given):
            raise BadRequest(
                f"`{where}.{key}` must be {rule.describe()}, not {given!r}.", param=f"{where}.{key}"
            )
        parsed[key] = int(given) if rule.whole and given != AUTO else given
    if parsed.get("learning_rate", AUTO) != AUTO and parsed.get("learning_rate_multiplier", AUTO) != AUTO:
        raise BadRequest(
            f"Give `{where}.learning_rate` or `{where}.learning_rate_multiplier`, not both.",
            param=f"{where}.learning_rate",
        )
    return parsed
