"""Low-rank changes into a GGUF LoRA, one tensor in memory at a time, with the error of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from msgspec import Struct, field

from llamaleon_convert.atomic import atomic
from llamaleon_convert.errors import Refused
from llamaleon_convert.factors import EMBEDDED
from llamaleon_convert.floats import Weights, laid_out
from llamaleon_convert.header import Header, refuse_overwriting
from llamaleon_convert.lora_writer import Pair, write_pairs
from llamaleon_convert.lowrank import LowRank, relative
from llamaleon_convert.manifest import fingerprint_of

NOT_FINITE = "the change holds NaN or infinite values: lower the weights, or look at how it was trained."
# Of one expert (0 where there are none), as it was computed.
Compute = Callable[[str, int], LowRank]


class Approximation(Struct, frozen=True):
    """What was written. Errors are Frobenius norms of what is lost over those of the whole change."""

    path: str
    rank: int  # the largest
    error: float
    errors: dict[str, float]  # of each tensor; 0 is exact


def write_approximation(
    path: Path, base: Header, ranks: Mapping[str, int], compute: Compute, *, source: str
) -> Approximation:
    """A GGUF LoRA for `base` whose tensors have `ranks`; `compute` is asked for each when its turn comes."""
    refuse_overwriting(path, base)
    work = _Work(base, float(max(ranks.values())), compute)
    pairs = [work.pair(tensor, rank) for tensor, rank in ranks.items()]
    with atomic(path) as temporary:
        write_pairs(temporary, pairs, fingerprint_of(base), alpha=work.alpha, source=source)
    lost, whole = (sum(values[index] for values in work.sums.values()) for index in (0, 1))
    errors = {tensor: relative(*values) for tensor, values in work.sums.items()}
    return Approximation(str(path), int(work.alpha), relative(lost, whole), errors)


class _Work(Struct, frozen=True):
    base: Header
    alpha: float
    compute: Compute
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)  # lost, whole: as they become known

    def pair(self, tensor: str, rank: int) -> Pair:
        n_in, n_out, *stack = self.base.tensors[tensor].shape
        outer = tuple(stack)
        a_shape, b_shape = (*outer, rank, n_in), (*outer, n_out, rank)
        if tensor == EMBEDDED:
            a_shape, b_shape = (n_out, rank), (n_in, rank)
        return Pair(tensor, a_shape, b_shape, lambda: self._read(tensor, rank, stack[0] if stack else None))

    def _read(self, tensor: str, rank: int, experts: int | None) -> tuple[memoryview, memoryview]:
        with np.errstate(over="ignore", invalid="ignore"):  # told below, in words
            try:
                parts = [self.compute(tensor, expert) for expert in range(experts or 1)]
            except np.linalg.LinAlgError as error:  # of a matrix that holds them
                raise Refused(f"tensor {tensor!r}: {NOT_FINITE}") from error
        self.sums[tensor] = sum(part.lost for part in parts), sum(part.whole for part in parts)
        factor = np.float32(rank / self.alpha)  # llama.cpp multiplies by alpha / rank
        a = np.stack([_filled(part.a, rank, 0) for part in parts])
        b = np.stack([_filled(part.b, rank, 1) for part in parts]) * factor
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise Refused(f"tensor {tensor!r}: {NOT_FINITE}")
        if experts is None:
            a, b = (b[0], a[0].T) if tensor == EMBEDDED else (a[0], b[0])
        return laid_out(a, "F32"), laid_out(b, "F32")


def _filled(factor: Weights, rank: int, axis: int) -> Weights:
    """With zeros, to `rank`."""
    missing = rank - factor.shape[axis]
    widths = [(0, 0), (0, 0)]
    widths[axis] = (0, missing)
    return np.pad(factor, widths) if missing else factor
