"""Writes a GGUF LoRA, one tensor in memory at a time.

llama.cpp computes `W x + weight * (alpha / rank) * B (A x)` with one `alpha` for the whole file. PEFT's
factor may differ by module (rank patterns, alpha patterns, rsLoRA): what differs is multiplied into B.

Weights keep the source's precision: F32 and F16 stay what they are, BF16 becomes F32 (in F16 or BF16
llama.cpp would round the activations as well); a B that had to be multiplied becomes F32.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from llamaleon_convert.gguf_bytes import Row, entry, head, padding
from llamaleon_convert.manifest import EMBEDDED_PREFIX, BaseFingerprint
from llamaleon_convert.plan import Target
from llamaleon_convert.safetensors_file import SafetensorsFile, Weights

DType = np.dtype[np.float32] | np.dtype[np.float16]
FLOAT, HALF = np.dtype(np.float32), np.dtype(np.float16)
TYPES = {FLOAT: "F32", HALF: "F16"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A and B of one tensor as they will lie in the file; `read` fetches both when their turn has come."""

    tensor: str
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    read: Callable[[], tuple[Weights, Weights]]
    a_type: DType = FLOAT
    b_type: DType = FLOAT

    def rows(self) -> list[Row]:
        """Both tensors of the file's table."""
        return [
            Row(f"{self.tensor}.{suffix}", shape[::-1], TYPES[dtype], prod(shape) * dtype.itemsize)
            for suffix, shape, dtype in (
                ("lora_a", self.a_shape, self.a_type),
                ("lora_b", self.b_shape, self.b_type),
            )
        ]


def write_lora(
    path: Path, targets: Sequence[Target], weights: SafetensorsFile, base: BaseFingerprint, *, scale: float
) -> str:
    """Returns the file's SHA-256. `scale` is multiplied into the file's alpha (dimensionless)."""
    alpha = Counter(_alpha(target) for target in targets).most_common(1)[0][0]
    pairs = [_pair(target, weights, _alpha(target) / alpha) for target in targets]
    return write_pairs(path, pairs, base, alpha=alpha * scale, source="peft")


def write_pairs(
    path: Path, pairs: Sequence[Pair], base: BaseFingerprint, *, alpha: float, source: str
) -> str:
    """A GGUF LoRA of `pairs` for `base`. Returns the file's SHA-256.

    The next pair is read, and the last one hashed, while one is written: three things of equal length.

    Args:
        source: where it comes from, Manifest.source.
    """
    entries = [entry("general.architecture", base.architecture), entry("general.type", "adapter")]
    entries += [entry("adapter.type", "lora"), entry("adapter.lora.alpha", float(alpha))]
    entries += [entry("llamaleon.source", source), *_embedded(base)]
    rows = [row for pair in pairs for row in pair.rows()]
    digest = hashlib.sha256()
    with path.open("wb") as file, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as hasher:

        def put(data: bytes | memoryview, before: Future[None] | None) -> Future[None]:
            file.write(data)
            if before is not None:
                before.result()  # so that no more than two wait in memory
            return hasher.submit(digest.update, data)

        hashed = put(head(entries, rows), None)
        coming = reader.submit(pairs[0].read)
        for number, pair in enumerate(pairs):
            a, b = coming.result()
            if number + 1 < len(pairs):
                coming = reader.submit(pairs[number + 1].read)
            for array, dtype in ((a, pair.a_type), (b, pair.b_type)):
                data = np.ascontiguousarray(array, dtype=dtype).data.cast("B")
                hashed = put(data, hashed)
                hashed = put(b"\0" * padding(len(data)), hashed)
    return digest.hexdigest()


def _alpha(target: Target) -> float:
    """The alpha at which llama.cpp's factor is PEFT's. A float32, so that equal settings come out equal."""
    return float(np.float32(target.scaling * target.rank))


def _embedded(base: BaseFingerprint) -> list[bytes]:
    values = {field: getattr(base, field) for field in base.__struct_fields__}
    return [
        entry(EMBEDDED_PREFIX + field, value)
        for field, value in values.items()
        if value or isinstance(value, int)
    ]


def _pair(target: Target, weights: SafetensorsFile, factor: float) -> Pair:
    sources = [source for source in target.sources if source is not None]
    halves_a = all(weights.entries[source.a].dtype == "F16" for source in sources)
    halves_b = all(weights.entries[source.b].dtype == "F16" for source in sources)
    multiplied = factor != 1.0 or any(source.factor != 1.0 for source in sources)
    return Pair(
        target.tensor,
        target.a_shape,
        target.b_shape,
        lambda: _served(target, weights, factor),
        HALF if halves_a else FLOAT,
        HALF if halves_b and not multiplied else FLOAT,
    )


def _served(target: Target, weights: SafetensorsFile, factor: float) -> tuple[Weights, Weights]:
    if len(target.sources) > 1:
        return _stacked_experts(target, weights, factor)
    (source,) = target.sources
    assert source is not None
    a, b = weights.read(source.a), _multiplied(weights.read(source.b), factor * source.factor)
    if target.experts is not None:  # PEFT 0.21, `ParamWrapper.get_delta_weight`
        a = a.reshape(target.experts, -1, a.shape[-1])
        b = b.reshape(b.shape[0], -1, target.experts).transpose(2, 0, 1)
    if target.rows is not None:
        b = b[..., target.rows, :]
    if target.columns is not None:
        a = a[..., target.columns]
    return (a.T if target.transpose_a else a), b


def _stacked_experts(target: Target, weights: SafetensorsFile, factor: float) -> tuple[Weights, Weights]:
    a, b = np.zeros(target.a_shape, np.float32), np.zeros(target.b_shape, np.float32)
    for number, source in enumerate(target.sources):
        if source is not None:
            a[number, : source.rank] = weights.read(source.a)
            # llama.cpp divides by the rank of all, PEFT by that of each
            b[number, :, : source.rank] = _multiplied(weights.read(source.b), factor * source.factor)
    return a, b


def _multiplied(b: Weights, factor: float) -> Weights:
    return b if factor == 1.0 else b.astype(np.float32) * np.float32(factor)
