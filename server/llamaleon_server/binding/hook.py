"""The evaluation callback that lets one pass serve many adapters: native code, compiled by numba.

llama.cpp computes `y = W x + B (A x)` with a bank whose A stacks many adapters along the rank axis. After
each `A x` node it calls back, and here row i (a token) is multiplied by that token's weights over the ranks:
0 for the adapters of others, the request's weight for its own. So adapters, blends and the bare base share a
pass, each exactly as if alone. Everything that the callback needs lies in one array of 64-bit words, the
plan; the callback itself holds no state, takes no lock and does not touch Python.

It runs for every node of the graph, 1,000 to 7,000 times a pass: as a Python callback it would cost
milliseconds and the interpreter's lock.

Source: `ggml_backend_sched_eval_callback` in ggml-backend.h; `build_lora_mm` in src/llama-graph.cpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# Words of the plan.
ENABLED = 0  # 0: no node is intercepted
TOKENS, OUTPUTS = 1, 2  # rows of this pass: most nodes have a row a token, the last layer's a row an output
UNIFORM = 3  # 1: all rows take the first row of weights, however the pass is split and ordered
FAILED = 4  # set by the callback: a node had neither TOKENS nor OUTPUTS rows
NODES = 5  # counted by the callback: nodes multiplied
# Offsets in struct ggml_tensor and operation codes.
AT_STRIDES, AT_OPERATION, AT_SOURCE, AT_NAME, AT_EXTENTS, AT_DATA, AT_BUFFER, MUL_MAT, GET_ROWS = range(7, 16)
# Of each bank, by its tensors' type: whether it is multiplied, ranks in the window, and where its weights
# lie, float32 (TOKENS, ranks) and (OUTPUTS, ranks).
BANKS, BANK_WORDS = 16, 4
ACTIVE, RANKS, TOKEN_WEIGHTS, OUTPUT_WEIGHTS = range(BANK_WORDS)
BANK_TYPES = 2  # enum ggml_type: F32 is 0, F16 is 1
# Products on a device are multiplied there, by graphs of ggml's (see device.py). Functions of its that are
# called, all ggml_backend_: graph_compute (0 where all is host memory), buffer_is_host (0: not to be asked),
# buffer_get_type, buft_get_device.
COMPUTE, IS_HOST, TYPE_OF, DEVICE_OF = range(24, 28)
DEVICES = 28  # how many
# Of each device: its handle, a backend of it, and graphs by bank and kind of row.
DEVICE = 29
HANDLE, BACKEND, GRAPHS, GRAPH_WORDS = 0, 1, 2, 4
GRAPH, PRODUCT, FINITE, RESULT = range(GRAPH_WORDS)
DEVICE_WORDS = GRAPHS + GRAPH_WORDS * 2 * BANK_TYPES
MOST_DEVICES = 16
WORDS = DEVICE + MOST_DEVICES * DEVICE_WORDS

NAME_BYTES = 64
DOT, A, HASH, UNDERSCORE = ord("."), ord("a"), ord("#"), ord("_")


@intrinsic
def _pointer(_context: Any, _address: Any) -> Any:
    return types.voidptr(types.intp), lambda _c, builder, _s, args: builder.inttoptr(
        args[0], cgutils.voidptr_t
    )


@intrinsic
def _address(_context: Any, _pointer: Any) -> Any:
    return types.intp(types.voidptr), lambda _c, builder, _s, args: builder.ptrtoint(args[0], cgutils.intp_t)


@intrinsic
def _call(_context: Any, _function: Any, _backend: Any, _graph: Any) -> Any:
    """`int32 (*function)(void * backend, void * graph)`, by address."""

    def build(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        word = cgutils.voidptr_t
        kind = cgutils.ir.FunctionType(cgutils.int32_t, [word, word])
        function = builder.inttoptr(args[0], kind.as_pointer())
        return builder.call(function, [builder.inttoptr(args[1], word), builder.inttoptr(args[2], word)])

    return types.int32(types.intp, types.intp, types.intp), build


@intrinsic
def _asks(_context: Any, _function: Any, _argument: Any) -> Any:
    """`bool (*function)(void *)`, by address."""

    def build(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        word = cgutils.voidptr_t
        kind = cgutils.ir.FunctionType(cgutils.bool_t, [word])
        function = builder.inttoptr(args[0], kind.as_pointer())
        return builder.call(function, [builder.inttoptr(args[1], word)])

    return types.boolean(types.intp, types.intp), build


@intrinsic
def _gives(_context: Any, _function: Any, _argument: Any) -> Any:
    """`void * (*function)(void *)`, by address."""

    def build(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        word = cgutils.voidptr_t
        function = builder.inttoptr(args[0], cgutils.ir.FunctionType(word, [word]).as_pointer())
        return builder.ptrtoint(builder.call(function, [builder.inttoptr(args[1], word)]), cgutils.intp_t)

    return types.intp(types.intp, types.intp), build


@njit(inline="always")
def _words(address: int, count: int) -> Any:
    return carray(_pointer(address), count, np.int64)


@njit(inline="always")
def _word(address: int) -> int:
    return _words(address, 1)[0]


@njit(inline="always")
def _half_word(address: int) -> int:
    return carray(_pointer(address), 1, np.int32)[0]


@njit(inline="always")
def _is_lora_a(name: Any) -> bool:
    """Whether a name ends in `_a` behind `lora`, also as a copy on another device, `DEVICE#NAME#COPY`."""
    for i in range(7, NAME_BYTES):
        if name[i] == 0 or name[i] == HASH:
            if name[i - 1] == A and name[i - 2] == UNDERSCORE and name[i - 7] == DOT:
                return True
            if name[i] == 0:
                return False
    return False


@njit(inline="always")
def _multiply(tensor: int, plan: Any, bank: int, rows: int, weights_at: int) -> None:
    ranks = plan[bank + RANKS]
    data = carray(_pointer(_word(tensor + plan[AT_DATA])), (rows, ranks), np.float32)
    weights = carray(_pointer(weights_at), (rows, ranks), np.float32)
    for row in range(rows):
        source = 0 if plan[UNIFORM] else row
        for rank in range(ranks):
            weight = weights[source, rank]
            # Not 0 * x: an adapter that overflows must not turn its neighbours into NaN.
            data[row, rank] = data[row, rank] * weight if weight != 0 else np.float32(0)


@njit(inline="always")
def _device_of(tensor: int, plan: Any) -> int:
    """Where the words of the device that a tensor lies on begin; 0 if it is none of those known."""
    if plan[DEVICES] == 1:
        return DEVICE
    kind = _gives(plan[TYPE_OF], _word(tensor + plan[AT_BUFFER]))
    handle = _gives(plan[DEVICE_OF], kind)
    for number in range(plan[DEVICES]):
        device = DEVICE + DEVICE_WORDS * number
        if plan[device + HANDLE] == handle:
            return device
    return 0


@njit(inline="always")
def _multiply_on_device(tensor: int, plan: Any, device: int, graph: int, rows: int) -> bool:
    """Point the graph's product, and what it computes of it in place, at this node's memory, and run it.

    The weights have as many rows, or one, which ggml repeats.
    """
    for part in (PRODUCT, FINITE, RESULT):
        target = plan[graph + part]
        for at in (AT_DATA, AT_BUFFER):
            _words(target + plan[at], 1)[0] = _word(tensor + plan[at])
        _words(target + plan[AT_EXTENTS], 4)[1] = rows
        strides = _words(target + plan[AT_STRIDES], 4)
        strides[2] = strides[3] = rows * strides[1]
    return _call(plan[COMPUTE], plan[device + BACKEND], plan[graph + GRAPH]) == 0


@cfunc(types.boolean(types.voidptr, types.boolean, types.voidptr), cache=True)
def callback(tensor_pointer: Any, asks: bool, plan_pointer: Any) -> bool:
    """Asked about a node: whether it is an `A x` to be multiplied. Called again with it: multiplies it."""
    tensor = _address(tensor_pointer)
    plan = carray(plan_pointer, WORDS, np.int64)
    if plan[ENABLED] == 0:
        return False
    operation = _half_word(tensor + plan[AT_OPERATION])
    if operation not in (plan[MUL_MAT], plan[GET_ROWS]):
        return False
    source = _word(tensor + plan[AT_SOURCE])
    kind = _half_word(source)  # `type` is the first field
    if kind < 0 or kind >= BANK_TYPES or plan[BANKS + BANK_WORDS * kind + ACTIVE] == 0:
        return False
    if not _is_lora_a(carray(_pointer(source + plan[AT_NAME]), NAME_BYTES, np.uint8)):
        return False
    if asks:
        return True
    extents = _words(tensor + plan[AT_EXTENTS], 4)
    rows = extents[1] * extents[2] * extents[3]
    bank = BANKS + BANK_WORDS * kind
    if rows == 0:
        return True
    by_token = rows == plan[TOKENS]
    if extents[0] != plan[bank + RANKS] or not (by_token or rows == plan[OUTPUTS] or plan[UNIFORM]):
        plan[FAILED] = 1
        return False
    plan[NODES] += 1
    if plan[COMPUTE] != 0 and not (
        plan[IS_HOST] != 0 and _asks(plan[IS_HOST], _word(tensor + plan[AT_BUFFER]))
    ):
        device = _device_of(tensor, plan)
        graph = device + GRAPHS + GRAPH_WORDS * (2 * kind + (0 if by_token else 1))
        done = device != 0 and _multiply_on_device(tensor, plan, device, graph, rows)
        plan[FAILED] |= not done
        return done
    _multiply(tensor, plan, bank, rows, plan[bank + (TOKEN_WEIGHTS if by_token else OUTPUT_WEIGHTS)])
    return True


@njit(types.void(types.int64[::1], types.int64[::1]), cache=True)
def store_words(addresses: Any, values: Any) -> None:
    """Write `values[i]` to `addresses[i]`: how a bank's window moves, some hundred words at a time."""
    for i in range(len(addresses)):
        _words(addresses[i], 1)[0] = values[i]
