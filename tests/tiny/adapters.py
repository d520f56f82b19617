"""Random PEFT adapters of tiny models, saved as PEFT saves them, with PEFT's own logits to compare with."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import peft
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from tests.tiny import TinyModel

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TinyAdapter:
    directory: Path
    model: Any  # PeftModel

    def logits(self, tokens: Sequence[int], *, scale: float = 1.0) -> Array:
        """PEFT's logits of one sequence, (n_tokens, n_vocab), the adapter's effect multiplied by `scale`."""
        layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        originals = [dict(layer.scaling) for layer in layers]
        try:
            for layer in layers:
                layer.scaling["default"] *= scale
            with torch.no_grad():
                return np.asarray(self.model(torch.tensor([list(tokens)])).logits[0].float().numpy())
        finally:
            for layer, scaling in zip(layers, originals, strict=True):
                layer.scaling.update(scaling)


def make_adapter(
    base: TinyModel,
    directory: Path,
    *,
    seed: int = 0,
    strength: float = 0.4,
    dtype: torch.dtype = torch.float32,
    **lora_config: Any,
) -> TinyAdapter:
    """A LoRA with both factors random: `strength` is about the size of `B A x` beside `W x`.

    Args:
        lora_config: of peft.LoraConfig; all linear layers are targeted unless it says otherwise.
    """
    with expected_warnings():
        config = peft.LoraConfig(**{"target_modules": "all-linear", "r": 8, "lora_alpha": 16, **lora_config})
        loaded = AutoModelForCausalLM.from_pretrained(base.hf_dir, dtype=torch.float32)
        model = peft.get_peft_model(loaded, config)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = _random_factor(name, parameter, draw, strength).to(dtype)
    with expected_warnings():
        model.save_pretrained(directory)
    return TinyAdapter(directory, model.to(torch.float32).eval())


@contextmanager
def expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # peft announces that it also saves the embeddings it targets and that tying is delicate, and it uses
        # a name that transformers renamed.
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`")
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        # Patterns of parameters are honoured, but peft looks for modules of that name.
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


def _random_factor(
    name: str, parameter: torch.Tensor, draw: torch.Generator, strength: float
) -> torch.Tensor:
    noise = torch.randn(parameter.shape, generator=draw)
    if "lora_embedding_A" in name:
        return noise  # (rank, n_vocab): a column is looked up, not summed over
    n_in = parameter.shape[-1]
    is_b = "lora_B" in name or "lora_embedding_B" in name
    return noise * (strength if is_b else 1.0) * float(n_in**-0.5)
