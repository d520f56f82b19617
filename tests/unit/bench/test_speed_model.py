"""The random models have the tensor types that llama.cpp's quantiser would choose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import pytest
from tests.tiny.quantize import quantize
from tests.tiny.speed_model import Shape, speed_model

TINY = Shape(hidden=256, layers=11, ffn=512, heads=4, kv_heads=2, vocabulary=512, context=256)


def types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("hidden", (256, 64), ids=("whole blocks", "rows that are none"))
def test_q4_k_m_mixes_types_as_llama_cpp_does(tmp_path: Path, hidden: int) -> None:
    shape = replace(TINY, hidden=hidden)
    exact = speed_model(tmp_path / "q8_0.gguf", shape)
    theirs = types(quantize(exact, tmp_path / "theirs.gguf", "Q4_K_M"))
    ours = types(speed_model(tmp_path / "ours.gguf", replace(shape, quantization="Q4_K_M")))
    assert ours == theirs


@pytest.mark.parametrize("kind", ("Q8_0", "Q4_0", "Q5_0", "Q4_K_M"))
def test_weights_have_the_usual_size(tmp_path: Path, kind: str) -> None:
    path = speed_model(tmp_path / "made.gguf", replace(TINY, layers=2, quantization=kind))
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) == 2:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            usual = int(tensor.shape[0]) ** -0.5
            assert abs(values.mean()) < 0.2 * usual, tensor.name
            assert values.std() == pytest.approx(usual, rel=0.1), tensor.name
