"""Multiplies products where they lie, on a device, so that none travels to the host and back.

ggml itself does it: a graph of one node, `product * weights` in place, whose product the callback points at
the memory of each `A x` in turn. One small launch a node, on a stream of our own: llama.cpp's scheduler waits
for its own stream before it calls back, and the graph is waited for before it goes on.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamaleon_server.binding import hook
from llamaleon_server.binding.layout import F32, UnknownLayout, find_layout, ggml, new_context, new_tensor

GRAPH_NODES = 8
CONTEXT_BYTES = 1 << 15


@dataclass
class _Multiplication:
    """One graph; freed by `close`. `buffer` holds the weights on the device."""

    context: ctypes.c_void_p
    buffer: ctypes.c_void_p
    graph: int
    product: int
    result: int
    weights: ctypes.c_void_p

    def close(self) -> None:
        ggml("ggml_free")(self.context)
        ggml("ggml_backend_buffer_free")(self.buffer)


class DeviceMultiplier:
    """Graphs for one device, entered into the callback's plan."""

    def __init__(self, plan: NDArray[np.int64], device: int, *, checks_host: bool = True) -> None:
        """`device`: a `ggml_backend_dev_t`. With `checks_host` what lies in host memory is multiplied there.

        Raises: UnknownLayout if this llama.cpp has not what it needs.
        """
        self._plan = plan
        init = ggml("ggml_backend_dev_init", ctypes.c_void_p)
        self._backend = ctypes.c_void_p(init(ctypes.c_void_p(device), None))
        if not self._backend.value:
            raise UnknownLayout("the device gives no backend to multiply on")
        self._made: dict[tuple[int, int], tuple[tuple[int, ...], _Multiplication]] = {}
        plan[hook.BACKEND] = self._backend.value
        plan[hook.COMPUTE] = _function_address("ggml_backend_graph_compute")
        plan[hook.IS_HOST] = _function_address("ggml_backend_buffer_is_host") if checks_host else 0

    def arrange(self, kind: int, by_output: int, weights: NDArray[np.float32]) -> None:
        """Multiply a bank's products, those by token (0) or by output (1), by `weights` (rows, ranks)."""
        place = kind, by_output
        shape, made = self._made.get(place, ((), None))
        if made is None or shape != weights.shape:
            if made is not None:
                made.close()
            made = self._build(*weights.shape)
            self._made[place] = weights.shape, made
        ggml("ggml_backend_tensor_set")(
            made.weights,
            ctypes.c_void_p(weights.ctypes.data),
            ctypes.c_size_t(0),
            ctypes.c_size_t(weights.nbytes),
        )
        at = hook.GRAPHS + hook.GRAPH_WORDS * (2 * kind + by_output)
        self._plan[at : at + hook.GRAPH_WORDS] = made.graph, made.product, made.result

    def close(self) -> None:
        self._plan[hook.COMPUTE] = 0
        for _, made in self._made.values():
            made.close()
        self._made.clear()
        ggml("ggml_backend_free")(self._backend)

    def _build(self, rows: int, ranks: int) -> _Multiplication:
        context = new_context(CONTEXT_BYTES)
        product, weights = (new_tensor(context, F32, ranks, rows) for _ in range(2))
        result = _pointer("ggml_mul_inplace", context, product, weights)
        graph = _pointer("ggml_new_graph_custom", context, ctypes.c_size_t(GRAPH_NODES), False)
        ggml("ggml_build_forward_expand")(graph, result)
        size = ctypes.c_size_t(4 * rows * ranks)
        buffer = _pointer("ggml_backend_alloc_buffer", self._backend, size)
        base = _pointer("ggml_backend_buffer_get_base", buffer)
        ggml("ggml_backend_tensor_alloc", ctypes.c_int)(buffer, weights, base)
        found = ctypes.c_uint64.from_address((weights.value or 0) + find_layout().buffer).value
        if found != buffer.value:
            raise UnknownLayout("a tensor's buffer is not where it should be in struct ggml_tensor")
        return _Multiplication(
            context, buffer, graph.value or 0, product.value or 0, result.value or 0, weights
        )


def _pointer(name: str, *arguments: Any) -> ctypes.c_void_p:
    pointer = ctypes.c_void_p(ggml(name, ctypes.c_void_p)(*arguments))
    if not pointer.value:
        raise UnknownLayout(f"{name} failed")
    return pointer


def _function_address(name: str) -> int:
    return ctypes.cast(ggml(name), ctypes.c_void_p).value or 0
