"""LoRA layers on a frozen base, through peft."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from . import targets
from .errors import BadJob
from .job import JobSpec


def add_lora(model: Any, spec: JobSpec) -> Any:
    """Wrap the base in a PeftModel with fresh LoRA layers, drawn from the job's seed.

    Raises:
        BadJob: a target that is not there, or that cannot be served.
    """
    from peft import LoraConfig, get_peft_model

    chosen = targets.choose(model, getattr(model, "gguf_header", None), spec)
    if chosen.parameters and spec.lora.lora_dropout:
        raise BadJob("`lora.lora_dropout` must be 0 where experts are trained: peft adapts their matrices")
    torch.manual_seed(spec.seed)
    config = LoraConfig(
        r=spec.lora.r,
        lora_alpha=spec.lora.lora_alpha,  # peft takes any number
        lora_dropout=spec.lora.lora_dropout,
        use_rslora=spec.lora.use_rslora,
        target_modules=chosen.modules,
        target_parameters=chosen.parameters or None,
        # Conv1D keeps weights as (in, out).
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():  # peft 0.21 asks in a way that transformers 5 deprecates
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise BadJob(f"{targets.FIELD}: {error}") from error
    config.base_model_name_or_path = spec.base
    return wrapped


def save_lora(wrapped: Any, directory: Path) -> None:
    """A PEFT directory: adapter_config.json and adapter_model.safetensors."""
    # "auto" would look the base up on the hub.
    wrapped.save_pretrained(directory, save_embedding_layers=False)


def load_lora(wrapped: Any, directory: Path) -> None:
    """Put saved LoRA weights into a model that has the same layers.

    Raises: BadJob if a layer has no weights there, or of another shape, or weights there have no layer.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(directory / "adapter_model.safetensors")
    own = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    if missing := sorted(own.keys() - saved.keys()):
        raise BadJob(f"{directory} has no LoRA weights for {', '.join(missing[:3])}: it is of other layers")
    for name, weights in own.items():
        if weights.shape != saved[name].shape:
            raise BadJob(
                f"{directory}: {name} is {tuple(saved[name].shape)}, not {tuple(weights.shape)}: of another "
                "rank, or of another base"
            )
    result = set_peft_model_state_dict(wrapped, saved)
    if result.unexpected_keys:
        raise BadJob(f"{directory} has LoRA weights for other layers: {result.unexpected_keys[:3]}")


def copy_lora(source: Any, target: Any) -> None:
    """The LoRA weights of one PeftModel into another that has the same layers."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    set_peft_model_state_dict(target, get_peft_model_state_dict(source, save_embedding_layers=False))
