"""Do two programs compute the same model? Their logits for the same tokens, compared. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Logits = Mapping[str, NDArray[np.floating]]
CHUNK_ROWS = 128  # float64 copies of this many rows are alive at once: 150 MB for a vocabulary of 150,000


class Parity(Struct, frozen=True):
    """`mean_kl` is KL(served || trained) in nats per token; `max_abs_diff` is over all raw logits."""

    mean_kl: float
    max_abs_diff: float
    tokens: int


def compare(served: Logits, trained: Logits) -> Parity:
    """Compare two sets of logits: one array (n_tokens, n_vocab) a sequence, under the same names.

    Raises:
        ValueError: names or shapes differ, nothing to compare, or a logit that is not finite.
    """
    if set(served) != set(trained):
        raise ValueError(f"logits for sequences {sorted(served)} against {sorted(trained)}")
    total, largest, tokens = 0.0, 0.0, 0
    for name in served:
        a, b = served[name], trained[name]
        if a.shape != b.shape or a.ndim != 2:
            raise ValueError(f"logits of sequence {name} have shapes {a.shape} and {b.shape}")
        for start in range(0, len(a), CHUNK_ROWS):
            p = a[start : start + CHUNK_ROWS].astype(np.float64)
            q = b[start : start + CHUNK_ROWS].astype(np.float64)
            if not (np.isfinite(p).all() and np.isfinite(q).all()):
                raise ValueError(f"sequence {name} has logits that are not finite")
            largest = max(largest, float(np.abs(p - q).max()))
            log_p, log_q = _log_softmax(p), _log_softmax(q)
            total += float((np.exp(log_p) * (log_p - log_q)).sum())
        tokens += len(a)
    if tokens == 0:
        raise ValueError("no logits to compare")
    return Parity(max(0.0, total / tokens), largest, tokens)  # rounding may leave -1e-17


def compare_files(served: Path, trained: Path) -> Parity:
    """`compare` for two .npz files of the layout of probe.base.npz."""
    with np.load(served) as a, np.load(trained) as b:
        return compare(dict(a), dict(b))


def write_logits(path: Path, logits: Iterable[NDArray[np.float32]]) -> None:
    """Write one array (n_tokens, n_vocab) a sequence, named "0", "1", ...; whole or not at all."""
    arrays: dict[str, Any] = {str(index): array for index, array in enumerate(logits)}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
