"""Where `struct ggml_tensor` keeps its fields, found out from the loaded library instead of trusted.

ggml.h shows the struct to everybody, but its layout may change between releases, and the bank of adapters
reads and writes it. So every offset is looked for in tensors made for the purpose.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llamaleon_server.binding import library

SCAN_BYTES = 400  # sizeof(struct ggml_tensor) is 336 today
MAX_OPERATION = 64
F32 = 0  # enum ggml_type
NAME_BYTES = 64  # GGML_MAX_NAME
TAIL_BYTES = 16  # `extra` and padding behind the name


class UnknownLayout(Exception):
    """This llama.cpp lays out its tensors in a way that was not found out: adapters cannot be mixed."""


@dataclass(frozen=True)
class Layout:
    """Byte offsets of fields (`extents` and `strides` are four words each) and operation codes."""

    buffer: int
    extents: int
    strides: int
    operation: int
    first_source: int
    data: int
    name: int
    size: int
    mul_mat: int
    get_rows: int


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@contextmanager
def ggml_context(size: int = 1 << 16, *, allocates: bool = False) -> Iterator[ctypes.c_void_p]:
    """A ggml context for a few tensors; freed at the end of the block."""
    context = new_context(size, allocates=allocates)
    try:
        yield context
    finally:
        ggml("ggml_free")(context)


def new_context(size: int, *, allocates: bool = False) -> ctypes.c_void_p:
    """A ggml context that the caller frees. Raises: UnknownLayout if there is no memory for it."""
    context = ctypes.c_void_p(ggml("ggml_init", ctypes.c_void_p)(_InitParams(size, None, not allocates)))
    if not context.value:
        raise UnknownLayout("ggml gives no context")
    return context


def ggml(name: str, result: Any = None) -> Any:
    """A function of ggml. Raises: UnknownLayout if this build has none of that name."""
    try:
        function = getattr(library.ggml, name)
    except AttributeError as error:
        raise UnknownLayout(f"this llama.cpp has no {name}") from error
    function.restype = result
    return function


def new_tensor(context: ctypes.c_void_p, kind: int, *extents: int) -> ctypes.c_void_p:
    sizes = [ctypes.c_int64(extent) for extent in extents]
    return ctypes.c_void_p(ggml(f"ggml_new_tensor_{len(sizes)}d", ctypes.c_void_p)(context, kind, *sizes))


@functools.cache
def find_layout() -> Layout:
    """Raises: UnknownLayout."""
    with ggml_context(allocates=True) as context:
        left, right = new_tensor(context, F32, 3, 5), new_tensor(context, F32, 3, 7)
        rows = new_tensor(context, 26, 2)  # I32
        product = ctypes.c_void_p(ggml("ggml_mul_mat", ctypes.c_void_p)(context, left, right))
        lookup = ctypes.c_void_p(ggml("ggml_get_rows", ctypes.c_void_p)(context, left, rows))
        codes = _operation_codes()
        base = _address(left)
        extents = _find_words(left, (3, 5, 1, 1))
        first_source = _find_words(product, (_address(left), _address(right)))
        name = int(ggml("ggml_get_name", ctypes.c_void_p)(left)) - base
        data = _find_words(left, (ggml("ggml_get_data", ctypes.c_void_p)(left),))
        return Layout(
            buffer=8,  # behind `type`, which is first; only written to tensors of our own
            extents=extents,
            strides=_find_words(left, (4, 12, 60, 60)),
            operation=_find_operation(product, codes["MUL_MAT"], lookup, codes["GET_ROWS"], extents),
            first_source=first_source,
            data=data,
            name=name,
            size=name + NAME_BYTES + TAIL_BYTES,
            mul_mat=codes["MUL_MAT"],
            get_rows=codes["GET_ROWS"],
        )


def _address(tensor: ctypes.c_void_p) -> int:
    assert tensor.value is not None, "a tensor has an address"
    return tensor.value


def _find_words(tensor: ctypes.c_void_p, wanted: tuple[int, ...]) -> int:
    """Offset of consecutive 64-bit words in a tensor."""
    words = (ctypes.c_uint64 * (SCAN_BYTES // 8)).from_address(_address(tensor))
    for index in range(len(words) - len(wanted)):
        if tuple(words[index : index + len(wanted)]) == wanted:
            return index * 8
    raise UnknownLayout(f"{wanted} is not where it should be in struct ggml_tensor")


def _find_operation(
    product: ctypes.c_void_p, mul_mat: int, lookup: ctypes.c_void_p, get_rows: int, after: int
) -> int:
    """The one 32-bit word that is each tensor's operation."""
    words = (ctypes.c_int32 * (SCAN_BYTES // 4)).from_address(_address(product))
    others = (ctypes.c_int32 * (SCAN_BYTES // 4)).from_address(_address(lookup))
    for index in range(after // 4 + 16, len(words)):
        if words[index] == mul_mat and others[index] == get_rows:
            return index * 4
    raise UnknownLayout("no operation code in struct ggml_tensor")


def _operation_codes() -> dict[str, int]:
    """Both are among the first; how long ggml's table of names is, it does not tell."""
    name_of = ggml("ggml_op_name", ctypes.c_char_p)
    codes: dict[str, int] = {}
    for code in range(MAX_OPERATION):
        name = name_of(code).decode()
        if name in ("MUL_MAT", "GET_ROWS"):
            codes[name] = code
        if len(codes) == 2:
            return codes
    raise UnknownLayout("this llama.cpp does not name its operations MUL_MAT and GET_ROWS")
