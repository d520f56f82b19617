"""Rotations that a GGUF describes in keys and tensors of its own: each equal to llama.cpp's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tests import tiny
from tests.tiny.reference import llama_logits

from llamaleon_trainer.base.load import load_base
from llamaleon_trainer.errors import BaseUnsupported
from llamaleon_trainer.parity import compare
from llamaleon_trainer.scoring import Scorer

TOKENS = [(7 * n) % 250 + 3 for n in range(60)]
CPU = torch.device("cpu")
FACTORS = np.linspace(1.0, 8.0, 8, dtype=np.float32)  # one for each rotated pair of a head of 16
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32}
LONGROPE = {"rope.scaling.attn_factor": 1.2, "rope.scaling.original_context_length": 512}

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama 3 factors": ("llama", {}, {"rope_freqs.weight": FACTORS}),
    "linear": ("qwen2", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5}, {}),
    "old linear": ("llama", {"rope.scale_linear": 2.5}, {}),
    "yarn": ("qwen2", YARN, {}),
    "yarn with its own ramp": ("qwen3", {**YARN, "rope.scaling.yarn_beta_fast": 8.0}, {}),
    "longrope": (
        "phi3",
        LONGROPE,
        {"rope_factors_short.weight": FACTORS, "rope_factors_long.weight": FACTORS * 4},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rotations_equal_llama_cpp(tmp_path: Path, case: str) -> None:
    family, keys, tensors = CASES[case]
    model = tiny.make(family, tmp_path, head_dim=16) if family != "phi3" else tiny.make(family, tmp_path)
    plain = _logits(model.gguf)
    path = _with(model.gguf, {f"{family}.{key}": value for key, value in keys.items()}, tensors)
    ours = _logits(path)
    assert compare({"0": llama_logits(path, TOKENS)}, {"0": ours}).mean_kl < 1e-9
    assert compare({"0": plain}, {"0": ours}).mean_kl > 1e-4  # so the case does rotate otherwise


def test_unknown_scaling_is_refused(tmp_path: Path) -> None:
    path = _with(tiny.make("llama", tmp_path).gguf, {"llama.rope.scaling.type": "spiral"}, {})
    with pytest.raises(BaseUnsupported, match="rope scaling of type 'spiral' is not supported"):
        load_base(path, CPU, torch.float32)


def _logits(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    return Scorer(load_base(path, CPU, torch.float32), CPU, autocast=False).logits([TOKENS])[0]


def _with(path: Path, keys: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """A copy of a GGUF with more keys and tensors."""
    reader = gguf.GGUFReader(path)
    target = path.with_name("changed.gguf")
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", *keys):
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for name, value in keys.items():
        kind = {str: gguf.GGUFValueType.STRING, int: gguf.GGUFValueType.UINT32}
        writer.add_key_value(name, value, kind.get(type(value), gguf.GGUFValueType.FLOAT32))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
