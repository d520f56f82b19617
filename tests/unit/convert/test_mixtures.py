"""Experts, routers and layers of two kinds: llama.cpp with the converted adapter computes what PEFT does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests import tiny
from tests.tiny.adapters import make_adapter
from tests.unit.convert.test_numeric import MAX_KL, kl_at

from llamaleon_convert import Refused, convert, expressible
from llamaleon_convert.header import read_header

EXPERTS = {
    "mixtral": "mlp.experts",
    "qwen3moe": "mlp.experts",
    "gpt-oss": "mlp.experts",
    "granitemoe": "block_sparse_moe.experts",
    "granitehybrid": "block_sparse_moe.experts",
}
ROUTERS = {
    "mixtral": "mlp.gate.weight",
    "qwen3moe": "mlp.gate.weight",
    "gpt-oss": "mlp.router.weight",
    "granitemoe": "block_sparse_moe.router.weight",
    "granitehybrid": "block_sparse_moe.router.weight",
}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.mark.parametrize("family", tiny.MIXED_FAMILIES)
def test_all_linear(family: str, tmp_path: Path) -> None:
    """PEFT's `all-linear` takes the fused experts in as well, with patterns of their own."""
    base = tiny.make(family, tmp_path)
    adapter = make_adapter(base, tmp_path / "peft", use_rslora=True)
    assert max(kl_at(base, adapter, tmp_path / "adapter.gguf", 1.0, 0.5)) <= MAX_KL


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_by_parameter(family: str, tmp_path: Path) -> None:
    """Both parameters of one module, of different ranks, beside attention and the router."""
    base, module = tiny.make(family, tmp_path), EXPERTS[family]
    adapter = make_adapter(
        base,
        tmp_path / "peft",
        target_modules=ATTENTION,
        target_parameters=[f"{module}.gate_up_proj", f"{module}.down_proj", ROUTERS[family]],
        rank_pattern={r".*\.gate_up_proj": 4, "v_proj": 3},
        alpha_pattern={r".*\.down_proj": 5},
    )
    assert max(kl_at(base, adapter, tmp_path / "adapter.gguf", 1.0, 0.5)) <= MAX_KL
    header = read_header(tmp_path / "adapter.gguf")
    assert header.tensors["blk.0.ffn_up_exps.weight.lora_a"].shape == (64, 4, 4)
    assert header.tensors["blk.0.ffn_gate_inp.weight.lora_b"].shape == (8, 4)


@pytest.mark.parametrize("parameter", ["gate_up_proj", "down_proj"])
@pytest.mark.parametrize("family", ["mixtral", "gpt-oss"])
def test_one_parameter_alone(family: str, parameter: str, tmp_path: Path) -> None:
    base = tiny.make(family, tmp_path)
    adapter = make_adapter(
        base, tmp_path / "peft", target_modules=[], target_parameters=[f"{EXPERTS[family]}.{parameter}"]
    )
    assert max(kl_at(base, adapter, tmp_path / "adapter.gguf", 1.0, 0.5)) <= MAX_KL


@pytest.mark.parametrize(
    ("family", "module", "names"),
    [
        ("mixtral", "block_sparse_moe.experts", ("w1", "w3", "w2")),
        ("qwen3moe", "mlp.experts", ("gate_proj", "up_proj", "down_proj")),
    ],
)
def test_a_module_for_each_expert(
    family: str, module: str, names: tuple[str, str, str], tmp_path: Path
) -> None:
    """As transformers 4 had them: the same adapter in both layouts gives the same file."""
    base = tiny.make(family, tmp_path)
    stacked = make_adapter(
        base,
        tmp_path / "peft",
        target_modules=[],
        target_parameters=[f"mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")],
    )
    _apart(stacked.directory, tmp_path / "apart", module, names)
    assert max(kl_at(base, stacked, tmp_path / "stacked.gguf", 1.0)) <= MAX_KL
    convert(tmp_path / "apart", base.gguf, tmp_path / "apart.gguf")
    ours, theirs = (read_header(tmp_path / f"{name}.gguf").tensors for name in ("apart", "stacked"))
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    for name, tensor in ours.items():
        other = theirs[name]
        mine = np.fromfile(tensor.file, np.uint8, tensor.nbytes, offset=tensor.offset)
        same = np.fromfile(other.file, np.uint8, other.nbytes, offset=other.offset)
        np.testing.assert_array_equal(mine, same, err_msg=name)


def _apart(stacked: Path, directory: Path, module: str, names: tuple[str, str, str]) -> None:
    experts, tensors = 4, {}
    arrays = load_file(stacked / "adapter_model.safetensors")
    for key, a in arrays.items():
        if not key.endswith("lora_A.weight"):
            continue
        b = arrays[key.replace("lora_A", "lora_B")]
        layer = key.split(".layers.")[1].split(".")[0]
        up = b.shape[0] == 64 and a.shape[1] == 64
        for number in range(experts):
            one_a = a.reshape(experts, -1, a.shape[1])[number]
            one_b = b.reshape(b.shape[0], -1, experts)[..., number]
            parts = zip(names[:2], np.split(one_b, 2), strict=True) if up else [(names[2], one_b)]
            for name, part in parts:
                prefix = f"base_model.model.model.layers.{layer}.{module}.{number}.{name}"
                tensors[f"{prefix}.lora_A.weight"] = np.ascontiguousarray(one_a)
                tensors[f"{prefix}.lora_B.weight"] = np.ascontiguousarray(part)
    directory.mkdir()
    config: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": list(names)}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "adapter_model.safetensors")


def test_granite_hybrid_without_experts(tmp_path: Path) -> None:
    base = tiny.make(
        "granitehybrid", tmp_path, num_local_experts=0, num_experts_per_tok=0, intermediate_size=48
    )
    adapter = make_adapter(base, tmp_path / "peft")
    assert max(kl_at(base, adapter, tmp_path / "adapter.gguf", 1.0, 0.5)) <= MAX_KL
    assert "blk.0.ffn_up.weight.lora_a" in read_header(tmp_path / "adapter.gguf").tensors


def test_what_a_hybrid_cannot_take_is_refused_by_name(tmp_path: Path) -> None:
    base = tiny.make("granitehybrid", tmp_path)
    adapter = make_adapter(base, tmp_path / "peft", target_modules=["q_proj"])
    weights = adapter.directory / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file(
        {key.replace("self_attn.q_proj", "mamba.conv1d"): value for key, value in tensors.items()}, weights
    )
    with pytest.raises(Refused, match=r"mamba\.conv1d"):
        convert(adapter.directory, base.gguf, tmp_path / "adapter.gguf")
    asked = ["model.layers.0.mamba.conv1d", "model.layers.0.mamba.in_proj", "model.layers.1.self_attn.q_proj"]
    assert list(expressible(read_header(base.gguf), asked)) == asked[:1]


def test_experts_of_another_model_are_refused(tmp_path: Path) -> None:
    base, other = (
        tiny.make("mixtral", tmp_path / "a"),
        tiny.make("mixtral", tmp_path / "b", intermediate_size=48),
    )
    adapter = make_adapter(
        other, tmp_path / "peft", target_modules=[], target_parameters=["mlp.experts.down_proj"]
    )
    with pytest.raises(Refused, match=r"mlp\.experts'.*experts of .* map 64 to twice 32"):
        convert(adapter.directory, base.gguf, tmp_path / "adapter.gguf")
