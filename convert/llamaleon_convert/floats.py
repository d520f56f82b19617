"""Bytes of a file as numpy's numbers and back; bfloat16 too, which numpy has not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.floating[Any]]  # float32 or float16


def decode(raw: bytes, dtype: str) -> Weights:
    """Little-endian F16 as float16; F32, BF16 and F64 as float32."""
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "F64":
        return np.frombuffer(raw, "<f8").astype(np.float32)
    return np.frombuffer(raw, "<f2" if dtype == "F16" else "<f4")


def not_finite(values: Weights) -> int:
    """How many are NaN or infinite."""
    return values.size - int(np.count_nonzero(np.isfinite(values)))


def laid_out(values: Weights, dtype: str) -> memoryview:
    """The bytes of `values`, row by row, as F32 or F16."""
    typed: Weights = values.astype({"F32": np.float32, "F16": np.float16}[dtype], order="C", copy=False)
    return typed.data.cast("B")
