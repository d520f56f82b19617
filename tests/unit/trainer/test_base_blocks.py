"""ggml's types undone by torch: the numbers of gguf-py bit for bit, and those of llama.cpp's own code."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest
import torch
from gguf.quants import dequantize as gguf_dequantize

from llamaleon_convert.ggml_types import TENSOR_TYPES
from llamaleon_trainer.base.blocks import FLOATS, PIECE_ELEMENTS, TYPES, dequantize, require_known
from llamaleon_trainer.errors import BaseUnsupported

ROWS, COLUMNS = 12, 512
NOT_IN_GGUF_PY = {"Q1_0"}
SHAPES = {kind.name: kind for kind in TENSOR_TYPES.values()}


def random_rows(kind: str, rows: int = ROWS) -> np.ndarray:
    """Any bytes are a valid block: every field takes every value, and scales are infinite at times too."""
    elements, size, _ = TYPES[kind]
    return np.random.default_rng(7).integers(0, 256, (rows, COLUMNS // elements * size), np.uint8)


def ours(kind: str, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return dequantize(torch.from_numpy(rows), kind, dtype)


@pytest.mark.parametrize("kind", sorted(set(TYPES) - NOT_IN_GGUF_PY))
def test_equal_to_gguf_py_bit_for_bit(kind: str) -> None:
    rows = random_rows(kind)
    with np.errstate(all="ignore"):  # infinite scales
        expected = gguf_dequantize(rows, gguf.GGMLQuantizationType[kind])
    assert expected.shape == (ROWS, COLUMNS)
    np.testing.assert_array_equal(ours(kind, rows).numpy(), expected)


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_equal_to_ggml(kind: str) -> None:
    """ggml's compiler may fuse a product and a sum, and so round once less."""
    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))))
    name = kind.lower().replace("_k", "_K") if kind.endswith("_K") else kind.lower()
    undo = getattr(library, f"dequantize_row_{name}")
    undo.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    undo.restype = None
    rows = random_rows(kind)
    expected = np.empty((ROWS, COLUMNS), np.float32)
    undo(rows.ctypes.data, expected.ctypes.data, expected.size)
    found = ours(kind, rows).numpy()
    finite = np.isfinite(expected)
    assert finite.mean() > 0.7
    np.testing.assert_allclose(found[finite], expected[finite], rtol=3e-6, atol=0.01)


@pytest.mark.parametrize("kind", sorted(FLOATS))
def test_floats(kind: str) -> None:
    values = torch.randn(3, 8, dtype=torch.float64).to(FLOATS[kind])
    packed = values.view(torch.uint8)
    assert torch.equal(dequantize(packed, kind, torch.float32), values.float())


def test_every_type_of_a_gguf_is_known_but_those_that_hold_no_weights() -> None:
    weightless = {"I8", "I16", "I32", "I64", "Q8_1", "Q8_K"}
    assert set(SHAPES) - weightless == set(TYPES) | set(FLOATS)
    assert all(SHAPES[kind][1:] == TYPES[kind][:2] for kind in TYPES)


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(BaseUnsupported, match=r"blk\.0\.attn_q\.weight is of type Q8_K.*Q4_K"):
        require_known("blk.0.attn_q.weight", "Q8_K")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_once(dtype: torch.dtype) -> None:
    rows = random_rows("Q4_K")
    assert torch.equal(ours("Q4_K", rows, dtype).nan_to_num(0), ours("Q4_K", rows).to(dtype).nan_to_num(0))


def test_pieces_join(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows("Q6_K", rows=5)
    whole = ours("Q6_K", rows)
    monkeypatch.setitem(PIECE_ELEMENTS, "cpu", 3 * 256)  # ten blocks: no whole number of pieces
    np.testing.assert_array_equal(ours("Q6_K", rows).numpy(), whole.numpy())
