"""Adapters into their base: a new model, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from msgspec import Struct

from llamaleon_convert.atomic import atomic
from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.factors import Factors, opened
from llamaleon_convert.header import Header, TensorInfo, read_header, refuse_overwriting
from llamaleon_convert.model_writer import write_model
from llamaleon_convert.tensors import WRITABLE, chunks, encoded, read_rows

FULL = "F32"
LARGEST_HALF = 65504.0


class Merged(Struct, frozen=True):
    """What was written. `widened`: tensors that had to become F32, with the type that they had."""

    path: str
    tensors: int
    widened: dict[str, str]


def merge_files(
    base_gguf: Path, adapters: Sequence[tuple[Path, float]], out_path: Path, *, widen: bool = False
) -> Merged:
    """See `llamaleon_convert.merge`."""
    base = read_header(base_gguf)
    refuse_overwriting(out_path, base)
    for path, weight in adapters:
        if not math.isfinite(weight):
            raise ConvertError(f"{path}: its weight is {weight}: it must be a number.")
    with ExitStack() as stack:
        opens = [stack.enter_context(opened(path, base, weight)) for path, weight in adapters]
        touched = sorted({name for adapter in opens for name in adapter.tensors})
        types = {name: _type(base.tensors[name], widen) for name in touched}
        notes = {"llamaleon.merged": ", ".join(f"{path.name}*{weight:g}" for path, weight in adapters)}
        with atomic(out_path) as temporary:
            write_model(temporary, base, types, lambda tensor: _merged(tensor, opens, types), notes)
    return Merged(str(out_path), len(touched), _widened(base, types))


def _type(tensor: TensorInfo, widen: bool) -> str:
    return tensor.type if tensor.type in WRITABLE and not widen else FULL


def _widened(base: Header, types: Mapping[str, str]) -> dict[str, str]:
    return {name: base.tensors[name].type for name, kind in types.items() if base.tensors[name].type != kind}


def _merged(tensor: TensorInfo, adapters: Sequence[Factors], types: Mapping[str, str]) -> Iterator[bytes]:
    pairs = [(*adapter.read(tensor.name), adapter.weight) for adapter in adapters if tensor.name in adapter]
    n_in, n_out, *stack = tensor.shape
    for expert in range(stack[0] if stack else 1):
        for begin, end in chunks(n_out, n_in):
            first = expert * n_out
            rows = read_rows(tensor, first + begin, first + end)
            for a, b, weight in pairs:
                one_a, one_b = (a[expert], b[expert]) if stack else (a, b)
                with np.errstate(over="ignore", invalid="ignore"):  # told below, in words
                    rows = rows + weight * (one_b[begin:end] @ one_a)
            if not np.isfinite(rows).all():
                raise Refused(f"tensor {tensor.name!r}: the merged weights are NaN or infinite.")
            kind = types[tensor.name]
            if kind == "F16" and np.abs(rows).max() > LARGEST_HALF:
                raise Refused(f"tensor {tensor.name!r}: merged weights are too large for F16. Widen them.")
            yield encoded(rows, kind)
