"""A bank: one llama.cpp adapter of stacked ranks, into which adapters are written in place.

It is loaded once, as zeros, and stays active. What makes it serve is done through the public
`struct ggml_tensor` of its tensors:

- an adapter enters as a copy into ranks [first, first + rank) of every A and B: no file is loaded, no graph
  re-reserved, and running sequences, whose passes do not look at those ranks, never wait for it;
- each pass sees a *window* of ranks: the tensors' data pointers and extents are set to the ranks in use. One
  adapter alone costs what it costs without a bank, and needs no interception; the bare base looks at
  ranks that are zero.

Which ranks belong to whom is not known here.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from llamaleon_convert.header import read_header
from llamaleon_server.binding import library
from llamaleon_server.binding.errors import AdapterError, BankTooLargeError
from llamaleon_server.binding.hook import store_words
from llamaleon_server.binding.layout import find_layout, ggml
from llamaleon_server.binding.model import Model
from llamaleon_server.binding.probe import kept_tensors, lora_tensors
from llamaleon_server.binding.weights import DTYPES, LoraWeights, Weights, is_lookup

# Ranks are given out in this many: a sum over a multiple of 16 is computed by the same kernel as over 16, so
# that an adapter of rank 16 gives bit for bit the same in a wide window as alone.
GRANULE = 16
FIRST_RANK = GRANULE  # those before it stay zero...
NULL_RANKS = 2  # ...and of them the bare base looks at as few as kernels like
WEIGHTS = 1  # enum ggml_backend_buffer_usage


@dataclass(frozen=True)
class _Half:
    """One tensor of the bank: `full` is a copy of its struct as it was, for writing past the window.

    Its ranks lie along `stride` bytes each; `across` is whether a row of memory holds all of them.
    """

    address: int
    full: NDArray[np.uint8]
    data: int
    stride: int
    row_bytes: int
    rows: int
    across: bool

    @property
    def handle(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.full.ctypes.data)


class Bank:
    """Stacked ranks for `targets` of one model, all of one type."""

    def __init__(self, model: Model, targets: frozenset[str], kind: str, ranks: int) -> None:
        """Make a bank of zeros. Raises: BankTooLargeError; AdapterError if llama.cpp hides its tensors."""
        self.kind = kind
        self.targets = targets
        self.ranks = ranks
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bank.gguf"
            write_zeros(path, model, targets, kind, ranks)
            with library.native_errors() as lines:
                self.handle: Any = native.llama_adapter_lora_init(model.handle, str(path).encode())
        if not self.handle:
            reason = library.explain(lines)
            raise BankTooLargeError(f"llama.cpp cannot make a bank of {ranks} ranks: {reason}.")
        try:
            found = lora_tensors(model, self.handle)
            if None in found.values():
                found |= kept_tensors(self.handle, found)
                _keep_in_place(found)
            self._halves = {
                target: (
                    _half(found, f"{target}.lora_a", across=is_lookup(target)),
                    _half(found, f"{target}.lora_b", across=True),
                )
                for target in targets
            }
        except AdapterError:
            self.close()
            raise
        self._fields = _window_fields(half for pair in self._halves.values() for half in pair)
        self.window = (0, ranks)

    @property
    def bytes(self) -> int:
        return sum(half.row_bytes * half.rows for pair in self._halves.values() for half in pair)

    def close(self) -> None:
        """Free it. No context may have it active."""
        if self.handle:
            native.llama_adapter_lora_free(self.handle)
            self.handle = None

    def look_at(self, first: int, ranks: int) -> None:
        """Let the passes to come see the ranks [first, first + ranks) and no others."""
        if (first, ranks) == self.window:
            return
        self.window = (first, ranks)
        data_at, data, strides, extents_at = self._fields
        store_words(data_at, data + first * strides)
        store_words(extents_at, np.full(len(extents_at), ranks, np.int64))

    def write(self, first: int, ranks: int, weights: LoraWeights) -> Iterator[None]:
        """Copy an adapter into [first, first + ranks), a tensor at a time, yielding after each.

        Ranks that it does not fill become zero where that matters: in A, or for the embedding in B.
        """
        for target, (a_half, b_half) in self._halves.items():
            pair = weights.pairs.get(target)
            if is_lookup(target):
                _clear_columns(b_half, first, ranks)
                if pair:
                    _put_columns(a_half, first, pair[0])
                    _put_columns(b_half, first, pair[1])
            else:
                filled = pair[0].shape[0] if pair else 0
                if pair:
                    _put_rows(a_half, first, pair[0])
                    _put_columns(b_half, first, pair[1])
                _clear_rows(a_half, first + filled, ranks - filled)
            yield


def _keep_in_place(found: Mapping[str, int | None]) -> None:
    """Let products with the bank be computed where it lies, as those with the model's weights are.

    llama.cpp does not count adapters among the weights. So where the processor hands over to a GPU, behind
    the embedding or between two layers, it may copy a tensor of the bank to the other side in every pass,
    instead of what the tensor multiplies.
    """
    at = find_layout().buffer
    for buffer in {ctypes.c_uint64.from_address(tensor + at).value for tensor in found.values() if tensor}:
        ggml("ggml_backend_buffer_set_usage")(ctypes.c_void_p(buffer), WEIGHTS)


def _half(found: Mapping[str, int | None], name: str, *, across: bool) -> _Half:
    address = found.get(name)
    if address is None:
        raise AdapterError(f"llama.cpp does not show where it keeps {name!r}")
    layout = find_layout()
    full = np.ctypeslib.as_array((ctypes.c_uint8 * layout.size).from_address(address)).copy()

    def words(at: int, count: int) -> list[int]:
        return [int(word) for word in full[at : at + 8 * count].view(np.int64)]

    extents, strides = words(layout.extents, 4), words(layout.strides, 4)
    return _Half(
        address=address,
        full=full,
        data=words(layout.data, 1)[0],
        stride=strides[0] if across else strides[1],
        row_bytes=strides[1],
        rows=extents[1],
        across=across,
    )


Words = NDArray[np.int64]
Shape = tuple[int, ...]


def _window_fields(halves: Iterator[_Half]) -> tuple[Words, Words, Words, Words]:
    """Of every tensor: address of `data`, its value, bytes a rank, and address of the extent along ranks."""
    layout = find_layout()
    rows = [
        (
            half.address + layout.data,
            half.data,
            half.stride,
            half.address + layout.extents + 8 * (not half.across),
        )
        for half in halves
    ]
    data_at, data, stride, extent_at = np.array(rows, np.int64).T.copy()
    return data_at, data, stride, extent_at


def _put_rows(half: _Half, first: int, weights: Weights) -> None:
    ggml("ggml_backend_tensor_set")(
        half.handle,
        ctypes.c_void_p(weights.ctypes.data),
        ctypes.c_size_t(first * half.stride),
        ctypes.c_size_t(weights.nbytes),
    )


def _clear_rows(half: _Half, first: int, count: int) -> None:
    if count:
        ggml("ggml_backend_tensor_memset")(
            half.handle, 0, ctypes.c_size_t(first * half.stride), ctypes.c_size_t(count * half.stride)
        )


def _put_columns(half: _Half, first: int, weights: Weights) -> None:
    """`weights` (rows, count), into columns `first`... of every row."""
    width = weights.shape[1] * weights.itemsize
    ggml("ggml_backend_tensor_set_2d")(
        half.handle,
        ctypes.c_void_p(weights.ctypes.data),
        ctypes.c_size_t(first * half.stride),
        ctypes.c_size_t(width),
        ctypes.c_size_t(half.rows),
        ctypes.c_size_t(half.row_bytes),
        ctypes.c_size_t(width),
    )


def _clear_columns(half: _Half, first: int, count: int) -> None:
    zeros = np.zeros((half.rows, count * half.stride), np.uint8)
    ggml("ggml_backend_tensor_set_2d")(
        half.handle,
        ctypes.c_void_p(zeros.ctypes.data),
        ctypes.c_size_t(first * half.stride),
        ctypes.c_size_t(zeros.shape[1]),
        ctypes.c_size_t(half.rows),
        ctypes.c_size_t(half.row_bytes),
        ctypes.c_size_t(zeros.shape[1]),
    )


def write_zeros(path: Path, model: Model, targets: frozenset[str], kind: str, ranks: int) -> None:
    """A GGUF LoRA of zeros. The data is a hole in the file."""
    shapes = {}
    for target in targets:
        n_in, n_out = model.header.tensors[target].shape[:2]
        shapes[target] = (
            ((n_out, ranks), (n_in, ranks)) if is_lookup(target) else ((ranks, n_in), (n_out, ranks))
        )
    _write_gguf(path, model, kind, shapes)


def write_lora(path: Path, model: Model, weights: LoraWeights) -> None:
    """Weights as a GGUF LoRA, as they are: what is folded into them stays so."""
    _write_gguf(path, model, weights.kind, {t: (a.shape, b.shape) for t, (a, b) in weights.pairs.items()})
    with path.open("r+b") as file:
        for name, tensor in read_header(path).tensors.items():
            target, _, half = name.rpartition(".")
            file.seek(tensor.offset)
            file.write(weights.pairs[target][half == "lora_b"].tobytes())


def _write_gguf(path: Path, model: Model, kind: str, shapes: Mapping[str, tuple[Shape, Shape]]) -> None:
    """A GGUF LoRA of zeros whose alpha, 0, says that nothing is to be scaled."""
    from gguf import GGUFWriter  # takes 0.1 s to import, and only models with adapters need it

    writer = GGUFWriter(path, model.header.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)
    dtype, size = DTYPES[kind], 0
    for target in sorted(shapes):
        for half, shape in zip(("lora_a", "lora_b"), shapes[target], strict=True):
            nbytes = shape[0] * shape[1] * dtype.itemsize
            writer.add_tensor_info(f"{target}.{half}", shape, dtype, nbytes)
            size += GGUFWriter.ggml_pad(nbytes, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(GGUFWriter.ggml_pad(path.stat().st_size, writer.data_alignment) + size)
