"""llama.cpp with the converted adapter computes what PEFT computes: every family, every kind of adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.data import shared
from tests.tiny import reference
from tests.tiny.adapters import TinyAdapter, make_adapter

from llamaleon_convert import Refused, convert
from llamaleon_convert.header import read_header

TOKENS = [1, 80, 100, 45, 201, 33, 260, 97, 98, 2, 150, 7, 310, 12]
MAX_KL = 1e-6  # nats per token, on an F32 base
EVERY = tiny.FAMILIES + tiny.MORE_FAMILIES
UNTIED = [family for family in EVERY if not family.startswith("gemma")]  # llama.cpp's gemmas are always tied
TIED = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "granite")
EMBEDDING = {"gpt2": "wte"}
UP = {
    "gpt2": "mlp.c_fc",
    "phi3": "gate_up_proj",
    "starcoder2": "mlp.c_fc",
    "qwen3moe": "v_proj",
    "granitemoe": "v_proj",
}
ATTENTION = {"gpt2": r"h\.0\.attn\.c_attn", "phi3": r"layers\.0\.self_attn\.qkv_proj"}


def kl_at(base: tiny.TinyModel, adapter: TinyAdapter, out: Path, *scales: float) -> list[float]:
    """Mean KL of llama.cpp from PEFT at each scale; asserts that the adapter does something, and lets go."""
    convert(adapter.directory, base.gguf, out)
    figures = []
    with reference.open_model(base.gguf) as model:
        plain = model.logits(TOKENS)
        for scale in scales:
            expected = adapter.logits(TOKENS, scale=scale)
            assert reference.mean_kl(expected, plain) > 1e-3
            figures.append(reference.mean_kl(expected, model.logits(TOKENS, [(out, scale)])))
        np.testing.assert_array_equal(model.logits(TOKENS), plain)
    return figures


def settings(family: str, case: str) -> dict[str, Any]:
    up, attention = UP.get(family, "up_proj"), ATTENTION.get(family, r"layers\.0\.self_attn\.k_proj")
    ranks, alphas = {up: 3, attention: 5}, {attention: 40, up: 7}
    by_case: dict[str, dict[str, Any]] = {
        "plain": {},
        "rank_pattern": {"rank_pattern": ranks},
        "alpha_pattern": {"alpha_pattern": alphas},
        "rslora": {"use_rslora": True},
        "rslora_and_patterns": {"use_rslora": True, "rank_pattern": ranks, "alpha_pattern": alphas},
    }
    return by_case[case]


@pytest.mark.parametrize("case", ["plain", "rank_pattern", "alpha_pattern", "rslora", "rslora_and_patterns"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_all_linear(family: str, case: str, tmp_path: Path) -> None:
    base = tiny.make(family, tmp_path)
    lora = settings(family, case)
    if family == "gpt2":
        lora["fan_in_fan_out"] = True
    adapter = make_adapter(base, tmp_path / "peft", **lora)
    assert max(kl_at(base, adapter, tmp_path / "adapter.gguf", 1.0, 0.5)) <= MAX_KL


@pytest.mark.parametrize("family", tiny.MORE_FAMILIES)
def test_more_families(family: str, tmp_path: Path) -> None:
    base = tiny.make(family, tmp_path)
    lora = settings(family, "rslora_and_patterns")
    if family.endswith("moe"):
        lora["target_modules"] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapter = make_adapter(base, tmp_path / "peft", **lora)
    assert max(kl_at(base, adapter, tmp_path / "adapter.gguf", 1.0, 0.5)) <= MAX_KL


@pytest.mark.parametrize("family", UNTIED)
def test_embedding_and_head(family: str, tmp_path: Path) -> None:
    base = tiny.make(family, tmp_path, tie_word_embeddings=False)
    adapter = make_adapter(
        base, tmp_path / "peft", target_modules=[EMBEDDING.get(family, "embed_tokens"), "lm_head"]
    )
    assert max(kl_at(base, adapter, tmp_path / "adapter.gguf", 1.0, 0.5)) <= MAX_KL


@pytest.mark.parametrize("target", ["embedding", "lm_head"])
@pytest.mark.parametrize("family", TIED)
def test_tied_embedding_and_head_are_refused(family: str, target: str, tmp_path: Path) -> None:
    base = tiny.make(family, tmp_path, tie_word_embeddings=True)
    name = EMBEDDING.get(family, "embed_tokens") if target == "embedding" else target
    adapter = make_adapter(base, tmp_path / "peft", target_modules=[name])
    with pytest.raises(Refused, match="ties its embedding to its output head"):
        convert(adapter.directory, base.gguf, tmp_path / "adapter.gguf")
    assert not (tmp_path / "adapter.gguf").exists()


def test_biases_of_the_base_do_not_matter(tmp_path: Path) -> None:
    base = tiny.make("llama", tmp_path, attention_bias=True, mlp_bias=True)
    adapter = make_adapter(base, tmp_path / "peft")
    assert max(kl_at(base, adapter, tmp_path / "adapter.gguf", 1.0)) <= MAX_KL


def test_scale_is_written_into_the_file(tmp_path: Path) -> None:
    base = tiny.make("qwen2", tmp_path)
    adapter = make_adapter(base, tmp_path / "peft")
    manifest = convert(adapter.directory, base.gguf, tmp_path / "half.gguf", scale=0.5)
    actual = reference.llama_logits(base.gguf, TOKENS, [(tmp_path / "half.gguf", 1.0)])
    assert manifest.alpha == 8.0
    assert reference.mean_kl(adapter.logits(TOKENS, scale=0.5), actual) <= MAX_KL


@pytest.mark.parametrize(
    ("dtype", "served"), [(torch.float32, "F32"), (torch.float16, "F16"), (torch.bfloat16, "F32")]
)
def test_stored_precisions(dtype: torch.dtype, served: str, tmp_path: Path) -> None:
    base = tiny.make("llama", tmp_path)
    adapter = make_adapter(base, tmp_path / "peft", dtype=dtype)
    (kl,) = kl_at(base, adapter, tmp_path / "adapter.gguf", 1.0)
    types = {tensor.type for tensor in read_header(tmp_path / "adapter.gguf").tensors.values()}
    assert types == {served}
    assert kl <= MAX_KL


@pytest.mark.parametrize("file_type", ["F16", "Q8_0", "Q4_K_M"])
def test_quantised_base_changes_nothing_in_the_file(file_type: str, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512}
    full = tiny.make("llama", tmp_path, **sizes)
    quantised = tiny.make("llama", tmp_path, file_type=file_type, **sizes)
    adapter = make_adapter(full, tmp_path / "peft")
    convert(adapter.directory, quantised.gguf, tmp_path / "adapter.gguf")
    base = reference.mean_kl(
        adapter.logits(TOKENS, scale=0.0), reference.llama_logits(quantised.gguf, TOKENS)
    )
    served = reference.llama_logits(quantised.gguf, TOKENS, [(tmp_path / "adapter.gguf", 1.0)])
    # What remains is the base's own quantisation, not the adapter's.
    assert reference.mean_kl(adapter.logits(TOKENS), served) < 3 * base


def test_embedding_on_a_quantised_base(tmp_path: Path) -> None:
    """PEFT saves the full-precision embedding beside its LoRA: it is recognised through the quantisation."""
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "tie_word_embeddings": False}
    full = tiny.make("qwen2", tmp_path, **sizes)
    quantised = tiny.make("qwen2", tmp_path, file_type="Q2_K", **sizes)
    other = tiny.make("qwen2", tmp_path / "other", file_type="Q2_K", seed=1, **sizes)
    adapter = make_adapter(full, tmp_path / "peft", target_modules=["embed_tokens", "lm_head"])
    out = tmp_path / "adapter.gguf"
    assert convert(adapter.directory, quantised.gguf, out).target_tensors == [
        "output.weight",
        "token_embd.weight",
    ]
    with pytest.raises(Refused, match=r"is not '(token_embd|output)\.weight'"):
        convert(adapter.directory, other.gguf, out)


def test_a_trained_model_with_a_gguf_made_elsewhere(tmp_path: Path) -> None:
    """stories260K's GGUF was not written by these tests, so its layout is llama.cpp's, not ours."""
    base = tiny.TinyModel(shared("stories260K/hf"), shared("stories260K/stories260K-f32.gguf"), "llama")
    adapter = make_adapter(base, tmp_path / "peft", use_rslora=True)
    assert max(kl_at(base, adapter, tmp_path / "adapter.gguf", 1.0, 0.5)) <= MAX_KL
