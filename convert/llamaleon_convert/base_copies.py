"""PEFT saves the base's embedding or head beside a LoRA on it: proof that the adapter is for this base."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt

from llamaleon_convert.errors import Refused
from llamaleon_convert.header import Header, TensorInfo
from llamaleon_convert.plan import BaseCopy
from llamaleon_convert.safetensors_file import SafetensorsFile

SAMPLE_ROWS = 16
# Two-bit quantisation keeps relative errors under 0.4; weights of two models are unrelated: about 1.4.
MAX_RELATIVE_ERROR = 0.7


def check_copy(weights: SafetensorsFile, base: Header, copy: BaseCopy) -> None:
    """Raises: Refused if the copy is not the base's own weight, up to quantisation."""
    tensor = base.tensors[copy.tensor]
    rows = np.linspace(0, tensor.shape[1] - 1, SAMPLE_ROWS).astype(int)
    try:
        served = _base_rows(tensor, rows)
    except NotImplementedError:  # gguf cannot read this quantisation: the shape, checked before, must do
        return
    read = [weights.read_rows(copy.name, row, row + 1) for row in map(int, rows)]
    saved = np.concatenate(read).astype(np.float32)
    error = float(np.linalg.norm(saved - served) / max(float(np.linalg.norm(served)), 1e-12))
    if not error < MAX_RELATIVE_ERROR:
        raise Refused(
            f"tensor {copy.name!r} is not {copy.tensor!r} of {base.path.name} (they differ by {error:.0%}): "
            "the adapter was made for another base, or its embedding was trained. Give its own base."
        )


def _base_rows(tensor: TensorInfo, rows: npt.NDArray[np.int_]) -> npt.NDArray[np.float32]:
    row_bytes = tensor.nbytes // tensor.shape[1]
    kind = gguf.GGMLQuantizationType[tensor.type]
    raw = b""
    with tensor.file.open("rb") as file:
        for row in rows:
            file.seek(tensor.offset + int(row) * row_bytes)
            raw += file.read(row_bytes)
    values = np.frombuffer(raw, np.uint8).reshape(len(rows), row_bytes)
    return np.asarray(gguf.quants.dequantize(values, kind), dtype=np.float32)
