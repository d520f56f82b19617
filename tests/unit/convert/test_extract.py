"""A full fine-tune becomes an adapter: what it keeps, what it says of the rest, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import tiny
from tests.tiny import plain, reference
from tests.tiny.adapters import make_adapter
from tests.unit.convert.test_combine import change
from tests.unit.convert.test_numeric import MAX_KL, TOKENS
from transformers import AutoModelForCausalLM

from llamaleon_convert import ConvertError, Refused, check_lora, convert, extract, merge
from llamaleon_convert.header import read_header

FAMILIES = ("llama", "qwen2", "gemma3", "phi3", "gpt2", *tiny.MIXED_FAMILIES)


def tuned_gguf(base: tiny.TinyModel, directory: Path, **lora: Any) -> tuple[Path, Path]:
    """(fine-tuned GGUF, adapter that it came from): its changes are known to be of rank 8."""
    adapter = make_adapter(base, directory / "peft", **lora)
    merge(base.gguf, [(adapter.directory, 1.0)], directory / "tuned.gguf")
    convert(adapter.directory, base.gguf, directory / "true.gguf")
    return directory / "tuned.gguf", directory / "true.gguf"


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt-oss", "qwen35"])
def test_two_ggufs(family: str, tmp_path: Path) -> None:
    base = tiny.make(family, tmp_path)
    tuned, _true = tuned_gguf(base, tmp_path)
    done = extract(base.gguf, tuned, tmp_path / "out.gguf", rank=16)
    assert (done.left_behind, done.error < 1e-4) == ({}, True)
    assert check_lora(tmp_path / "out.gguf", read_header(base.gguf)).source == "extracted"
    served = reference.llama_logits(base.gguf, TOKENS, [(tmp_path / "out.gguf", 1.0)])
    assert reference.mean_kl(reference.llama_logits(tuned, TOKENS), served) <= MAX_KL


@pytest.mark.parametrize("family", FAMILIES)
def test_two_directories(family: str, tmp_path: Path) -> None:
    """Every matrix of the transformers model is changed at full rank; rows are where llama.cpp has them."""
    base = tiny.make(family, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(base.hf_dir, dtype=torch.float32)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name and "wte" not in name and "conv1d" not in name:
                if "conv.conv" in name or "wpe" in name or name == "lm_head.weight" or "_bias" in name:
                    continue
                parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=draw))
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    model.save_pretrained(tmp_path / "tuned")
    done = extract(base.hf_dir, tmp_path / "tuned", tmp_path / "out.gguf", served=base.gguf, rank=512)
    assert done.left_behind == {}
    assert done.error < 1e-6
    plainly = reference.llama_logits(base.gguf, TOKENS)
    served = reference.llama_logits(base.gguf, TOKENS, [(tmp_path / "out.gguf", 1.0)])
    assert reference.mean_kl(expected, plainly) > 1e-2
    assert reference.mean_kl(expected, served) <= MAX_KL


def test_shards_and_modules_for_each_expert(tmp_path: Path) -> None:
    base = tiny.make("mixtral", tmp_path)
    tuned, _ = tuned_gguf(base, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(base.hf_dir, dtype=torch.float32)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    with pytest.raises(Refused, match="no matrix differs"):
        extract(base.hf_dir, tmp_path / "shards", tmp_path / "out.gguf", served=base.gguf)
    with pytest.raises(ConvertError, match="Give two of a kind"):
        extract(base.hf_dir, tuned, tmp_path / "out.gguf", served=base.gguf)


@pytest.mark.parametrize("rank", [1, 4, 7])
def test_the_error_stated_is_the_error(rank: int, tmp_path: Path) -> None:
    base = tiny.make("llama", tmp_path)
    tuned, true = tuned_gguf(base, tmp_path)
    done = extract(base.gguf, tuned, tmp_path / "out.gguf", rank=rank)
    lost = whole = 0.0
    for tensor, stated in done.errors.items():
        expected, actual = change(true, base.gguf, tensor), change(tmp_path / "out.gguf", base.gguf, tensor)
        error = float(np.linalg.norm(expected - actual))
        assert stated == pytest.approx(error / np.linalg.norm(expected), abs=1e-4)
        best = np.sqrt((np.linalg.svd(expected, compute_uv=False)[rank:] ** 2).sum())
        assert error == pytest.approx(best, rel=1e-3)
        lost, whole = lost + error**2, whole + float(np.linalg.norm(expected)) ** 2
    assert done.error == pytest.approx((lost / whole) ** 0.5, abs=1e-4)


def test_a_quantised_base(tmp_path: Path) -> None:
    """From the quantised base itself, the adapter also corrects what quantisation did to it."""
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512}
    full = tiny.make("qwen2", tmp_path, **sizes)
    served = tiny.make("qwen2", tmp_path, file_type="Q4_K_M", **sizes)
    tuned, true = tuned_gguf(full, tmp_path)
    extract(full.gguf, tuned, tmp_path / "out.gguf", served=served.gguf, rank=8)
    expected = reference.llama_logits(served.gguf, TOKENS, [(true, 1.0)])
    actual = reference.llama_logits(served.gguf, TOKENS, [(tmp_path / "out.gguf", 1.0)])
    assert reference.mean_kl(expected, actual) <= MAX_KL
    direct = extract(served.gguf, tuned, tmp_path / "direct.gguf", rank=256, tolerance=1.0)
    assert direct.error < 1e-6
    corrected = reference.llama_logits(served.gguf, TOKENS, [(tmp_path / "direct.gguf", 1.0)])
    wanted = reference.llama_logits(tuned, TOKENS)
    assert reference.mean_kl(wanted, corrected) < reference.mean_kl(wanted, expected) / 2


def test_what_cannot_be_carried_is_named(tmp_path: Path) -> None:
    base = tiny.make("qwen2", tmp_path, tie_word_embeddings=True)
    tensors = load_file(base.hf_dir / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] *= 1.2
    tensors["model.layers.1.input_layernorm.weight"] *= 1.05
    tensors["model.embed_tokens.weight"] *= 1.5
    tensors["model.layers.0.self_attn.q_proj.bias"] *= 1.0001
    (tmp_path / "tuned").mkdir()
    save_file(tensors, tmp_path / "tuned" / "model.safetensors")
    directories = base.hf_dir, tmp_path / "tuned"
    with pytest.raises(Refused) as refused:
        extract(*directories, tmp_path / "out.gguf", served=base.gguf)
    assert "2 tensors that no LoRA can carry changed by more than 1.00%" in str(refused.value)
    assert "model.embed_tokens.weight by 50.00%, model.layers.1.input_layernorm.weight by 5.00%." in str(
        refused.value
    )
    assert not (tmp_path / "out.gguf").exists()
    done = extract(*directories, tmp_path / "out.gguf", served=base.gguf, tolerance=0.6)
    assert list(done.errors) == ["blk.0.ffn_up.weight"]
    assert done.left_behind["model.layers.0.self_attn.q_proj.bias"] == pytest.approx(1e-4, rel=0.01)
    assert len(done.left_behind) == 3


def test_numbers_without_a_matrix_or_a_vector_are_compared(tmp_path: Path) -> None:
    """A multimodal model has a scale or two of no dimensions."""
    base = tiny.make("qwen2", tmp_path)
    for name, scale in (("before", 1.0), ("after", 1.002)):
        tensors = load_file(base.hf_dir / "model.safetensors")
        tensors["model.layers.0.mlp.up_proj.weight"] *= scale
        tensors["model.vision.logit_scale"] = torch.tensor(2.0 * scale)
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    done = extract(tmp_path / "before", tmp_path / "after", tmp_path / "out.gguf", served=base.gguf)
    assert done.left_behind == {"model.vision.logit_scale": pytest.approx(0.002, rel=0.01)}


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("blk.0.ffn_up.weight", r"tensor 'blk\.0\.ffn_up\.weight': the change holds NaN"),
        (
            "blk.0.attn_norm.weight",
            r"no LoRA can carry changed by more than 1\.00%: blk\.0\.attn_norm\.weight",
        ),
    ],
)
def test_a_model_that_diverged_is_refused(tensor: str, message: str, tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    info = read_header(base).tensors[tensor]
    content = bytearray(base.read_bytes())
    content[info.offset : info.offset + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "tuned.gguf").write_bytes(content)
    with pytest.raises(Refused, match=message):
        extract(base, tmp_path / "tuned.gguf", tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out.gguf*"))


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamaleon_convert.lowrank.EXACT_ELEMENTS", 0)
    base = tiny.make("llama", tmp_path)
    tuned, _ = tuned_gguf(base, tmp_path)
    errors = [extract(base.gguf, tuned, tmp_path / name, rank=8, seed=1).error for name in ("a", "b")]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert errors[0] < 1e-3


def test_refusals(tmp_path: Path) -> None:
    base, other = plain.write_base(tmp_path / "b.gguf"), plain.write_base(tmp_path / "o.gguf", tied=False)
    foreign = plain.write_base(tmp_path / "f.gguf", architecture="llama")
    with pytest.raises(Refused, match="nothing to extract"):
        extract(base, base, tmp_path / "out.gguf")
    with pytest.raises(ConvertError, match=r"only one has 'output\.weight'"):
        extract(base, other, tmp_path / "out.gguf")
    with pytest.raises(ConvertError, match="architecture 'llama'"):
        extract(base, foreign, tmp_path / "out.gguf")
    with pytest.raises(ConvertError, match="rank is 0"):
        extract(base, other, tmp_path / "out.gguf", rank=0)
    with pytest.raises(ConvertError, match="seed is -1"):
        extract(base, other, tmp_path / "out.gguf", seed=-1)
    with pytest.raises(ConvertError, match=r"o\.gguf: one of the two models"):
        extract(base, other, other)
    with pytest.raises(ConvertError, match="Name the GGUF that the adapter will be served with"):
        extract(tmp_path, tmp_path, tmp_path / "out.gguf")
    with pytest.raises(ConvertError, match=r"neither model\.safetensors nor"):
        extract(tmp_path, tmp_path, tmp_path / "out.gguf", served=base)
    assert not (tmp_path / "out.gguf").exists()
