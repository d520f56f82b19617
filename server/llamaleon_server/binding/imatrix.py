"""Importance matrices: how much each column of a weight matters, as llama.cpp's imatrix tool measures it.

Source: llama.cpp `common/imatrix-loader.cpp` and `tools/quantize/quantize.cpp`, its GGUF format.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from llamaleon_convert.header import Header, TensorInfo, read_header
from llamaleon_server.binding.errors import BindingError

KIND, SUMS, COUNTS = "imatrix", ".in_sum2", ".counts"
Importance = Mapping[str, npt.NDArray[np.float32]]


def read_imatrix(path: Path) -> Importance:
    """Mean squared input of each column of each tensor; of stacked experts one row after the other.

    Raises: BindingError if `path` is no imatrix in GGUF; ConvertError if it cannot be read.
    """
    header = read_header(path)
    if header.kind != KIND:
        raise BindingError(f"{path}: general.type is {header.kind!r}, not an importance matrix in GGUF.")
    names = [name.removesuffix(SUMS) for name in header.tensors if name.endswith(SUMS)]
    return {name: _means(header, name) for name in names}


def _means(header: Header, name: str) -> npt.NDArray[np.float32]:
    counts = header.tensors.get(name + COUNTS)
    if counts is None:
        raise BindingError(f"{header.path}: {name + SUMS!r} has no {name + COUNTS!r} beside it.")
    many = _floats(header, counts)
    sums = _floats(header, header.tensors[name + SUMS])
    if not many.size or sums.size % many.size:
        raise BindingError(f"{header.path}: {name!r} has {sums.size} sums for {many.size} counts.")
    sums = sums.reshape(len(many), -1)
    # An expert that no text reached: every column as important as the next.
    return np.where(many[:, None] > 0, sums / np.maximum(many, 1)[:, None], 1).astype(np.float32).ravel()


def _floats(header: Header, tensor: TensorInfo) -> npt.NDArray[np.float32]:
    if tensor.type != "F32":
        raise BindingError(f"{header.path}: {tensor.name!r} is {tensor.type}, not F32.")
    return np.fromfile(tensor.file, np.float32, tensor.nbytes // 4, offset=tensor.offset)


def as_rows(importance: Importance) -> tuple[Any, list[Any]]:
    """llama.cpp's list, ended by an empty row, and what must live as long as it does."""
    kept = list(importance.items())
    pointer = ctypes.POINTER(ctypes.c_float)
    rows = [(name.encode(), values.ctypes.data_as(pointer), values.size) for name, values in kept]
    return (llama_cpp.llama_model_imatrix_data * (len(rows) + 1))(*rows, (None, None, 0)), kept
