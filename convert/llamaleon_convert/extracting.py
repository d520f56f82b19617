"""A full fine-tune as an adapter: the low-rank part of what training changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from msgspec import Struct

from llamaleon_convert.architectures import lora_reaches
from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.header import Header, TensorInfo, read_header
from llamaleon_convert.lowrank import LowRank, of_matrix, relative
from llamaleon_convert.lowrank_file import Approximation, write_approximation
from llamaleon_convert.manifest import fingerprint_of
from llamaleon_convert.plan import require_supported
from llamaleon_convert.tensors import Floats, chunks, row_count
from llamaleon_convert.weights import Model, Rows, opened_model

NAMED = 5  # of what is left behind, so many in the refusal


class Extracted(Approximation, frozen=True):
    """`left_behind`: what no LoRA can carry and yet changed, by how much of its own Frobenius norm."""

    left_behind: dict[str, float]


class _Difference(Struct, frozen=True):
    """Of one matrix; of stacked experts the one from row `first`."""

    before: Rows
    after: Rows
    first: int
    shape: tuple[int, int]

    def rows(self, begin: int, end: int) -> Floats:
        begin, end = self.first + begin, self.first + end
        return self.after.rows(begin, end) - self.before.rows(begin, end)


def extract_files(
    before: Path, after: Path, served: Path, out_path: Path, *, rank: int, tolerance: float, seed: int
) -> Extracted:
    """See `llamaleon_convert.extract`."""
    if rank < 1:
        raise ConvertError(f"rank is {rank}: it must be positive.")
    if seed < 0:
        raise ConvertError(f"seed is {seed}: it must not be negative.")
    if out_path.exists() and any(path.is_file() and out_path.samefile(path) for path in (before, after)):
        raise ConvertError(f"{out_path}: one of the two models. Write to another file.")
    if before.is_dir() != after.is_dir():
        raise ConvertError(
            f"{before} and {after}: one is a GGUF and one a directory. Give two of a kind, so that their "
            "difference is what training changed and nothing else."
        )
    header = read_header(served)
    require_supported(header)
    fingerprint_of(header)  # an adapter or another thing is refused here
    one, two = opened_model(before, header), opened_model(after, header)
    pairs = _pairs(header, one, two)
    left = _left_behind(one, two, set(pairs))
    _refuse_losses(left, tolerance, after)
    changed = {name: pair for name, pair in pairs.items() if _differs(*pair)}
    if not changed:
        raise Refused(f"{after}: no matrix differs from {before}: there is nothing to extract.")
    ranks = {name: min(rank, *header.tensors[name].shape[:2]) for name in changed}

    def compute(tensor: str, expert: int) -> LowRank:
        n_in, n_out = header.tensors[tensor].shape[:2]
        return of_matrix(_Difference(*changed[tensor], expert * n_out, (n_out, n_in)), ranks[tensor], seed)

    done = write_approximation(out_path, header, ranks, compute, source="extracted")
    return Extracted(done.path, done.rank, done.error, done.errors, left)


def _pairs(base: Header, one: Model, two: Model) -> dict[str, tuple[Rows, Rows]]:
    """Both models' weights of every tensor that a LoRA reaches."""
    found: dict[str, tuple[Rows, Rows]] = {}
    for name, tensor in base.tensors.items():
        if not _reached(base, tensor):
            continue
        before, after = one.matrix(tensor), two.matrix(tensor)
        if before is None or after is None:
            missing = one if before is None else two
            raise ConvertError(f"{missing.path}: has no {name!r} of {base.path.name}: of different models.")
        _same_shape(name, before, after, two.path)
        if before.shape != (row_count(tensor), tensor.shape[0]):
            raise ConvertError(f"{one.path}: {name!r} has another shape than in {base.path.name}.")
        found[name] = before, after
    return found


def _reached(base: Header, tensor: TensorInfo) -> bool:
    tied = "output.weight" not in base.tensors
    if len(tensor.shape) < 2 or (tied and tensor.name == "token_embd.weight"):
        return False
    return lora_reaches(base.architecture, tensor.name)


def _left_behind(one: Model, two: Model, matrices: set[str]) -> dict[str, float]:
    before, after = one.others(matrices), two.others(matrices)
    if different := before.keys() ^ after.keys():
        raise ConvertError(
            f"{one.path} and {two.path}: only one has {min(different)!r}: of different models."
        )
    changes: dict[str, float] = {}
    for name, weight in before.items():
        _same_shape(name, weight, after[name], two.path)
        if change := _change(weight, after[name]):
            changes[name] = change
    return dict(sorted(changes.items(), key=lambda item: -item[1]))


def _same_shape(name: str, before: Rows, after: Rows, path: Path) -> None:
    if before.shape != after.shape:
        raise ConvertError(
            f"{path}: {name!r} is {after.shape}, not {before.shape} as before: a resized vocabulary, or "
            "another model. No LoRA can carry that."
        )


def _change(before: Rows, after: Rows) -> float:
    lost = whole = 0.0
    for begin, end in chunks(*before.shape):
        rows = before.rows(begin, end)
        lost += float(np.square(after.rows(begin, end) - rows, dtype=np.float64).sum())
        whole += float(np.square(rows, dtype=np.float64).sum())
    return relative(lost, whole or lost)


def _differs(before: Rows, after: Rows) -> bool:
    pieces = chunks(*before.shape)
    return any(not np.array_equal(before.rows(*piece), after.rows(*piece)) for piece in pieces)


def _refuse_losses(left: Mapping[str, float], tolerance: float, path: Path) -> None:
    large = {name: change for name, change in left.items() if not change <= tolerance}  # NaN is no small one
    if not large:
        return
    first = ", ".join(f"{name} by {change:.2%}" for name, change in list(large.items())[:NAMED])
    more = f" and {len(large) - NAMED} more" if len(large) > NAMED else ""
    raise Refused(
        f"{path}: {len(large)} tensors that no LoRA can carry changed by more than {tolerance:.2%}: {first}"
        f"{more}. "
        "Serve the tuned model itself, or allow the loss with a higher tolerance."
    )
