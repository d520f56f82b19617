"""Loads a base from the GGUF that is served, or from a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import Header, read_header

from ..errors import BaseUnsupported
from .config import config_keys, family_of
from .weights import fill, read_tensor


def load_base(path: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """A frozen transformers causal language model on `device`, with no dropout of its own.

    Raises:
        BaseUnsupported: this base cannot be loaded exactly; the message names the key or tensor.
    """
    model = _load_directory(path, dtype).to(device) if path.is_dir() else _load_gguf(path, device, dtype)
    model.requires_grad_(False)
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):  # Llama-like layers hand it to the attention function
            module.attention_dropout = 0.0
    return model


def _load_gguf(path: Path, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    try:
        header = read_header(path)
    except ConvertError as error:
        raise BaseUnsupported(str(error)) from error
    family = family_of(header)
    keys = config_keys(header)
    _add_longrope(keys, header)
    config = AutoConfig.for_model(family.model_type, **keys)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=_attention(config))
    model.tie_weights()
    fill(model, header, family, dtype, device)
    _apply_rope_factors(model, header)
    return model.to(device)


def _load_directory(path: Path, dtype: torch.dtype) -> Any:
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
    return model


def _attention(config: Any) -> str:
    """Of transformers' attentions only the eager one caps attention logits (Gemma 2)."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def _add_longrope(keys: dict[str, Any], header: Header) -> None:
    """Phi-3's long context: two lists of factors as tensors, of which the sequence length chooses one."""
    short = header.tensors.get("rope_factors_short.weight")
    long = header.tensors.get("rope_factors_long.weight")
    if short is None or long is None:
        return
    original = header.model_value("rope.scaling.original_context_length") or keys["max_position_embeddings"]
    keys["original_max_position_embeddings"] = original
    keys["rope_parameters"] |= {
        "rope_type": "longrope",
        "short_factor": read_tensor(short).tolist(),
        "long_factor": read_tensor(long).tolist(),
        "original_max_position_embeddings": original,
        "attention_factor": header.model_value("rope.scaling.attn_factor") or 1.0,
    }


def _apply_rope_factors(model: Any, header: Header) -> None:
    """Llama 3's factors: one divisor for each rotation frequency."""
    info = header.tensors.get("rope_freqs.weight")
    if info is None:
        return
    factors = read_tensor(info)
    rotary = model.model.rotary_emb
    rotary.inv_freq = rotary.inv_freq / factors
    rotary.original_inv_freq = rotary.inv_freq.clone()
