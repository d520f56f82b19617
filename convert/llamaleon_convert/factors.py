"""Adapters as matrices: `delta of W = B @ A` for every tensor, whatever file they come from.

The strength alpha / rank is in B already. For stacked experts A and B have one more dimension in front.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from msgspec import Struct

from llamaleon_convert.check import check_file
from llamaleon_convert.conversion import convert_directory
from llamaleon_convert.header import Header, TensorInfo, read_header
from llamaleon_convert.manifest import Manifest
from llamaleon_convert.tensors import Floats, read_rows

EMBEDDED = "token_embd.weight"


class Factors(Struct, frozen=True):
    """One adapter's low-rank changes; every pair is read when it is asked for."""

    header: Header
    manifest: Manifest
    weight: float = 1.0

    def __contains__(self, tensor: str) -> bool:
        return f"{tensor}.lora_a" in self.header.tensors

    @property
    def tensors(self) -> list[str]:
        return self.manifest.target_tensors

    def rank(self, tensor: str) -> int:
        return self.header.tensors[f"{tensor}.lora_b"].shape[0]

    def read(self, tensor: str) -> tuple[Floats, Floats]:
        """(A, B): (rank, n_in) and (n_out, rank), or (n_experts, ...) of both. Without `weight`."""
        a = _array(self.header.tensors[f"{tensor}.lora_a"])
        b = _array(self.header.tensors[f"{tensor}.lora_b"])
        rank = b.shape[-1]
        scale = self.manifest.alpha / rank if self.manifest.alpha else 1.0  # llama.cpp: 0 means as it is
        if tensor == EMBEDDED:  # A is (n_vocab, rank), B (n_embd, rank): the change is A @ B.T
            a, b = np.ascontiguousarray(b.T), a
        return a, b * np.float32(scale)


@contextmanager
def opened(path: Path, base: Header, weight: float = 1.0) -> Iterator[Factors]:
    """The adapter at `path`, a GGUF LoRA or a PEFT directory, if it is for `base`.

    Raises: ConvertError or Refused, see `llamaleon_convert.convert` and `check_lora`.
    """
    with tempfile.TemporaryDirectory(prefix="llamaleon-") as scratch:
        if path.is_dir():
            converted = Path(scratch) / "adapter.gguf"
            convert_directory(path, base.path, converted, scale=1.0)
            path = converted
        manifest = check_file(path, base)
        yield Factors(read_header(path), manifest, weight)


def _array(tensor: TensorInfo) -> Floats:
    return read_rows(tensor).reshape(tensor.shape[::-1])
