"""The nearest matrix of a rank: of a product of factors exactly, of any other a few rows at a time.

What is lost is known: by Eckart and Young the squared Frobenius error is the sum of the squares of the
singular values left out; for an approximation by a projection P it is |M|^2 - |P M|^2.
"""

from __future__ import annotations

from math import sqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from llamaleon_convert.tensors import Floats, chunks

Doubles = npt.NDArray[np.float64]

EXACT_ELEMENTS = 1 << 20  # up to so many, an exact SVD takes a second
CACHE_BYTES = 1 << 29  # of float32: a matrix up to this size is kept, a larger one computed at each pass
OVERSAMPLING, POWER_ITERATIONS = 10, 2


class Matrix(Protocol):
    """A matrix that is computed a few rows at a time; pieces are those of `tensors.chunks`."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def rows(self, begin: int, end: int) -> Floats: ...


class LowRank(Struct, frozen=True):
    """`B @ A`, with A (rank, n_in) and B (n_out, rank), and squared Frobenius norms."""

    a: Floats
    b: Floats
    whole: float  # of the matrix itself
    lost: float  # of its difference from B @ A

    @property
    def error(self) -> float:
        return relative(self.lost, self.whole)


def relative(lost: float, whole: float) -> float:
    """Frobenius norm of what is lost over that of the whole, from their squares."""
    return sqrt(max(lost, 0.0) / whole) if whole > 0 else 0.0


def of_product(a: Floats, b: Floats, rank: int) -> LowRank:
    """The nearest of `rank` to `B A`, whose product is never formed: QR of both, SVD of what is between."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    if rank >= a.shape[0]:
        return LowRank(a, b, float(((wide_b.T @ wide_b) * (wide_a @ wide_a.T)).sum()), 0.0)
    left, middle_b = np.linalg.qr(wide_b)
    right, middle_a = np.linalg.qr(wide_a.T)
    u, s, vt = np.linalg.svd(middle_b @ middle_a.T)
    kept_a, kept_b = _balanced(left @ u[:, :rank], s[:rank], vt[:rank] @ right.T)
    return LowRank(kept_a, kept_b, float((s**2).sum()), float((s[rank:] ** 2).sum()))


def of_matrix(matrix: Matrix, rank: int, seed: int) -> LowRank:
    """The nearest of `rank`, exact for small matrices.

    Else by randomised subspace iteration: Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1. The
    error is that of the result, whatever the method.
    """
    n_out, n_in = matrix.shape
    if n_out * n_in * 4 <= CACHE_BYTES:
        matrix = Kept(matrix)
    width = min(rank + OVERSAMPLING, n_out, n_in)
    if isinstance(matrix, Kept) and (n_out * n_in <= EXACT_ELEMENTS or width == min(n_out, n_in)):
        u, s, vt = np.linalg.svd(matrix.values.astype(np.float64), full_matrices=False)
        a, b = _balanced(u[:, :rank], s[:rank], vt[:rank])
        return LowRank(a, b, float((s**2).sum()), float((s[rank:] ** 2).sum()))
    basis = _range(matrix, width, seed)
    projected, whole = _from_left(matrix, basis)
    u, s, vt = np.linalg.svd(projected.astype(np.float64), full_matrices=False)
    a, b = _balanced(basis.astype(np.float64) @ u[:, :rank], s[:rank], vt[:rank])
    return LowRank(a, b, whole, max(whole - float((s[:rank] ** 2).sum()), 0.0))


class Kept:
    """A matrix in memory."""

    def __init__(self, matrix: Matrix) -> None:
        self.shape = n_out, n_in = matrix.shape
        self.values: Floats = np.empty(matrix.shape, np.float32)
        for begin, end in chunks(n_out, n_in):
            self.values[begin:end] = matrix.rows(begin, end)

    def rows(self, begin: int, end: int) -> Floats:
        return self.values[begin:end]


def _balanced(u: Doubles, s: Doubles, vt: Doubles) -> tuple[Floats, Floats]:
    root = np.sqrt(s)
    return (root[:, None] * vt).astype(np.float32), (u * root).astype(np.float32)


def _range(matrix: Matrix, width: int, seed: int) -> Floats:
    """Orthonormal columns (n_out, width) that span nearly what the largest singular vectors span."""
    n_in = matrix.shape[1]
    probe = np.random.default_rng(seed).standard_normal((n_in, width), dtype=np.float32)
    basis = _orthonormal(_from_right(matrix, probe))
    for _ in range(POWER_ITERATIONS):
        back, _whole = _from_left(matrix, basis)
        basis = _orthonormal(_from_right(matrix, _orthonormal(back.T)))
    return basis


def _orthonormal(columns: Floats) -> Floats:
    return np.linalg.qr(columns)[0].astype(np.float32)


def _from_right(matrix: Matrix, columns: Floats) -> Floats:
    """M @ columns."""
    pieces = chunks(*matrix.shape)
    return np.concatenate([matrix.rows(begin, end) @ columns for begin, end in pieces])


def _from_left(matrix: Matrix, basis: Floats) -> tuple[Floats, float]:
    """(basis.T @ M, squared Frobenius norm of M)."""
    product, whole = np.zeros((basis.shape[1], matrix.shape[1]), np.float32), 0.0
    for begin, end in chunks(*matrix.shape):
        rows = matrix.rows(begin, end)
        product += basis[begin:end].T @ rows
        whole += float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
    return product, whole
