"""Multiplies products where they lie, on their device, so that none travels to the host and back.

ggml itself does it: a small graph whose product the callback points at the memory of each `A x` in turn. Two
launches a node, on a stream of our own: llama.cpp's scheduler waits for its own stream before it calls back,
and the graph is waited for before it goes on.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamaleon_server.binding import hook
from llamaleon_server.binding.layout import F32, UnknownLayout, find_layout, ggml, new_context, new_tensor

GRAPH_NODES = 8
CONTEXT_BYTES = 1 << 15
LARGEST = ctypes.c_float(float(np.finfo(np.float32).max))


class _Multiplication:
    """`product` clamped to finite numbers, times weights, in place: a graph for up to `most` elements.

    Clamped, as infinity times 0 is not 0: an adapter that overflows must not turn its neighbours into NaN.
    """

    def __init__(self, backend: ctypes.c_void_p, most: int) -> None:
        """Raises: UnknownLayout if a part of it cannot be had."""
        self.most = most
        self._context = new_context(CONTEXT_BYTES)
        product, self._weights = (new_tensor(self._context, F32, most, 1) for _ in range(2))
        negative = ctypes.c_float(-LARGEST.value)
        finite = _pointer("ggml_clamp", self._context, product, negative, LARGEST)  # in place
        result = _pointer("ggml_mul_inplace", self._context, finite, self._weights)
        graph = _pointer("ggml_new_graph_custom", self._context, ctypes.c_size_t(GRAPH_NODES), False)
        ggml("ggml_build_forward_expand")(graph, result)
        self._buffer = _pointer("ggml_backend_alloc_buffer", backend, ctypes.c_size_t(4 * most))
        base = _pointer("ggml_backend_buffer_get_base", self._buffer)
        ggml("ggml_backend_tensor_alloc", ctypes.c_int)(self._buffer, self._weights, base)
        layout = find_layout()
        if _words(self._weights, layout.buffer, 1)[0] != self._buffer.value:
            raise UnknownLayout("a tensor's buffer is not where it should be in struct ggml_tensor")
        self.words = tuple(pointer.value or 0 for pointer in (graph, product, finite, result))
        tensors = product, finite, result, self._weights
        self._extents = [_words(tensor, layout.extents, 4) for tensor in tensors]
        self._strides = [_words(tensor, layout.strides, 4) for tensor in tensors]

    def set(self, weights: NDArray[np.float32]) -> None:
        """Multiply by these, (rows, ranks), from now on."""
        rows, ranks = weights.shape
        for extents, strides in zip(self._extents, self._strides, strict=True):
            extents[:] = ranks, rows, 1, 1
            strides[:] = 4, 4 * ranks, 4 * ranks * rows, 4 * ranks * rows
        data = ctypes.c_void_p(weights.ctypes.data)
        ggml("ggml_backend_tensor_set")(
            self._weights, data, ctypes.c_size_t(0), ctypes.c_size_t(weights.nbytes)
        )

    def close(self) -> None:
        ggml("ggml_free")(self._context)
        ggml("ggml_backend_buffer_free")(self._buffer)


class DeviceMultiplier:
    """Multiplications on one device, entered into the callback's plan."""

    def __init__(self, plan: NDArray[np.int64], number: int, device: int) -> None:
        """The plan's device `number`: `device` is its `ggml_backend_dev_t`.

        Raises: UnknownLayout if this llama.cpp has not what it needs.
        """
        first = hook.DEVICE + number * hook.DEVICE_WORDS
        self._plan = plan[first : first + hook.DEVICE_WORDS]
        init = ggml("ggml_backend_dev_init", ctypes.c_void_p)
        self._backend = ctypes.c_void_p(init(ctypes.c_void_p(device), None))
        if not self._backend.value:
            raise UnknownLayout("the device gives no backend to multiply on")
        self._made: dict[tuple[int, int], _Multiplication] = {}
        self._plan[hook.HANDLE], self._plan[hook.BACKEND] = device, self._backend.value

    def arrange(self, kind: int, by_output: int, weights: NDArray[np.float32]) -> None:
        """Multiply a bank's products, those by token (0) or by output (1), by `weights` (rows, ranks)."""
        place = kind, by_output
        made = self._made.get(place)
        if made is None or made.most < weights.size:
            if made is not None:
                made.close()
            # Twice as many at least: passes grow row by row, and memory of a device is slow to get.
            made = _Multiplication(self._backend, max(weights.size, 2 * made.most if made else 0))
            self._made[place] = made
            at = hook.GRAPHS + hook.GRAPH_WORDS * (2 * kind + by_output)
            self._plan[at : at + hook.GRAPH_WORDS] = made.words
        made.set(weights)


def multipliers(
    plan: NDArray[np.int64], devices: Sequence[int], *, checks_host: bool
) -> list[DeviceMultiplier]:
    """One for each device, and what the callback needs to find the right one.

    With `checks_host` what lies in host memory is multiplied there. Raises: UnknownLayout.
    """
    if len(devices) > hook.MOST_DEVICES:
        raise UnknownLayout(f"there are {len(devices)} devices, more than {hook.MOST_DEVICES}")
    if devices:
        plan[hook.COMPUTE] = _function_address("ggml_backend_graph_compute")
        plan[hook.IS_HOST] = _function_address("ggml_backend_buffer_is_host") if checks_host else 0
        plan[hook.TYPE_OF] = _function_address("ggml_backend_buffer_get_type")
        plan[hook.DEVICE_OF] = _function_address("ggml_backend_buft_get_device")
        plan[hook.DEVICES] = len(devices)
    return [DeviceMultiplier(plan, number, device) for number, device in enumerate(devices)]


def _pointer(name: str, *arguments: Any) -> ctypes.c_void_p:
    pointer = ctypes.c_void_p(ggml(name, ctypes.c_void_p)(*arguments))
    if not pointer.value:
        raise UnknownLayout(f"{name} failed")
    return pointer


def _words(tensor: ctypes.c_void_p, at: int, count: int) -> NDArray[np.int64]:
    """Words of a `struct ggml_tensor`, to read and to write."""
    return np.ctypeslib.as_array((ctypes.c_int64 * count).from_address((tensor.value or 0) + at))


def _function_address(name: str) -> int:
    return ctypes.cast(ggml(name), ctypes.c_void_p).value or 0
