"""The weights of one adapter file in RAM, ready to be copied into a bank.

A bank multiplies by no alpha of its own, so `alpha / rank` is folded into A. An adapter of F16 stays F16 if
that is exact, as it is for powers of two; every other one is held as F32, where it costs a rounding in 2^24.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamaleon_convert.header import TensorInfo
from llamaleon_server.binding.adapter_file import EMBEDDING, AdapterFile
from llamaleon_server.binding.errors import AdapterError, UnreadableAdapterError

Weights = NDArray[np.floating[Any]]  # float16 or float32
GGML_TYPES = {"F32": 0, "F16": 1}
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


@dataclass(frozen=True)
class LoraWeights:
    """`pairs` by base tensor: A (rank, n_in) and B (n_out, rank) of a linear layer; of the input embedding
    A (n_vocab, rank) and B (n_embd, rank). Ranks may differ; `rank` is the largest. `kind` is F16 or F32."""

    kind: str
    rank: int
    pairs: dict[str, tuple[Weights, Weights]]

    @property
    def bytes(self) -> int:
        return sum(a.nbytes + b.nbytes for a, b in self.pairs.values())


def kind_of(file: AdapterFile) -> str:
    """The type that an adapter is held in."""
    types = {tensor.type for pair in file.pairs.values() for tensor in pair}
    exact = all(abs(math.frexp(_scale(file, b))[0]) == 0.5 for _, b in file.pairs.values())
    return "F16" if types == {"F16"} and exact else "F32"


def _scale(file: AdapterFile, b: TensorInfo) -> float:
    return file.alpha / b.shape[0] if file.alpha else 1.0


def why_alone(file: AdapterFile) -> str | None:
    """Why an adapter cannot share a pass with others; None if it can."""
    for target, (a, _) in file.pairs.items():
        if [extent for extent in a.shape[2:] if extent != 1]:
            return f"it adapts the experts of {target!r}"
    return None


def read_weights(file: AdapterFile) -> LoraWeights:
    """Read a checked file. Raises: AdapterError if it cannot be read or a weight is not finite."""
    kind, pairs, rank = kind_of(file), {}, 0
    try:
        with file.path.open("rb") as stream:
            for target, (a, b) in file.pairs.items():
                rank = max(rank, b.shape[0])
                pairs[target] = (
                    _finite(_scaled(_read(stream, a), _scale(file, b), DTYPES[kind]), file, a),
                    _finite(_read(stream, b).astype(DTYPES[kind], copy=False), file, b),
                )
    except OSError as error:
        raise UnreadableAdapterError(f"{file.path}: cannot be read: {error.strerror or error}.") from error
    return LoraWeights(kind, rank, pairs)


def _read(stream: Any, tensor: TensorInfo) -> Weights:
    """A tensor in numpy's order, the fastest dimension last."""
    shape = tuple(reversed(tensor.shape))
    stream.seek(tensor.offset)
    raw = np.fromfile(stream, np.uint8, tensor.nbytes)
    if len(raw) != tensor.nbytes:
        raise OSError(0, f"tensor {tensor.name!r} ends after {len(raw)} of {tensor.nbytes} bytes")
    if tensor.type in DTYPES:
        return raw.view(DTYPES[tensor.type]).reshape(shape)
    from gguf import GGMLQuantizationType, quants  # only for the rare ones: it takes 0.1 s to import

    kind = GGMLQuantizationType[tensor.type]
    rows = raw.reshape(*shape[:-1], -1)
    plain: Weights = quants.dequantize(rows, kind)
    return plain.reshape(shape)


def _scaled(weights: Weights, scale: float, dtype: np.dtype[Any]) -> Weights:
    if scale == 1.0:
        return weights.astype(dtype, copy=False)
    with np.errstate(over="ignore"):  # found by `_finite`
        return (weights.astype(np.float32) * np.float32(scale)).astype(dtype)


def _finite(weights: Weights, file: AdapterFile, tensor: TensorInfo) -> Weights:
    """In a bank a weight that is not finite would spoil its neighbours' products."""
    if not np.isfinite(weights).all():
        raise AdapterError(
            f"{file.path}: tensor {tensor.name!r} holds NaN, infinity or a number too large for its type."
        )
    return weights


def is_lookup(target: str) -> bool:
    """Whether a target's rows are looked up and not multiplied: then its A is transposed."""
    return target == EMBEDDING
