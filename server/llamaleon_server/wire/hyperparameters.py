"""Hyperparameters of fine-tuning: OpenAI's, and those of the trainer that we accept beside."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from llamaleon_server.errors import BadRequest
from llamaleon_trainer.job import BASE_WEIGHTS, OPTIMIZERS, PRECISIONS, SCHEDULERS, SHARDINGS

AUTO = "auto"
FIND = "find"
# Figures of an evaluation that may decide whether an adapter is deployed.
GATE_METRICS = (
    "loss",
    "perplexity",
    "exact_match",
    "valid_json",
    "json_equal",
    "field_f1",
    "accuracy",
    "macro_f1",
    "bleu",
    "chrf",
    "rouge_1",
    "rouge_l",
    "preference",
    "none",
)


class Number(Struct, frozen=True):
    """A whole number or any, between bounds."""

    whole: bool
    least: float
    most: float
    above: bool = False  # `least` itself is too small

    def describe(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        lower = f"above {self.least:g}" if self.above else f"from {self.least:g}"
        return f"{kind} {lower} to {self.most:g}"

    def accepts(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.least <= value <= self.most or (self.above and value == self.least):
            return False
        return not self.whole or value == int(value)


class Flag(Struct, frozen=True):
    def describe(self) -> str:
        return "true or false"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)


class Choice(Struct, frozen=True):
    names: tuple[str, ...]

    def describe(self) -> str:
        return "one of " + ", ".join(f'"{name}"' for name in self.names if name != AUTO)

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.names


class Targets(Struct, frozen=True):
    def describe(self) -> str:
        return '"all-linear" or a list of names of modules'

    def accepts(self, value: Any) -> bool:
        if isinstance(value, list):
            return bool(value) and all(isinstance(name, str) and name for name in value)
        return isinstance(value, str) and value == "all-linear"


Rule = Number | Flag | Choice | Targets

# Every one may be "auto". `learning_rate` may be "find": it is then measured before the first step.
RULES: dict[str, Rule] = {
    "n_epochs": Number(True, 1, 50),
    "max_steps": Number(True, 1, 1_000_000),
    "batch_size": Number(True, 1, 256),
    "micro_batch_size": Number(True, 1, 256),
    "learning_rate_multiplier": Number(False, 0, 10_000, above=True),
    "learning_rate": Number(False, 0, 1, above=True),
    "lr_scheduler": Choice(SCHEDULERS),
    "warmup_fraction": Number(False, 0, 1),
    "optimizer": Choice(OPTIMIZERS),
    "weight_decay": Number(False, 0, 1),
    "max_grad_norm": Number(False, 0, 1000, above=True),
    "label_smoothing": Number(False, 0, 0.9),
    "neftune_noise_alpha": Number(False, 0, 100),
    "beta": Number(False, 0, 2, above=True),  # OpenAI's, of dpo
    "lora_r": Number(True, 1, 1024),
    "lora_alpha": Number(False, 0, 4096, above=True),
    "lora_dropout": Number(False, 0, 0.9),
    "lora_target_modules": Targets(),
    "use_rslora": Flag(),
    "base_weights": Choice(BASE_WEIGHTS),
    "precision": Choice(PRECISIONS),
    "tf32": Flag(),
    "gradient_checkpointing": Flag(),
    "packing": Flag(),
    "group_by_length": Flag(),
    "max_sequence_tokens": Number(True, 8, 1_048_576),
    "held_out_fraction": Number(False, 0, 0.5, above=True),
    "eval_every_steps": Number(True, 1, 1_000_000),
    "save_every_steps": Number(True, 1, 1_000_000),
    "early_stopping_patience": Number(True, 1, 1000),
    "load_best": Flag(),
    "processes": Number(True, 1, 64),
    "sharding": Choice(SHARDINGS),
    # What is deployed: see docs/evaluation.md.
    "gate_metric": Choice(GATE_METRICS),
    "gate_margin": Number(False, -1000, 1000),
}
OPENAI_KEYS = ("n_epochs", "batch_size", "learning_rate_multiplier")
DPO_KEYS = ("beta",)  # of that method alone


def parse_hyperparameters(value: Any, where: str, method: str = "supervised") -> dict[str, Any]:
    """The given values, "auto" kept.

    Raises:
        BadRequest: an unknown name, one of another method, or a value out of bounds, naming it.
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
        if key in DPO_KEYS and method != "dpo":
            raise BadRequest(
                f"`{where}.{key}` belongs to the method `dpo`, not to `{method}`.", param=f"{where}.{key}"
            )
        if given == AUTO or (key == "learning_rate" and given == FIND):
            parsed[key] = given
            continue
        if not rule.accepts(given):
            raise BadRequest(
                f'`{where}.{key}` must be "auto" or {rule.describe()}, not {given!r}.', param=f"{where}.{key}"
            )
        parsed[key] = int(given) if isinstance(rule, Number) and rule.whole else given
    if parsed.get("learning_rate", AUTO) != AUTO and parsed.get("learning_rate_multiplier", AUTO) != AUTO:
        raise BadRequest(
            f"Give `{where}.learning_rate` or `{where}.learning_rate_multiplier`, not both.",
            param=f"{where}.learning_rate",
        )
    return parsed
