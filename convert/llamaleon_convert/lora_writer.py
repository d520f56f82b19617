"""Writes a GGUF LoRA, one tensor in memory at a time.

llama.cpp computes `W x + weight * (alpha / rank) * B (A x)` with one `alpha` for the whole file. PEFT's
factor may differ by module (rank patterns, alpha patterns, rsLoRA): what differs is multiplied into B.

Weights keep the source's precision: F32 and F16 stay what they are, BF16 becomes F32 (in F16 or BF16
llama.cpp would round the activations as well); a B that had to be multiplied becomes F32. Most tensors are
therefore only copied, or their rows are: numpy, which takes longer to import than a large adapter to copy, is
left to served.py.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

from msgspec import Struct

from llamaleon_convert.gguf_bytes import Row, entry, head, padding
from llamaleon_convert.hashed import Data, Hashed
from llamaleon_convert.manifest import EMBEDDED_PREFIX, BaseFingerprint
from llamaleon_convert.plan import Source, Target
from llamaleon_convert.safetensors_file import ITEM_BYTES, SafetensorsFile


class Pair(Struct, frozen=True):
    """A and B of one tensor as they will lie in the file; `read` fetches both when their turn has come."""

    tensor: str
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    read: Callable[[], tuple[Data, Data]]
    a_type: str = "F32"  # or F16
    b_type: str = "F32"

    def rows(self) -> list[Row]:
        """Both tensors of the file's table."""
        return [
            Row(f"{self.tensor}.{suffix}", shape[::-1], dtype, prod(shape) * ITEM_BYTES[dtype])
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

    Args:
        source: where it comes from, Manifest.source.
    """
    entries = [entry("general.architecture", base.architecture), entry("general.type", "adapter")]
    entries += [entry("adapter.type", "lora"), entry("adapter.lora.alpha", float(alpha))]
    entries += [entry("llamaleon.source", source), *_embedded(base)]
    rows = [row for pair in pairs for row in pair.rows()]
    with path.open("wb") as file, Hashed(file) as hashed:
        hashed.write(head(entries, rows))
        for pair in pairs:
            for data in pair.read():
                hashed.write(data)
                if missing := padding(len(data)):
                    hashed.write(b"\0" * missing)
    return hashed.hexdigest()


def _alpha(target: Target) -> float:
    """The alpha at which llama.cpp's factor is PEFT's. A float32, so that equal settings come out equal."""
    alpha: float = struct.unpack("f", struct.pack("f", target.scaling * target.rank))[0]
    return alpha


def _embedded(base: BaseFingerprint) -> list[bytes]:
    values = {field: getattr(base, field) for field in base.__struct_fields__}
    return [
        entry(EMBEDDED_PREFIX + field, value)
        for field, value in values.items()
        if value or isinstance(value, int)
    ]


def _pair(target: Target, weights: SafetensorsFile, factor: float) -> Pair:
    sources = [source for source in target.sources if source is not None]
    types_a, types_b = (
        {weights.entries[name].dtype for name in names}
        for names in ([source.a for source in sources], [source.b for source in sources])
    )
    multiplied = factor != 1.0 or any(source.factor != 1.0 for source in sources)
    a_type = "F16" if types_a == {"F16"} else "F32"
    b_type = "F16" if types_b == {"F16"} and not multiplied else "F32"
    as_it_is = types_a == {a_type} and types_b == {b_type} and not multiplied and not _rearranged(target)

    def read() -> tuple[Data, Data]:
        if as_it_is:
            return _copied(target, sources[0], weights)
        from llamaleon_convert.floats import laid_out
        from llamaleon_convert.served import served

        a, b = served(target, weights, factor)
        return laid_out(a, a_type), laid_out(b, b_type)

    return Pair(target.tensor, target.a_shape, target.b_shape, read, a_type, b_type)


def _rearranged(target: Target) -> bool:
    """Whether more than B's rows change places."""
    stacked = len(target.sources) > 1 or target.experts is not None
    return stacked or target.transpose_a or target.columns is not None


def _copied(target: Target, source: Source, weights: SafetensorsFile) -> tuple[Data, Data]:
    a, b = weights.raw(source.a), weights.raw(source.b)
    if target.rows is not None:
        width = source.rank * ITEM_BYTES[weights.entries[source.b].dtype]
        b = b"".join([b[row * width : (row + 1) * width] for row in target.rows])
    return a, b
