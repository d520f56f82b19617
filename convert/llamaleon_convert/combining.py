"""Arithmetic on adapters of one base: what each adds to a weight is a vector, and vectors can be combined.

linear      sum of weight * change (PEFT's `linear` of the changes, mergekit's task arithmetic)
slerp       along the arc between two, weights 1 - t and t (mergekit's `slerp`, tensor by tensor)
ties        the largest entries of each, those that agree in sign with the sum, their mean (Yadav et al. 2023)
dare        entries dropped at random, the rest scaled up, their sum (Yu et al. 2024, `dare_linear`)
dare_ties   entries dropped at random, then signs and mean as in ties

The last three are PEFT's definitions (0.21, `utils/merge_utils.py`) on the changes themselves, as its
`*_svd` combinations are; each expert of a mixture is a matrix of its own. linear and slerp of low-rank
changes are of low rank: their sum of ranks is exact. The others are not, and have an error.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from msgspec import Struct

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.factors import Factors, opened
from llamaleon_convert.header import Header, read_header
from llamaleon_convert.lowrank import LowRank, of_matrix, of_product
from llamaleon_convert.lowrank_file import Approximation, write_approximation
from llamaleon_convert.tensors import Floats, chunks

METHODS = ("linear", "slerp", "ties", "dare", "dare_ties")
PARALLEL = 0.9995  # mergekit: so nearly alike that the arc is a line
Pair = tuple[Floats, Floats]


class How(Struct, frozen=True):
    method: str
    weights: tuple[float, ...]
    density: float
    seed: int


def combine_files(
    base_gguf: Path, adapters: Sequence[tuple[Path, float]], out_path: Path, *, how: How, rank: int | None
) -> Approximation:
    """See `llamaleon_convert.combine`."""
    _check(how, rank)
    base = read_header(base_gguf)
    with ExitStack() as stack:
        opens = [stack.enter_context(opened(path, base, weight)) for path, weight in adapters]
        tensors = sorted({name for adapter in opens for name in adapter.tensors})
        ranks = {name: _rank(base, name, opens, wanted=rank) for name in tensors}
        whole: dict[str, list[tuple[Floats, Floats] | None]] = {}

        def compute(tensor: str, expert: int) -> LowRank:
            if tensor not in whole:
                whole.clear()
                whole[tensor] = [one.read(tensor) if tensor in one else None for one in opens]
            pairs = [_one(pair, expert) for pair in whole[tensor]]
            return _combined(pairs, how, ranks[tensor], f"{tensor}:{expert}")

        return write_approximation(out_path, base, ranks, compute, source="combined")


def _check(how: How, rank: int | None) -> None:
    count = len(how.weights)
    if how.method not in METHODS:
        raise ConvertError(f"method {how.method!r}: known are {', '.join(METHODS)}.")
    if count < 1 or not all(math.isfinite(weight) for weight in how.weights):
        raise ConvertError(f"weights {how.weights}: each must be a number.")
    if how.method == "slerp" and count != 2:
        raise ConvertError(f"slerp lies between two adapters; {count} were given.")
    if how.method == "slerp" and not math.isclose(sum(how.weights), 1.0, abs_tol=1e-6):
        raise ConvertError(f"slerp's weights are shares, 1 - t and t: they are {how.weights}.")
    if not 0 < how.density <= 1:
        raise ConvertError(f"density is {how.density}: it must be above 0 and at most 1.")
    if rank is not None and rank < 1:
        raise ConvertError(f"rank is {rank}: it must be positive.")
    if how.seed < 0:
        raise ConvertError(f"seed is {how.seed}: it must not be negative.")


def _rank(base: Header, tensor: str, adapters: Sequence[Factors], *, wanted: int | None) -> int:
    n_in, n_out = base.tensors[tensor].shape[:2]
    return min(wanted or sum(one.rank(tensor) for one in adapters if tensor in one), n_in, n_out)


def _one(pair: Pair | None, expert: int) -> Pair | None:
    if pair is None or pair[0].ndim == 2:
        return pair
    return pair[0][expert], pair[1][expert]


def _combined(pairs: Sequence[Pair | None], how: How, rank: int, name: str) -> LowRank:
    if how.method in {"linear", "slerp"}:
        factors = list(how.weights) if how.method == "linear" else _arc(pairs, how.weights[1])
        parts = [(a, b * np.float32(w)) for (a, b), w in _present(pairs, factors)]
        a, b = np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts], axis=1)
        return of_product(a, b, rank)
    return of_matrix(_Entries(pairs, how, name), rank, how.seed)


def _present(pairs: Sequence[Pair | None], weights: Sequence[float]) -> list[tuple[Pair, float]]:
    return [(pair, weight) for pair, weight in zip(pairs, weights, strict=True) if pair is not None]


def _arc(pairs: Sequence[Pair | None], t: float) -> list[float]:
    """Factors of the two. Without one of them, the other is at a right angle to nothing.

    Source: mergekit, `merge_methods/slerp.py`.
    """
    first, second = pairs
    cosine = 0.0
    if first is not None and second is not None:
        norms = math.sqrt(_inner(first, first) * _inner(second, second))
        cosine = _inner(first, second) / norms if norms > 0 else 0.0
    if abs(cosine) > PARALLEL:
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def _inner(one: Pair, two: Pair) -> float:
    """Inner product of `B A` of both, through matrices of their ranks."""
    (a, b), (c, d) = one, two
    wide = [array.astype(np.float64) for array in (a, b, c, d)]
    return float(((wide[1].T @ wide[3]) * (wide[0] @ wide[2].T)).sum())


class _Entries:
    """The combined change, entry by entry: made a few rows at a time from the factors."""

    def __init__(self, pairs: Sequence[Pair | None], how: How, name: str) -> None:
        self._parts = _present(pairs, how.weights)
        (a, b), _ = self._parts[0]
        self.shape = b.shape[0], a.shape[1]
        self._how, self._name = how, name
        self._prunes: list[Callable[[Floats, int], Floats]] = [
            self._by_size(pair) if how.method == "ties" else self._by_chance(number)
            for number, (pair, _) in enumerate(self._parts)
        ]

    def rows(self, begin: int, end: int) -> Floats:
        pruned = [
            (prune(b[begin:end] @ a, begin), np.float32(weight))
            for ((a, b), weight), prune in zip(self._parts, self._prunes, strict=True)
        ]
        if self._how.method == "dare":
            return np.asarray(sum(values * weight for values, weight in pruned), np.float32)
        total = sum(values for values, _ in pruned)
        elected = np.where(total >= 0, 1, -1)
        agree = [np.sign(values) == elected for values, _ in pruned]
        mixed = sum(values * weight * same for (values, weight), same in zip(pruned, agree, strict=True))
        return np.asarray(mixed / np.maximum(sum(agree), 1), np.float32)

    def _by_size(self, pair: Pair) -> Callable[[Floats, int], Floats]:
        count = int(self._how.density * self.shape[0] * self.shape[1])
        least = _kth_largest(pair, count)
        return lambda values, _begin: np.where(np.abs(values) >= least, values, np.float32(0))

    def _by_chance(self, number: int) -> Callable[[Floats, int], Floats]:
        density = self._how.density
        name = zlib.crc32(self._name.encode())

        def prune(values: Floats, begin: int) -> Floats:
            """The same entries at each pass: the generator starts anew for every piece."""
            draw = np.random.default_rng([self._how.seed, name, number, begin])
            kept = draw.random(values.shape, dtype=np.float32) < density
            return np.where(kept, values / np.float32(density), np.float32(0))

        return prune


def _kth_largest(pair: Pair, count: int) -> np.float32:
    """The `count`-th largest magnitude of `B A`, in two passes: positive floats are ordered as their bits."""
    a, b = pair
    if count < 1:
        return np.float32(np.inf)
    prefix, below = 0, count
    for shift in (16, 0):
        histogram = np.zeros(1 << 16, np.int64)
        for begin, end in chunks(b.shape[0], a.shape[1]):
            bits = np.abs(b[begin:end] @ a).view(np.uint32).ravel()
            if shift == 0:
                bits = bits[bits >> 16 == prefix]
            histogram += np.bincount((bits >> shift) & 0xFFFF, minlength=1 << 16)
        at_least = np.cumsum(histogram[::-1])[::-1]
        found = int(np.flatnonzero(at_least >= below)[-1])
        below -= int(at_least[found] - histogram[found])
        prefix = prefix << 16 | found
    return np.uint32(prefix).view(np.float32)
