"""The tiny models are what they claim: llama.cpp computes what transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.tiny import reference
from tests.tiny.families import CONFIGS
from tests.tiny.gguf_export import ARCHITECTURES as ALIASES
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamaleon_convert.architectures import ARCHITECTURES
from llamaleon_convert.header import read_header

TOKENS = [1, 80, 100, 45, 201, 33, 260, 97, 98, 2, 150, 7]


def test_every_family_is_named() -> None:
    assert set(tiny.FAMILIES + tiny.MORE_FAMILIES + tiny.MIXED_FAMILIES) == set(CONFIGS)
    architectures = {ALIASES.get(config.model_type, config.model_type) for config, _ in CONFIGS.values()}
    assert architectures == set(ARCHITECTURES), "an architecture is supported if and only if it is tested"


@pytest.mark.parametrize("family", tiny.FAMILIES + tiny.MORE_FAMILIES + tiny.MIXED_FAMILIES)
def test_llama_cpp_equals_transformers(family: str, tmp_path: Path) -> None:
    model = tiny.make(family, tmp_path)
    with torch.no_grad():
        torch_model = AutoModelForCausalLM.from_pretrained(model.hf_dir)
        expected = torch_model(torch.tensor([TOKENS])).logits[0].numpy()
    actual = reference.llama_logits(model.gguf, TOKENS)
    assert np.abs(expected).max() > 0.5
    assert np.abs(expected - actual).max() < 2e-3
    assert reference.mean_kl(expected, actual) < 1e-7  # ggml looks up GELU in a table of halves


def test_quantised_files_hold_the_type_asked_for(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512}
    for file_type in ("F16", "Q8_0", "Q4_K"):
        model = tiny.make(
            "qwen2", tmp_path, file_type="Q4_K_M" if file_type == "Q4_K" else file_type, **sizes
        )
        assert read_header(model.gguf).tensors["blk.0.attn_q.weight"].type == file_type
        logits = reference.llama_logits(model.gguf, TOKENS)
        assert np.isfinite(logits).all()


def test_both_tokenizers_agree(tmp_path: Path) -> None:
    model = tiny.make("llama", tmp_path)
    text = "¿Qué es la niña? <|im_start|>user\nHello the world<|im_end|>"
    hugging_face = AutoTokenizer.from_pretrained(model.hf_dir)(text)["input_ids"]
    with reference.open_model(model.gguf) as served:
        assert served.tokenize(text) == hugging_face
    assert len(hugging_face) < len(text.encode())
