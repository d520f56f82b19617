"""`expressible`: what cannot become a GGUF LoRA is known before training."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import mixtures, plain

from llamaleon_convert import expressible
from llamaleon_convert.header import read_header

LAYER = "model.layers.0."


def test_what_can_be_converted_has_no_reason(tmp_path: Path) -> None:
    base = read_header(plain.write_base(tmp_path / "base.gguf"))
    assert expressible(base, [f"{LAYER}{module}" for module, _, _ in plain.LAYER.values()]) == {}
    assert expressible(base, []) == {}


def test_each_other_module_has_its_reason(tmp_path: Path) -> None:
    base = read_header(plain.write_base(tmp_path / "base.gguf"))
    asked = [f"{LAYER}self_attn.q_proj", f"{LAYER}input_layernorm", "lm_head", "model.layers.7.mlp.up_proj"]
    reasons = expressible(base, asked)
    assert list(reasons) == asked[1:]
    assert "no counterpart" in reasons[f"{LAYER}input_layernorm"]
    assert "ties its embedding to its output head" in reasons["lm_head"]
    assert "which base.gguf does not have" in reasons["model.layers.7.mlp.up_proj"]


def test_experts_routers_and_what_is_neither(tmp_path: Path) -> None:
    base = read_header(mixtures.mixtral(tmp_path / "mixtral.gguf"))
    fine = ["mlp.experts", "mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate", "mlp.gate.weight"]
    fine += ["block_sparse_moe.experts.3.w2"]
    assert expressible(base, [LAYER + name for name in fine]) == {}
    wrong = [f"{LAYER}mlp.up_proj", f"{LAYER}mlp.experts.act_fn", f"{LAYER}input_layernorm.weight"]
    assert list(expressible(base, wrong)) == wrong
    dense = read_header(plain.write_base(tmp_path / "dense.gguf", architecture="llama"))
    assert list(expressible(dense, [f"{LAYER}mlp.experts.down_proj", f"{LAYER}mlp.up_proj"])) == [
        f"{LAYER}mlp.experts.down_proj"
    ]


def test_an_architecture_that_is_not_supported(tmp_path: Path) -> None:
    base = read_header(plain.write_base(tmp_path / "base.gguf", architecture="mamba"))
    assert "'mamba' is not supported" in expressible(base, [f"{LAYER}mixer.in_proj"])[f"{LAYER}mixer.in_proj"]
