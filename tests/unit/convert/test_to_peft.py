"""PEFT to GGUF and back: the same arrays, and the directory is one that PEFT loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file
from tests import tiny
from tests.lora import EXPERTS as EXPERT_TENSORS
from tests.lora import FUSED, LINEARS, random_lora
from tests.tiny import plain, reference
from tests.tiny.adapters import expected_warnings, make_adapter
from tests.unit.convert.test_check import Q, pair, write_lora
from tests.unit.convert.test_mixtures import EXPERTS, ROUTERS
from tests.unit.convert.test_numeric import MAX_KL, TOKENS
from transformers import AutoModelForCausalLM

from llamaleon_convert import ConvertError, Refused, convert, to_peft

FAMILIES = ("llama", "qwen2", "gemma3", "phi3", "gpt2", "starcoder2", *tiny.MIXED_FAMILIES)


def peft_logits(base: tiny.TinyModel, directory: Path) -> Any:
    """Of the base with the adapter that PEFT loads; a key it misses or does not know fails the test."""
    model = AutoModelForCausalLM.from_pretrained(base.hf_dir, dtype=torch.float32)
    with expected_warnings():
        loaded = peft.PeftModel.from_pretrained(model, directory)
    with torch.no_grad():
        return np.asarray(loaded(torch.tensor([TOKENS])).logits[0].numpy())


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family: str, tmp_path: Path) -> None:
    base = tiny.make(family, tmp_path)
    more: dict[str, Any] = {"fan_in_fan_out": True} if family == "gpt2" else {}
    adapter = make_adapter(base, tmp_path / "peft", **more)
    convert(adapter.directory, base.gguf, tmp_path / "adapter.gguf")
    assert to_peft(tmp_path / "adapter.gguf", base.gguf, tmp_path / "back")
    before = load_file(adapter.directory / "adapter_model.safetensors")
    after = load_file(tmp_path / "back" / "adapter_model.safetensors")
    assert set(after) == set(before)
    config = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    if config["lora_alpha"] == 16 and not config["rank_pattern"]:
        for name, array in before.items():
            np.testing.assert_array_equal(after[name], array, err_msg=name)
    assert reference.mean_kl(adapter.logits(TOKENS), peft_logits(base, tmp_path / "back")) <= MAX_KL


@pytest.mark.parametrize("family", ["mixtral", "gpt-oss", "granitehybrid"])
def test_patterns_experts_and_routers(family: str, tmp_path: Path) -> None:
    base = tiny.make(family, tmp_path)
    adapter = make_adapter(
        base,
        tmp_path / "peft",
        use_rslora=True,
        target_modules=["q_proj", "v_proj"],
        layers_to_transform=[1],
        target_parameters=[f"{EXPERTS[family]}.gate_up_proj", ROUTERS[family]],
        rank_pattern={r".*\.gate_up_proj": 4, "v_proj": 3},
    )
    convert(adapter.directory, base.gguf, tmp_path / "adapter.gguf")
    modules = to_peft(tmp_path / "adapter.gguf", base.gguf, tmp_path / "back", base_name="org/model")
    assert "model.layers.1.self_attn.q_proj" in modules
    config = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/model"
    only = "self_attn" if family == "granitehybrid" else "model.layers.1.self_attn"  # it has one such layer
    assert config["target_modules"] == [f"{only}.{name}_proj" for name in "qv"]
    assert config["target_parameters"] == sorted([f"{EXPERTS[family]}.gate_up_proj", ROUTERS[family]])
    assert reference.mean_kl(adapter.logits(TOKENS), peft_logits(base, tmp_path / "back")) <= MAX_KL


def test_embedding_and_head(tmp_path: Path) -> None:
    base = tiny.make("llama", tmp_path, tie_word_embeddings=False)
    adapter = make_adapter(base, tmp_path / "peft", target_modules=["embed_tokens", "lm_head"])
    convert(adapter.directory, base.gguf, tmp_path / "adapter.gguf")
    assert to_peft(tmp_path / "adapter.gguf", base.gguf, tmp_path / "back") == [
        "model.embed_tokens",
        "lm_head",
    ]
    assert reference.mean_kl(adapter.logits(TOKENS), peft_logits(base, tmp_path / "back")) <= MAX_KL


@pytest.mark.parametrize(("family", "scale"), [("phi3", 2.0), ("mixtral", 2.0), ("granitehybrid", 0.5)])
def test_adapters_that_peft_never_made(family: str, scale: float, tmp_path: Path) -> None:
    """Gate and up with an A each, as other tools make them: one module of both ranks."""
    base = tiny.make(family, tmp_path)
    shared = ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
    targets = (*LINEARS, *FUSED, *EXPERT_TENSORS, *shared)
    lora = random_lora(base.gguf, tmp_path / "lora.gguf", seed=3, scale=scale, targets=targets, uneven=True)
    to_peft(lora, base.gguf, tmp_path / "back")
    served = reference.llama_logits(base.gguf, TOKENS, [(lora, 1.0)])
    plainly = reference.llama_logits(base.gguf, TOKENS)
    assert reference.mean_kl(plainly, served) > 1e-4
    assert reference.mean_kl(served, peft_logits(base, tmp_path / "back")) <= MAX_KL


def test_alpha_zero_means_as_it_is(tmp_path: Path) -> None:
    """llama.cpp then applies `B A x` undivided; PEFT always divides by the rank."""
    base = plain.write_base(tmp_path / "base.gguf")
    tensors = pair(rank=3)
    keys: dict[str, Any] = {"adapter.lora.alpha": 0.0}
    write_lora(tmp_path / "lora.gguf", tensors, **keys)
    to_peft(tmp_path / "lora.gguf", base, tmp_path / "back")
    config = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    after = load_file(tmp_path / "back" / "adapter_model.safetensors")
    (b,) = (array for name, array in after.items() if "lora_B" in name)
    np.testing.assert_allclose(config["lora_alpha"] / config["r"] * b, tensors[f"{Q}.lora_b"])


def test_halves_stay_halves(tmp_path: Path) -> None:
    base = tiny.make("llama", tmp_path)
    adapter = make_adapter(base, tmp_path / "peft", dtype=torch.float16)
    convert(adapter.directory, base.gguf, tmp_path / "adapter.gguf")
    to_peft(tmp_path / "adapter.gguf", base.gguf, tmp_path / "back")
    after = load_file(tmp_path / "back" / "adapter_model.safetensors")
    assert {array.dtype for array in after.values()} == {np.dtype(np.float16)}


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of a process are POSIX's")
    base = plain.write_base(tmp_path / "b.gguf")
    convert(plain.write_peft(tmp_path / "peft"), base, tmp_path / "lora.gguf")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            ConvertError, match=r"adapter_model\.safetensors: cannot be written: File too large"
        ):
            to_peft(tmp_path / "lora.gguf", base, tmp_path / "back")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "back").iterdir()) == []


def test_refusals(tmp_path: Path) -> None:
    base, other = plain.write_base(tmp_path / "b.gguf"), plain.write_base(tmp_path / "o.gguf", seed=1)
    convert(plain.write_peft(tmp_path / "peft"), base, tmp_path / "lora.gguf")
    with pytest.raises(Refused, match="another base"):
        to_peft(tmp_path / "lora.gguf", other, tmp_path / "back")
    with pytest.raises(ConvertError, match="root 'bert'"):
        to_peft(tmp_path / "lora.gguf", base, tmp_path / "back", root="bert")
    foreign = plain.write_base(tmp_path / "m.gguf", architecture="mamba")
    with pytest.raises(Refused, match="'mamba' is not supported"):
        to_peft(random_lora(foreign, tmp_path / "m-lora.gguf", seed=0), foreign, tmp_path / "back")
    assert not (tmp_path / "back").exists()
