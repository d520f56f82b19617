"""The base loaded for training computes what llama.cpp computes from the same file, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from tests.data import shared
from tests.tiny.reference import llama_logits

from llamaleon_trainer.base.load import load_base
from llamaleon_trainer.errors import BaseUnsupported
from llamaleon_trainer.parity import Parity, compare
from llamaleon_trainer.scoring import Scorer

TOKENS = [(7 * n) % 250 + 3 for n in range(40)]
CPU = torch.device("cpu")
EVERY = [*tiny.FAMILIES, *tiny.MORE_FAMILIES, *tiny.MIXED_FAMILIES]
NO_EXPERTS = {"num_local_experts": 0, "num_experts_per_tok": 0, "intermediate_size": 48}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in EVERY),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"attention_bias": False, "head_dim": 16}),
    ("gemma2", {"sliding_window": 8}),
    ("gemma3", {"sliding_window": 8, "num_hidden_layers": 7}),
    ("phi3", {"sliding_window": 8}),  # which llama.cpp does not heed
    ("granite", {"tie_word_embeddings": True}),
    ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": False}),
    ("smollm3", {"num_hidden_layers": 5, "tie_word_embeddings": False}),
    ("granitehybrid", {**NO_EXPERTS, "position_embedding_type": "rope"}),
]


# ggml computes GELU from a table of 16-bit floats.
EXACT = dict.fromkeys(("gemma", "gemma2", "gemma3", "gpt2", "starcoder2"), 1e-6)


def parity(path: Path) -> Parity:
    scorer = Scorer(load_base(path, CPU, torch.float32), CPU, autocast=False)
    source = path if path.is_file() else next(path.parent.glob("*.gguf"))
    return compare({"0": llama_logits(source, TOKENS)}, {"0": scorer.logits([TOKENS])[0]})


@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=lambda value: str(value)[:60])
def test_f32_gguf_is_exact(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    assert parity(tiny.make(family, tmp_path, **changes).gguf).mean_kl < EXACT.get(family, 1e-9)


@pytest.mark.parametrize("family", EVERY)
def test_hugging_face_directory_is_exact(tmp_path: Path, family: str) -> None:
    assert parity(tiny.make(family, tmp_path).hf_dir).mean_kl < EXACT.get(family, 1e-9)


# llama.cpp rounds activations to 8 bits for quantised weights (16 for F16): that is all that differs.
QUANTISED = [("F16", 1e-5), ("BF16", 1e-4), ("Q8_0", 1e-3), ("Q4_K_M", 5e-3), ("Q5_0", 5e-3), ("Q6_K", 5e-3)]


@pytest.mark.parametrize(("file_type", "limit"), QUANTISED)
def test_quantised_gguf(tmp_path: Path, file_type: str, limit: float) -> None:
    model = tiny.make("llama", tmp_path, file_type=file_type, hidden_size=256, intermediate_size=512)
    assert parity(model.gguf).mean_kl < limit


def test_a_trained_model_is_exact() -> None:
    assert parity(shared("stories260K/stories260K-f32.gguf")).mean_kl < 1e-9


def test_an_unknown_architecture_names_the_supported_ones(tmp_path: Path) -> None:
    path = _with_bytes_replaced(tiny.make("qwen2", tmp_path).gguf, b"qwen2", b"qwenX")
    with pytest.raises(BaseUnsupported, match=r"'qwenX' is not supported; supported: llama, .*gpt2"):
        load_base(path, CPU, torch.float32)


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    path = _with_bytes_replaced(tiny.make("llama", tmp_path).gguf, b"blk.1.attn_norm", b"blk.1.attn_nXrm")
    with pytest.raises(BaseUnsupported, match=r"no tensor for the model's .*layers\.1\.input_layernorm"):
        load_base(path, CPU, torch.float32)


def test_a_bias_the_model_has_no_place_for_is_named(tmp_path: Path) -> None:
    path = _with_bytes_replaced(tiny.make("qwen2", tmp_path).gguf, b"qwen2", b"llama")
    with pytest.raises(BaseUnsupported):
        load_base(path, CPU, torch.float32)


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BaseUnsupported, match="Git LFS pointer"):
        load_base(path, CPU, torch.float32)


def test_a_directory_whose_weights_do_not_fit(tmp_path: Path) -> None:
    directory = tiny.make("llama", tmp_path).hf_dir
    config = directory / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(BaseUnsupported, match=r"missing_keys: model\.layers\.2"):
        load_base(directory, CPU, torch.float32)


def _with_bytes_replaced(path: Path, old: bytes, new: bytes) -> Path:
    assert len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old, new))
    return path
