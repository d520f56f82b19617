"""`adapter_config.json`: what of it a GGUF LoRA can express, and PEFT's scale of each module."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.walk import LFS_PREFIX

MERGE = "Merge it into the base with PEFT's `merge_and_unload`, and convert the merged model to GGUF."

# Settings that GGUF cannot express, each with the reason and the remedy.
INEXPRESSIBLE = {
    "use_dora": f"DoRA rescales every weight by its norm, which GGUF LoRA cannot express. {MERGE}",
    "lora_bias": f"biases of LoRA layers (`lora_bias`) have no place in a GGUF LoRA. {MERGE}",
    "modules_to_save": f"whole modules were trained beside the LoRA, and GGUF has no place for them. {MERGE}",
    "trainable_token_indices": f"single embeddings were trained, and GGUF has no place for them. {MERGE}",
    "layer_replication": f"the adapter repeats layers of the base, so it needs another model. {MERGE}",
    "alora_invocation_tokens": "an activated LoRA (aLoRA) acts only after its invocation tokens; served as a "
    "plain LoRA it would act everywhere. Train it as a plain LoRA.",
    "use_qalora": "QA-LoRA pools its inputs by groups, which GGUF LoRA cannot express. Train a plain LoRA.",
    "use_bdlora": "block-diagonal LoRA is stored in another layout. Train a plain LoRA.",
    "arrow_config": "Arrow routes between several adapters per token. Convert its task adapters one by one.",
    "kasa_config": f"KaSA changes the base's weights. {MERGE}",
    "monteclora_config": "MonteCLoRA samples its weights. Train a plain LoRA.",
    "velora_config": "VeLoRA is not proved against llama.cpp here. Train a plain LoRA.",
}

# Settings that say how the adapter was made, not what it computes.
HARMLESS = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
        "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
        "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config",
        "megatron_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size",
        "revision", "runtime_config", "target_modules", "target_parameters", "task_type",
    }
)  # fmt: skip
READ = frozenset({"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"})

# Initialisations that leave the base as it was. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) move a part
# of the base's weights into the adapter, which is then wrong on the original base.
BASE_KEPT_BY = {True, False, None, "true", "false", "gaussian", "eva", "orthogonal", "mica"}


class PeftConfig(Struct, frozen=True):
    """The part of PEFT's LoraConfig that decides what an adapter computes."""

    r: int
    lora_alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    base_model: str | None

    def rank(self, *names: str) -> int:
        """Of the module or parameter that goes by `names`."""
        return int(_by_pattern(self.rank_pattern, names, self.r))

    def scaling(self, *names: str) -> float:
        """PEFT's factor on `B A x` of the module or parameter (dimensionless)."""
        alpha, rank = _by_pattern(self.alpha_pattern, names, self.lora_alpha), self.rank(*names)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_config(peft_dir: Path) -> PeftConfig:
    """Raises: ConvertError without a readable config; Refused if GGUF cannot express what it asks for."""
    raw = _load(peft_dir)
    path = peft_dir / "adapter_config.json"
    _refuse_inexpressible(raw, path)
    return PeftConfig(
        r=int(_number(raw, "r", path)),
        lora_alpha=_number(raw, "lora_alpha", path),
        use_rslora=bool(raw.get("use_rslora")),
        rank_pattern={key: int(value) for key, value in _pattern(raw, "rank_pattern", path).items()},
        alpha_pattern=_pattern(raw, "alpha_pattern", path),
        base_model=raw.get("base_model_name_or_path") or None,
    )


def _load(peft_dir: Path) -> dict[str, Any]:
    path = peft_dir / "adapter_config.json"
    if not peft_dir.is_dir():
        raise ConvertError(
            f"{peft_dir}: not a directory. Give the PEFT directory that holds adapter_config.json."
        )
    if not path.is_file():
        hint = "Give the directory that PEFT's `save_pretrained` wrote."
        if (peft_dir / "config.json").is_file():
            hint = "This is a full model, not an adapter: convert it to GGUF and serve it as a base."
        raise ConvertError(f"{peft_dir}: there is no adapter_config.json. {hint}")
    try:
        content = path.read_bytes()
        if content.startswith(LFS_PREFIX):
            raise ConvertError(f"{path}: a Git LFS pointer. Fetch the file with `git lfs pull`.")
        raw = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ConvertError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ConvertError(f"{path}: not a JSON object.")
    return raw


def _refuse_inexpressible(raw: dict[str, Any], path: Path) -> None:
    peft_type = raw.get("peft_type")
    if peft_type != "LORA":
        raise Refused(
            f"{path}: peft_type is {peft_type!r}; only LORA can be expressed in GGUF. "
            "Prompt tuning, prefix tuning, IA3 and the rest must be trained again as LoRA."
        )
    for key, reason in INEXPRESSIBLE.items():
        if raw.get(key):
            raise Refused(f"{path}: `{key}` is {raw[key]!r}: {reason}")
    if (bias := raw.get("bias", "none")) != "none":
        raise Refused(f"{path}: `bias` is {bias!r}: trained biases have no place in a GGUF LoRA. {MERGE}")
    _refuse_changed_base(raw.get("init_lora_weights", True), path)
    for key, value in raw.items():
        if value and key not in HARMLESS and key not in READ:
            raise Refused(
                f"{path}: `{key}` is {value!r}, a setting unknown here: it may change what the adapter "
                "computes. If it does not, remove it from the file and convert again."
            )


def _refuse_changed_base(init: Any, path: Path) -> None:
    """PEFT stores `true` once such an adapter was converted back."""
    known = init.lower() if isinstance(init, str) else init
    if known not in BASE_KEPT_BY:
        raise Refused(
            f"{path}: `init_lora_weights` is {init!r}, which changes the base's weights, so the adapter is "
            "wrong on the original base. Save it again with PEFT's "
            "`save_pretrained(..., path_initial_model_for_weight_conversion=INITIAL_ADAPTER)`."
        )


def _number(raw: dict[str, Any], key: str, path: Path) -> float:
    value = raw.get(key)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise ConvertError(f"{path}: `{key}` is {value!r}, not a positive number.")
    return float(value)


def _pattern(raw: dict[str, Any], key: str, path: Path) -> dict[str, float]:
    patterns = raw.get(key) or {}
    if not isinstance(patterns, dict):
        raise ConvertError(f"{path}: `{key}` is not an object of module patterns.")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConvertError(f"{path}: `{key}` has a bad pattern {pattern!r}: {error}.") from None
    return {pattern: _number(patterns, pattern, path) for pattern in patterns}


def _by_pattern(patterns: Mapping[str, float], names: Sequence[str], default: float) -> float:
    """The first pattern that matches wins, as in PEFT.

    Source: peft 0.21 `utils/other.py`, `get_pattern_key`.
    """
    for pattern, value in patterns.items():
        if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
            return value
    return default
