"""Loads a base from the GGUF that is served, or from a Hugging Face directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import Header, read_header

from ..errors import BaseUnsupported
from ..job import JobSpec
from .choice import SHARE, resolve
from .config import config_keys, family_of
from .nf4 import nf4_linear
from .tensors import Tensors
from .weights import Filler, is_linear

FUSED_MAMBA = "mamba2_split_conv1d_scan_combined"  # of transformers' modules
NF4_KL_FACTOR = 10  # NF4 is not what is served: its divergence was 0.03 to 0.08 on tiny models


def load_base(path: Path, device: torch.device, dtype: torch.dtype, weights: str = "full") -> Any:
    """A frozen transformers causal language model on `device`, with no dropout of its own.

    Args:
        dtype: of everything that is not quantised, and of what quantised weights become to be multiplied.
        weights: one of job.BASE_WEIGHTS; the model's `base_weights` says what "auto" became, and its
            `gguf_header` what it was made from (None for a directory).

    Raises:
        BaseUnsupported: this base cannot be loaded exactly; the message names the key or tensor.
        BadJob: packed blocks of a base that has none.
    """
    header = None if path.is_dir() else _read_header(path)
    chosen = resolve(weights, header, free_bytes(device), dtype.itemsize)
    if header is None:
        model, chosen = _load_directory(path, device, dtype, chosen)
    else:
        model = _load_gguf(header, device, dtype, chosen)
    model.base_weights, model.gguf_header = chosen, header
    model.requires_grad_(False)
    _leave_projections_to_layers(model)
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):  # Llama-like layers hand it to the attention function
            module.attention_dropout = 0.0
    return model


def _leave_projections_to_layers(model: Any) -> None:
    """Where mamba_ssm is installed, its fused kernel multiplies by the weight of the output projection: past
    the LoRA around that layer, which would learn nothing, and by packed bytes as if they were numbers.
    Without it transformers takes kernels for what is between the projections, and then the layer.
    """
    family = sys.modules[type(model).__module__]
    if hasattr(family, FUSED_MAMBA):
        setattr(family, FUSED_MAMBA, lambda *_, **__: None)


def base_kl_limit(spec: JobSpec, model: Any) -> float:
    """Mean KL per token from the served base above which `model` does not count as that base.

    A base in NF4 that came from a GGUF is proved on the blocks of that file, one from a directory as it is.
    """
    rough = model.base_weights == "nf4" and model.gguf_header is None
    return spec.max_base_kl * (NF4_KL_FACTOR if rough else 1)


def free_bytes(device: torch.device) -> int:
    """Memory that is free there now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return int(psutil.virtual_memory().available)


def skeleton(header: Header, dtype: torch.dtype = torch.float32) -> Any:
    """The transformers model of a GGUF with its layers and buffers, but no weights: they are on `meta`.

    Raises: BaseUnsupported.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    keys = config_keys(header)
    _add_longrope(keys, header)
    config = AutoConfig.for_model(family_of(header).model_type, **keys)
    with no_init_weights(), _parameters_on_meta():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=_attention(config))
    model.eval()
    return model


def _read_header(path: Path) -> Header:
    try:
        return read_header(path)
    except ConvertError as error:
        raise BaseUnsupported(str(error)) from error


def _load_gguf(header: Header, device: torch.device, dtype: torch.dtype, weights: str) -> Any:
    model = skeleton(header, dtype)
    Filler(model, Tensors(header), family_of(header), dtype, device).fill(weights)
    _apply_rope_factors(model, header)
    return model.to(device)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters of modules made inside have no memory; buffers, which are computed, are as ever."""
    original = nn.Module.register_parameter

    def register(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":  # a tied one is there already
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        original(module, name, param)

    nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]  # on purpose
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]  # put back


def _load_directory(path: Path, device: torch.device, dtype: torch.dtype, weights: str) -> tuple[Any, str]:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=_attention(config),
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise BaseUnsupported(f"{path} cannot be loaded as a Hugging Face model: {error}") from error
    wrong = [f"{kind}: {', '.join(sorted(map(str, keys))[:5])}" for kind, keys in loaded.items() if keys]
    if wrong:
        raise BaseUnsupported(f"the weights in {path} do not fit its config.json ({'; '.join(wrong)})")
    if weights == "auto":
        size = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
        weights = "full" if device.type == "cpu" or size <= SHARE * free_bytes(device) else "nf4"
    if weights == "nf4":
        _quantize(model, device)
    return model.to(device), weights


def _quantize(model: Any, device: torch.device) -> None:
    """Every linear layer but the head to NF4, one by one, on `device`."""
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if is_linear(module) and module is not head:
            weight = module.weight.data
            parent, _, child = name.rpartition(".")
            rows = weight if type(module) is nn.Linear else weight.T  # Conv1D
            setattr(model.get_submodule(parent), child, nf4_linear(rows, module.bias, device))


def _attention(config: Any) -> str:
    """Of transformers' attentions only the eager one caps logits (Gemma 2) or has sinks (gpt-oss)."""
    capped = getattr(config, "attn_logit_softcapping", None) or config.model_type == "gpt_oss"
    return "eager" if capped else "sdpa"


def _add_longrope(keys: dict[str, Any], header: Header) -> None:
    """Phi-3's long context: two lists of factors as tensors, of which the sequence length chooses one."""
    short = header.tensors.get("rope_factors_short.weight")
    long = header.tensors.get("rope_factors_long.weight")
    if short is None or long is None:
        return
    tensors = Tensors(header)
    original = header.model_value("rope.scaling.original_context_length") or keys["max_position_embeddings"]
    keys["original_max_position_embeddings"] = original
    keys["rope_parameters"] |= {
        "rope_type": "longrope",
        "short_factor": tensors.read(short).tolist(),
        "long_factor": tensors.read(long).tolist(),
        "original_max_position_embeddings": original,
        "attention_factor": header.model_value("rope.scaling.attn_factor") or 1.0,
    }


def _apply_rope_factors(model: Any, header: Header) -> None:
    """Llama 3's factors: one divisor for each rotation frequency."""
    info = header.tensors.get("rope_freqs.weight")
    if info is None:
        return
    factors = Tensors(header).read(info)
    rotary = model.model.rotary_emb
    rotary.inv_freq = rotary.inv_freq / factors
    rotary.original_inv_freq = rotary.inv_freq.clone()
