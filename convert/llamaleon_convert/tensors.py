"""Weights of a GGUF as float32, a few rows at a time, whatever their type; and back, where numpy can.

Rows of all experts are counted through: row `e * n_out + i` is row i of expert e.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import gguf
import numpy as np
import numpy.typing as npt

from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.ggml_types import TENSOR_TYPES
from llamaleon_convert.header import TensorInfo

Floats = npt.NDArray[np.float32]

CHUNK_BYTES = 64 << 20  # of float32 at a time
# Types that gguf-py writes; the rest needs llama.cpp's own quantiser.
WRITABLE = frozenset({"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"})
NAMES = {kind.name: kind for kind in TENSOR_TYPES.values()}


def row_count(tensor: TensorInfo) -> int:
    return prod(tensor.shape[1:])


def chunks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of pieces of at most CHUNK_BYTES of float32."""
    step = max(1, CHUNK_BYTES // (4 * max(columns, 1)))
    for begin in range(0, rows, step):
        yield begin, min(begin + step, rows)


def read_rows(tensor: TensorInfo, begin: int = 0, end: int | None = None) -> Floats:
    """Rows `begin` to `end` as (rows, n_in).

    Raises: Refused if gguf-py cannot read the tensor's type; ConvertError if the file ends too early.
    """
    end = row_count(tensor) if end is None else end
    kind = NAMES[tensor.type]
    row_bytes = tensor.shape[0] // kind.block_elements * kind.block_bytes
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset + begin * row_bytes)
        raw = file.read((end - begin) * row_bytes)
    if len(raw) != (end - begin) * row_bytes:
        raise ConvertError(f"{tensor.file}: the file became shorter while it was being read.")
    values = np.frombuffer(raw, np.uint8).reshape(end - begin, row_bytes)
    try:
        decoded = gguf.quants.dequantize(values, gguf.GGMLQuantizationType[tensor.type])
    except NotImplementedError as error:
        raise Refused(
            f"{tensor.file}: tensor {tensor.name!r} is {tensor.type}, which cannot be read here. "
            "Give the file in another type, F16 for one."
        ) from error
    return np.asarray(decoded, dtype=np.float32).reshape(end - begin, tensor.shape[0])


def encoded(rows: Floats, kind: str) -> bytes:
    """`rows` as they lie in a file of a type that is WRITABLE."""
    return bytes(np.ascontiguousarray(gguf.quants.quantize(rows, gguf.GGMLQuantizationType[kind])).data)


def nbytes_of(shape: tuple[int, ...], kind: str) -> int:
    layout = NAMES[kind]
    return prod(shape) // layout.block_elements * layout.block_bytes
