"""ggml's tensor types, dequantised by torch: the same on a CPU and on a GPU.

Every function of the modules here maps blocks, (n_blocks, block_bytes) uint8, to their values,
(n_blocks, block_elements) float32, by the same operations in the same order as ggml, so that the numbers are
those that are served.

Source: llama.cpp, ggml/src/ggml-quants.c, `dequantize_row_*`, and ggml-common.h for the layouts.
"""

from __future__ import annotations

import torch

from ...errors import BaseUnsupported
from . import grids, k_quants, simple
from .bits import Dequantiser

# ggml's name -> elements of a block, bytes of a block, what undoes it.
TYPES: dict[str, tuple[int, int, Dequantiser]] = {
    "Q1_0": (128, 18, simple.q1_0),
    "Q4_0": (32, 18, simple.q4_0),
    "Q4_1": (32, 20, simple.q4_1),
    "Q5_0": (32, 22, simple.q5_0),
    "Q5_1": (32, 24, simple.q5_1),
    "Q8_0": (32, 34, simple.q8_0),
    "IQ4_NL": (32, 18, simple.iq4_nl),
    "MXFP4": (32, 17, simple.mxfp4),
    "NVFP4": (64, 36, simple.nvfp4),
    "TQ1_0": (256, 54, simple.tq1_0),
    "TQ2_0": (256, 66, simple.tq2_0),
    "Q2_K": (256, 84, k_quants.q2_k),
    "Q3_K": (256, 110, k_quants.q3_k),
    "Q4_K": (256, 144, k_quants.q4_k),
    "Q5_K": (256, 176, k_quants.q5_k),
    "Q6_K": (256, 210, k_quants.q6_k),
    "IQ4_XS": (256, 136, k_quants.iq4_xs),
    "IQ2_XXS": (256, 66, grids.iq2_xxs),
    "IQ2_XS": (256, 74, grids.iq2_xs),
    "IQ2_S": (256, 82, grids.iq2_s),
    "IQ3_XXS": (256, 98, grids.iq3_xxs),
    "IQ3_S": (256, 110, grids.iq3_s),
    "IQ1_S": (256, 50, grids.iq1_s),
    "IQ1_M": (256, 56, grids.iq1_m),
}
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# Values made at once: their temporaries then stay in a CPU's cache, or at some tens of MB of a GPU's memory.
PIECE_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 23}


def known(kind: str) -> bool:
    return kind in TYPES or kind in FLOATS


def require_known(name: str, kind: str) -> None:
    """Raises: BaseUnsupported, naming the tensor, its type and what is known."""
    if not known(kind):
        raise BaseUnsupported(
            f"tensor {name} is of type {kind}, which cannot be undone here; known types: "
            f"{', '.join([*FLOATS, *TYPES])}. Use another quantisation of the same model."
        )


def dequantize(packed: torch.Tensor, kind: str, dtype: torch.dtype) -> torch.Tensor:
    """The values of `packed`, (n_rows, row_bytes) uint8, rounded once to `dtype`: (n_rows, n_columns).

    `kind` is a ggml type that is `known`. Temporaries are as large as a piece, never as the result.
    """
    if kind in FLOATS:
        return packed.view(FLOATS[kind]).to(dtype)
    elements, block_bytes, undo = TYPES[kind]
    blocks = packed.reshape(-1, block_bytes)
    values = torch.empty(len(blocks), elements, dtype=dtype, device=packed.device)
    step = max(1, PIECE_ELEMENTS.get(packed.device.type, 1 << 23) // elements)
    for start in range(0, len(blocks), step):
        values[start : start + step] = undo(blocks[start : start + step])
    return values.view(len(packed), -1)
