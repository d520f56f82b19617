"""An Axolotl `config.yml`, as it stands, as a job.

A key that cannot be honoured is named in a warning with the reason; an unknown one is an error. A key without
a value, or with `false`, asks for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from llamaleon_clients.errors import BadInput
from llamaleon_clients.jobfiles import axolotl_data
from llamaleon_clients.jobfiles.axolotl_keys import not_honoured
from llamaleon_clients.jobfiles.loading import Document
from llamaleon_clients.jobfiles.ours import unknown
from llamaleon_clients.words import say

MARKS = ("base_model", "datasets", "pretraining_dataset")  # a file with one of these keys is Axolotl's
RENAMED = {
    "lora_r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "peft_use_rslora": "use_rslora",
    "sequence_len": "max_sequence_tokens",
    "sample_packing": "packing",
    "group_by_length": "group_by_length",
    "max_steps": "max_steps",
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "warmup_ratio": "warmup_fraction",
    "neftune_noise_alpha": "neftune_noise_alpha",
    "noisy_embedding_alpha": "neftune_noise_alpha",
    "tf32": "tf32",
    "early_stopping_patience": "early_stopping_patience",
    "load_best_model_at_end": "load_best",
    "seed": "seed",
    "rl_beta": "beta",
    "dpo_beta": "beta",
    "use_tensorboard": "tensorboard",
    "world_size": "processes",
}
OPTIMIZERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw"), "adamw"),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit"), "adamw_8bit"),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit"), "paged_adamw"),
    "paged_adamw_8bit": "paged_adamw_8bit",
}
SCHEDULERS = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}


class Reading:
    """One file: what it asks for, and what of it is not done."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.values = {key: value for key, value in document.values.items() if value is not None}
        self.settings: dict[str, Any] = {}
        self.warnings: list[str] = []

    def warn(self, key: str, reason: str) -> None:
        line = self.document.lines.get(key, 1)
        self.warnings.append(
            say("line {line}: `{key}` is not honoured: {reason}.", line=line, key=key, reason=reason)
        )

    def number(self, key: str, default: float) -> float:
        """Raises: BadInput."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            kind = say("a number above 0")
            raise self.document.mistake(
                key, say("{kind} is needed, not {value}.", kind=kind, value=repr(value))
            )
        return value


def looks_like_one(document: Document) -> bool:
    return any(key in document.values for key in MARKS)


def settings_of(document: Document) -> tuple[dict[str, Any], list[str]]:
    """The job's settings, and a warning for each key that is not honoured.

    Raises:
        BadInput: an unknown key, or what cannot be a job here, with its line.
    """
    reading = Reading(document)
    reasons = not_honoured()
    for key, value in reading.values.items():
        if key in RENAMED:
            reading.settings[RENAMED[key]] = value
        elif key in HANDLERS:
            HANDLERS[key](reading, key, value)
        elif key in reasons:
            if value is not False and value not in ([], {}, ""):
                reading.warn(key, reasons[key])
        elif key not in TOGETHER:
            raise document.mistake(str(key), unknown(str(key), (*RENAMED, *HANDLERS, *TOGETHER), reasons))
    for together in (_base, _adapter, _batch, _targets, _warmup, _distributed, _wandb):
        together(reading)
    axolotl_data.read(reading)
    reading.settings["name"] = _name(reading)
    return reading.settings, reading.warnings


# ------------------------------------------------------------ one key


def _epochs(reading: Reading, key: str, value: Any) -> None:
    epochs = reading.number(key, 1)
    reading.settings["n_epochs"] = math.ceil(epochs)
    if epochs != math.ceil(epochs):
        reading.warn(key, say("epochs are whole; {count} are trained", count=math.ceil(epochs)))


def _optimizer(reading: Reading, key: str, value: Any) -> None:
    _one_of(reading, key, value, "optimizer", OPTIMIZERS)


def _scheduler(reading: Reading, key: str, value: Any) -> None:
    _one_of(reading, key, value, "lr_scheduler", SCHEDULERS)


def _one_of(reading: Reading, key: str, value: Any, name: str, known: dict[str, str]) -> None:
    if isinstance(value, str) and value in known:
        reading.settings[name] = known[value]
    else:
        reading.warn(key, say("{value} is not among {known}", value=value, known=", ".join(known)))


def _precision(reading: Reading, key: str, value: Any) -> None:
    """`bf16`, `bfloat16`, `float32`: auto, true or false."""
    if value == "auto":
        reading.settings.setdefault("precision", "auto")
    elif value:
        reading.settings["precision"] = "float32" if key == "float32" else "bfloat16"
    elif key == "bf16" and not reading.values.get("bfloat16"):
        reading.settings.setdefault("precision", "float32")


def _flag(name: str) -> Callable[[Reading, str, Any], None]:
    """True for anything but false: `gradient_checkpointing: unsloth`."""

    def handle(reading: Reading, key: str, value: Any) -> None:
        reading.settings[name] = bool(value)

    return handle


def _every(name: str) -> Callable[[Reading, str, Any], None]:
    def handle(reading: Reading, key: str, value: Any) -> None:
        if reading.number(key, 1) < 1:
            reading.warn(key, say("a share of the steps is not known before the rows are counted"))
        else:
            reading.settings[name] = value

    return handle


def _train_on_inputs(reading: Reading, key: str, value: Any) -> None:
    if value:
        reading.warn(key, say("prompts are read, never learnt; rows of `text` are learnt whole"))


def _rl(reading: Reading, key: str, value: Any) -> None:
    if value != "dpo":
        raise reading.document.mistake(key, say("of the preference methods only `dpo` is done here."))
    reading.settings["method"] = "dpo"


def _never(reading: Reading, key: str, value: Any) -> None:
    if value:
        raise reading.document.mistake(key, say("a reward model is not trained here."))


HANDLERS: dict[str, Callable[[Reading, str, Any], None]] = {
    "num_epochs": _epochs,
    "optimizer": _optimizer,
    "lr_scheduler": _scheduler,
    "bf16": _precision,
    "bfloat16": _precision,
    "float32": _precision,
    "gradient_checkpointing": _flag("gradient_checkpointing"),
    "eval_steps": _every("eval_every_steps"),
    "save_steps": _every("save_every_steps"),
    "train_on_inputs": _train_on_inputs,
    "rl": _rl,
    "reward_model": _never,
    "process_reward_model": _never,
}

# ------------------------------------------------------------ several keys at once

TOGETHER = (
    "base_model",
    "adapter",
    "load_in_4bit",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "batch_size",
    "lora_target_modules",
    "lora_target_linear",
    "warmup_steps",
    "deepspeed",
    "fsdp",
    "wandb_project",
    "wandb_mode",
    "wandb_name",
    "wandb_entity",
    "use_wandb",
    *axolotl_data.KEYS,
)


def _base(reading: Reading) -> None:
    base = reading.values.get("base_model")
    if not isinstance(base, str) or not base:
        raise BadInput(say("{path}: `base_model` is missing.", path=reading.document.path))
    reading.settings["base"] = base


def _adapter(reading: Reading) -> None:
    kind = reading.values.get("adapter")
    if kind not in ("lora", "qlora"):
        key = "adapter" if "adapter" in reading.document.values else "base_model"
        raise reading.document.mistake(
            key, say("a full fine-tune is not done here: set `adapter: lora` or `adapter: qlora`.")
        )
    if kind == "qlora" or reading.values.get("load_in_4bit"):
        reading.settings["base_weights"] = "nf4"


def _batch(reading: Reading) -> None:
    values = reading.values
    if not values.keys() & {"micro_batch_size", "gradient_accumulation_steps", "batch_size"}:
        return
    times = int(reading.number("gradient_accumulation_steps", 1))
    whole = int(reading.number("batch_size", 1)) if "batch_size" in values else None
    if "micro_batch_size" in values:
        micro = int(reading.number("micro_batch_size", 1))
    else:
        micro = 1 if whole is None else max(1, whole // times)
    processes = int(reading.number("world_size", 1))
    reading.settings["micro_batch_size"] = micro
    reading.settings["batch_size"] = micro * times * processes if whole is None else whole


def _targets(reading: Reading) -> None:
    modules = reading.values.get("lora_target_modules")
    if reading.values.get("lora_target_linear") or modules in ("all-linear", ["all-linear"]):
        reading.settings["lora_target_modules"] = "all-linear"
    elif modules:
        reading.settings["lora_target_modules"] = [modules] if isinstance(modules, str) else list(modules)


def _warmup(reading: Reading) -> None:
    if "warmup_steps" not in reading.values or "warmup_fraction" in reading.settings:
        return
    steps = reading.values["warmup_steps"]
    if steps == 0:
        reading.settings["warmup_fraction"] = 0.0
    elif "max_steps" in reading.values:
        fraction = reading.number("warmup_steps", 1) / reading.number("max_steps", 1)
        reading.settings["warmup_fraction"] = min(1.0, round(fraction, 6))
    else:
        reading.warn("warmup_steps", say("how many steps there are is not known yet; give `warmup_ratio`"))


def _distributed(reading: Reading) -> None:
    for key, sharding in (("deepspeed", "deepspeed"), ("fsdp", "fsdp")):
        if reading.values.get(key):
            if reading.number("world_size", 1) > 1:
                reading.settings["sharding"] = sharding
            else:
                reading.warn(key, say("one process trains; `world_size` says how many shall"))


def _wandb(reading: Reading) -> None:
    values = reading.values
    project = values.get("wandb_project")
    if project and values.get("use_wandb", True) and values.get("wandb_mode") != "disabled":
        run = {"project": project, "name": values.get("wandb_name"), "entity": values.get("wandb_entity")}
        reading.settings["wandb"] = {key: value for key, value in run.items() if value}
        if values.get("wandb_mode", "online") != "online":
            reading.warn("wandb_mode", say("set WANDB_MODE where the server runs"))
        return
    for key in ("wandb_name", "wandb_entity", "use_wandb"):
        if values.get(key) and not project:
            reading.warn(key, say("without `wandb_project` nothing is sent"))


def _name(reading: Reading) -> str:
    """Of the adapter: the folder that Axolotl would have written to, else the file's name."""
    folder = PurePath(str(reading.values.get("output_dir", "")).rstrip("/")).name
    return axolotl_data.as_name(folder or reading.document.path.stem)
