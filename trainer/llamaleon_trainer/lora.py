"""LoRA layers on a frozen base, through peft."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from .errors import BadJob
from .job import JobSpec


def add_lora(model: Any, spec: JobSpec) -> Any:
    """Wrap the base in a PeftModel with fresh LoRA layers, drawn from the job's seed.

    "all-linear" is peft's: every linear layer but the output head, which GGUF cannot express when tied.

    Raises:
        BadJob: a target that is not there, or that cannot be served.
    """
    from peft import LoraConfig, get_peft_model

    _refuse_tied_targets(model, spec)
    torch.manual_seed(spec.seed)
    config = LoraConfig(
        r=spec.lora.r,
        lora_alpha=spec.lora.lora_alpha,  # peft takes any number
        lora_dropout=spec.lora.lora_dropout,
        use_rslora=spec.lora.use_rslora,
        target_modules="all-linear" if spec.lora.target_modules == "auto" else spec.lora.target_modules,
        fan_in_fan_out=model.config.model_type == "gpt2",  # its Conv1D keeps weights as (in, out)
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():  # peft 0.21 asks in a way that transformers 5 deprecates
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            wrapped = get_peft_model(model, config)
    except ValueError as error:
        linear = sorted(
            {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _is_linear(module)}
        )
        raise BadJob(f"`lora.target_modules`: {error} This base has {', '.join(linear)}.") from error
    config.base_model_name_or_path = spec.base
    return wrapped


def save_lora(wrapped: Any, directory: Path) -> None:
    """A PEFT directory: adapter_config.json and adapter_model.safetensors."""
    # "auto" would look the base up on the hub.
    wrapped.save_pretrained(directory, save_embedding_layers=False)


def load_lora(wrapped: Any, directory: Path) -> None:
    """Put saved LoRA weights into a model that has the same layers."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    result = set_peft_model_state_dict(wrapped, load_file(directory / "adapter_model.safetensors"))
    if result.unexpected_keys:
        raise BadJob(f"{directory} has LoRA weights for other layers: {result.unexpected_keys[:3]}")


def _refuse_tied_targets(model: Any, spec: JobSpec) -> None:
    if not getattr(model.config, "tie_word_embeddings", False) or isinstance(spec.lora.target_modules, str):
        return
    shared = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if id(module) in shared}
    refused = sorted(names & set(spec.lora.target_modules))
    if refused:
        raise BadJob(
            f"`lora.target_modules` names {', '.join(refused)}, but this base shares one matrix between its "
            "embedding and its output head, which llama.cpp cannot adapt; leave it out"
        )


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
