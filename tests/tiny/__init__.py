"""Tiny random models of every family: a Hugging Face directory and the equal GGUF, made on the spot.

    model = tests.tiny.make("qwen2", tmp_path, tie_word_embeddings=True)
    model.hf_dir    config.json, model.safetensors, tokenizer.json (with a ChatML template)
    model.gguf      what llama.cpp loads; F32 unless `file_type` says otherwise

The weights are as large as trained ones and no norm is 1, so a wrong transposition, permutation or scale
shows in the logits. `tests.tiny.reference` evaluates the GGUF with llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tiny import vocabulary

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "granite")
MORE_FAMILIES = ("gemma", "stablelm", "starcoder2", "olmo2", "smollm3", "qwen3moe", "granitemoe")
MIXED_FAMILIES = ("mixtral", "gpt-oss", "granitehybrid", "lfm2", "qwen35")  # experts, and layers of two kinds


@dataclass(frozen=True)
class TinyModel:
    hf_dir: Path
    gguf: Path
    family: str


def make(
    family: str,
    directory: Path,
    *,
    file_type: str = "F32",
    seed: int = 0,
    chat_template: str | None = vocabulary.CHATML,
    **config_overrides: Any,
) -> TinyModel:
    """A random model of `family` in `directory`; the same arguments give the same weights.

    Args:
        file_type: F32, F16, Q8_0, Q4_K_M, ...: llama.cpp's own quantisation. K-quants need rows of a multiple
            of 256 (`hidden_size=256, intermediate_size=512`), or llama.cpp takes other types instead.
        config_overrides: fields of the family's transformers config.
    """
    from tests.tiny import families, gguf_export  # torch and transformers: only where a model is made

    directory.mkdir(parents=True, exist_ok=True)
    hf_dir, gguf = directory / "hf", directory / f"{family}-{file_type}.gguf"
    model = families.random_model(family, seed=seed, **config_overrides)
    model.save_pretrained(hf_dir)
    vocabulary.save_hugging_face(hf_dir, chat_template)
    full = gguf if file_type == "F32" else directory / f".{family}-full.gguf"
    gguf_export.write(model, full, chat_template=chat_template)
    if file_type != "F32":
        from tests.tiny.quantize import quantize

        quantize(full, gguf, file_type)
        full.unlink()
    return TinyModel(hf_dir=hf_dir, gguf=gguf, family=family)
