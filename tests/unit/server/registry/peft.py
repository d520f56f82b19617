"""A PEFT LoRA for the base of `small.py`; imports little, because a fake trainer process uses it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH = 16  # of the base


def write_peft(folder: Path, *, seed: int = 0, base_name: str = "tiny", width: int = WIDTH) -> Path:
    """A LoRA of rank 2 on the query projection, as peft's save_pretrained writes it."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {
            f"{prefix}.lora_A.weight": rng.standard_normal((2, width)).astype(np.float32),
            f"{prefix}.lora_B.weight": rng.standard_normal((width, 2)).astype(np.float32),
        },
        folder / "adapter_model.safetensors",
    )
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": base_name,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
