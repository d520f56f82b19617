"""The flags of Olive's `finetune`, with those of transformers' TrainingArguments that it takes, as a job.

Source: Olive, olive/cli/finetune.py and base.py; transformers, training_args.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

from llamaleon_clients.errors import BadInput
from llamaleon_clients.jobfiles.axolotl import OPTIMIZERS, SCHEDULERS
from llamaleon_clients.jobfiles.axolotl_data import LOADERS, as_name
from llamaleon_clients.jobfiles.olive_flags import NOT_HONOURED, SWITCHES
from llamaleon_clients.jobfiles.ours import unknown
from llamaleon_clients.jobfiles.paths import HUB, is_hub_id, located, sliced
from llamaleon_clients.jobfiles.rows import rows_of, written
from llamaleon_clients.words import say

SHORT = {
    "m": "model_name_or_path",
    "d": "data_name",
    "o": "output_path",
    "t": "task",
}
INTEGERS = {
    "lora_r": "lora_r",
    "max_seq_len": "max_sequence_tokens",
    "max_steps": "max_steps",
    "seed": "seed",
}
NUMBERS = {
    "lora_alpha": "lora_alpha",
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "warmup_ratio": "warmup_fraction",
    "label_smoothing_factor": "label_smoothing",
    "neftune_noise_alpha": "neftune_noise_alpha",
}
FLAGS = {
    "tf32": "tf32",
    "gradient_checkpointing": "gradient_checkpointing",
    "group_by_length": "group_by_length",
    "load_best_model_at_end": "load_best",
}
STEPS = {"eval_steps": "eval_every_steps", "save_steps": "save_every_steps"}
TOGETHER = (
    *("method", "model_name_or_path", "data_name", "data_files", "train_split", "eval_split"),
    *("train_subset", "eval_subset", "text_field", "text_template", "use_chat_template", "max_samples"),
    *("batch_size", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"),
    *("target_modules", "torch_dtype", "bf16", "optim", "lr_scheduler_type", "warmup_steps", "report_to"),
    *("run_name", "project", "output_path", "output_dir", "early_stopping_patience"),
)
OUTPUT = "finetuned-adapter"  # where Olive writes, unless it is told
DTYPES = {"bfloat16": "bfloat16", "float32": "float32"}
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """`--flag value`, `--flag=value`, `--switch`, and Olive's short ones; a dash in a name is an underscore.

    Raises:
        BadInput: an unknown flag, one without its value, or a word that belongs to none.
    """
    honoured = (*TOGETHER, *INTEGERS, *NUMBERS, *FLAGS, *STEPS)
    switches = {*SWITCHES, *FLAGS, "use_chat_template", "bf16"}
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            raise BadInput(say("{word}: a flag of Olive's `finetune` was expected.", word=word))
        name, equals, value = word.lstrip("-").partition("=")
        name = SHORT.get(name, name) if not word.startswith("--") else name.replace("-", "_")
        if name not in honoured and name not in NOT_HONOURED:
            raise BadInput(f"--{name}: {unknown(name, honoured, NOT_HONOURED)}")
        following = bool(rest) and not (rest[0].startswith("-") and not _is_number(rest[0]))
        if equals:
            given[name] = value
        elif name in switches and not (following and rest[0].lower() in (*TRUE, *FALSE)):
            given[name] = "true"
        elif following:
            given[name] = rest.pop(0)
        else:
            raise BadInput(say("--{name} needs a value.", name=name))
    return given


def settings_of(given: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The job's settings, and a warning for each flag that is not honoured.

    Raises:
        BadInput: a value of the wrong kind, or what cannot be a job here, naming the flag.
    """
    settings: dict[str, Any] = {}
    warnings: list[str] = []
    readers: tuple[tuple[dict[str, str], Callable[[str, str], Any]], ...] = (
        (INTEGERS, _whole),
        (NUMBERS, _number),
        (FLAGS, _truth),
        (STEPS, _number),
    )
    for flag, value in given.items():
        for names, reader in readers:
            if flag in names:
                settings[names[flag]] = reader(flag, value)
        if flag in NOT_HONOURED:
            warnings.append(_warning(flag, NOT_HONOURED[flag]()))
    for flag, name in STEPS.items():  # transformers takes a share of the steps, too
        if settings.get(name, 1) < 1:
            del settings[name]
            warnings.append(
                _warning(flag, say("a share of the steps is not known before the rows are counted"))
            )
        elif name in settings:
            settings[name] = int(settings[name])
    for together in (_model, _sizes, _choices, _reports, _data):
        together(given, settings, warnings)
    folder = given.get("output_path") or given.get("output_dir") or OUTPUT
    settings["name"] = as_name(PurePath(folder).name)
    return settings, warnings


def _warning(flag: str, reason: str) -> str:
    return say("--{flag} is not honoured: {reason}.", flag=flag, reason=reason)


# ------------------------------------------------------------ several flags at once

Given = dict[str, str]


def _model(given: Given, settings: dict[str, Any], warnings: list[str]) -> None:
    if "model_name_or_path" not in given:
        raise BadInput(say("--{name} is needed.", name="model_name_or_path"))
    settings["base"] = given["model_name_or_path"].removeprefix("https://huggingface.co/")
    method = given.get("method", "lora")
    if method not in ("lora", "qlora"):
        raise BadInput(say("--method is lora or qlora, not {value}.", value=method))
    if method == "qlora":
        settings["base_weights"] = "nf4"
    if "target_modules" in given:
        settings["lora_target_modules"] = given["target_modules"].split(",")
    if settings.get("lora_target_modules") == ["all-linear"]:
        settings["lora_target_modules"] = "all-linear"


def _sizes(given: Given, settings: dict[str, Any], warnings: list[str]) -> None:
    if "num_train_epochs" in given:
        epochs = _number("num_train_epochs", given["num_train_epochs"])
        settings["n_epochs"] = -int(-epochs // 1)
        if epochs != settings["n_epochs"]:
            reason = say("epochs are whole; {count} are trained", count=settings["n_epochs"])
            warnings.append(_warning("num_train_epochs", reason))
    micro = given.get("per_device_train_batch_size", given.get("batch_size"))
    times = _whole("gradient_accumulation_steps", given.get("gradient_accumulation_steps", "1"))
    if micro is not None or times > 1:
        size = 1 if micro is None else _whole("per_device_train_batch_size", micro)
        settings |= {"micro_batch_size": size, "batch_size": size * times}
    if settings.get("max_steps", 1) < 1:  # transformers' -1: as many as the epochs have
        del settings["max_steps"]
    if "early_stopping_patience" in given:
        settings["early_stopping_patience"] = _whole(
            "early_stopping_patience", given["early_stopping_patience"]
        )
    if "warmup_steps" in given:
        steps = _number("warmup_steps", given["warmup_steps"])
        if steps < 1:  # of transformers 5: a share
            settings["warmup_fraction"] = steps
        elif "max_steps" in settings:
            settings["warmup_fraction"] = min(1.0, round(steps / settings["max_steps"], 6))
        else:
            reason = say("how many steps there are is not known yet; give `warmup_ratio`")
            warnings.append(_warning("warmup_steps", reason))


def _choices(given: Given, settings: dict[str, Any], warnings: list[str]) -> None:
    for flag, name, known in (
        ("optim", "optimizer", OPTIMIZERS),
        ("lr_scheduler_type", "lr_scheduler", SCHEDULERS),
        ("torch_dtype", "precision", DTYPES),
    ):
        if flag not in given:
            continue
        if given[flag] in known:
            settings[name] = known[given[flag]]
        else:
            reason = say("{value} is not among {known}", value=given[flag], known=", ".join(known))
            warnings.append(_warning(flag, reason))
    if "bf16" in given and "torch_dtype" not in given:
        settings["precision"] = "bfloat16" if _truth("bf16", given["bf16"]) else "float32"


def _reports(given: Given, settings: dict[str, Any], warnings: list[str]) -> None:
    wanted = [name for name in given.get("report_to", "none").split(",") if name not in ("none", "")]
    for name in wanted:
        if name in ("tensorboard", "all"):
            settings["tensorboard"] = True
        elif name == "wandb":
            run = {"project": given.get("project", "llamaleon"), "name": given.get("run_name")}
            settings["wandb"] = {key: value for key, value in run.items() if value}
        else:
            reason = say("{value} is not among {known}", value=name, known="tensorboard, wandb")
            warnings.append(_warning("report_to", reason))


# ------------------------------------------------------------ the data


def _data(given: Given, settings: dict[str, Any], warnings: list[str]) -> None:
    name, here = given.get("data_name"), Path()
    if name is None:
        raise BadInput(say("--{name} is needed.", name="data_name"))
    files = [part for part in given.get("data_files", "").split(",") if part]
    if given.get("text_field") and given.get("text_template"):
        raise BadInput(say("give --text_field or --text_template, not both."))
    if "text_template" in given:
        settings["text_template"] = unescaped(given["text_template"])
    elif given.get("text_field", "text") != "text":
        settings["text_template"] = f"{{{given['text_field']}}}"
    if not files and is_hub_id(name, here):
        _hub_data(name, given, settings, warnings)
        return
    if files and name not in LOADERS:
        raise BadInput(say("--data_files goes with --data_name json, csv or parquet."))
    for flag in ("train_split", "train_subset", "eval_split", "eval_subset"):
        if given.get(flag, "train") not in ("train", ""):
            warnings.append(_warning(flag, say("a file has no splits")))
    paths = [Path(located(part, here)) for part in files or [name]]
    most = _whole("max_samples", given["max_samples"]) if "max_samples" in given else None
    if len(paths) == 1 and most is None:
        settings["data"] = str(paths[0])
        return
    rows = [row for path in paths for _, row in rows_of(path)][:most]
    settings["data"] = str(written(rows, as_name(paths[0].stem)))


def _hub_data(name: str, given: Given, settings: dict[str, Any], warnings: list[str]) -> None:
    """Splits are taken whole. A slice of the trained split that is to be evaluated on is held out of it."""
    asked, subset = given.get("train_split", "train"), given.get("train_subset")
    train, part = sliced(asked)
    settings["data"] = _of_hub(name, subset, train)
    valid, fraction = sliced(given.get("eval_split", ""))
    if valid and (valid, given.get("eval_subset", subset)) != (train, subset):
        settings["valid"] = _of_hub(name, given.get("eval_subset", subset), valid)
        if valid != given["eval_split"]:
            warnings.append(_warning("eval_split", say("a split is taken whole")))
    elif fraction is not None:
        settings["held_out_fraction"] = fraction
    if train != asked and (part is None or fraction is None or abs(part + fraction - 1) > 1e-6):
        warnings.append(_warning("train_split", say("a split is taken whole")))
    if "max_samples" in given:
        warnings.append(_warning("max_samples", say("a hub's rows are taken as they are")))


def unescaped(template: str) -> str:
    r"""A shell hands `\n` over as two characters; Olive makes a line break of them, and so on.

    >>> unescaped(r"### Question: {q}\n### Answer: {a}") == "### Question: {q}" + chr(10) + "### Answer: {a}"
    True
    """
    for written_as, meant in ((r"\n", "\n"), (r"\t", "\t"), (r"\r", "\r")):
        template = template.replace(written_as, meant)
    return template


def _of_hub(name: str, subset: str | None, split: str) -> str:
    name = name if name.startswith(HUB) else HUB + name
    return f"{name}/{subset}:{split}" if subset else f"{name}:{split}"


# ------------------------------------------------------------ values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _whole(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise BadInput(say("--{name} needs a whole number, not {value}.", name=flag, value=text)) from error


def _number(flag: str, text: str) -> float:
    number = float(text) if _is_number(text) else math.nan
    if not math.isfinite(number):
        raise BadInput(say("--{name} needs a number, not {value}.", name=flag, value=text))
    return number


def _truth(flag: str, text: str) -> bool:
    if text.lower() not in (*TRUE, *FALSE):
        raise BadInput(say("--{name} is true or false, not {value}.", name=flag, value=text))
    return text.lower() in TRUE
