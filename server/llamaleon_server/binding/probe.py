"""Which tensors of an adapter take part in a pass: asked of llama.cpp's graph, not assumed.

A tensor that loads is not thereby applied: llama.cpp builds some products without asking for a LoRA, and
then the adapter is silently weaker than what was trained. So a small context builds one pass with the adapter
active; its evaluation callback sees every node of the graph, and every LoRA tensor that is used is the first
source of one. On the processor the pass is aborted at its first node: a probe costs building a graph, not
computing one. With layers on a GPU it is computed: it then runs in parts, one a device, whose nodes are only
shown when their turn comes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import llama_cpp.llama_cpp as native

from llamaleon_server.binding import library
from llamaleon_server.binding.batch import Batch
from llamaleon_server.binding.errors import AdapterError
from llamaleon_server.binding.layout import F32, UnknownLayout, find_layout, ggml, ggml_context, new_tensor
from llamaleon_server.binding.model import Model

PROBE_CONTEXT_TOKENS = 32
DECODED, ABORTED = 0, 2
ENDINGS = (".lora_a", ".lora_b")
GET_WEIGHT = "_ZN18llama_adapter_lora10get_weightEP11ggml_tensor"


def lora_tensors(model: Model, adapter: Any) -> dict[str, int | None]:
    """Names of the adapter's tensors that a pass uses, with the address of each `struct ggml_tensor`.

    None for one that llama.cpp copies to another device first, so that its own address is not seen.
    Raises: AdapterError if no pass can be built, or if this llama.cpp cannot be looked into.
    """
    try:
        source_at = find_layout().first_source
    except UnknownLayout as error:
        raise AdapterError(f"adapters cannot be checked: {error}") from error
    found: dict[str, int | None] = {}

    def on_node(tensor: int, _asks: bool, _user: Any) -> bool:
        source = ctypes.c_uint64.from_address(tensor + source_at).value
        if source:
            # A weight that the scheduler copies to another device is named `DEVICE#NAME#COPY`.
            name = library.tensor_name(source)
            parts = name.split("#")
            copied = len(parts) > 2
            name = parts[1] if copied else name
            if name.endswith(ENDINGS):
                found[name] = None if copied else source
        return False

    callback = native.ggml_backend_sched_eval_callback(on_node)  # kept: llama.cpp holds only its address
    context = _context(model, callback)
    try:
        _build_one_pass(context, adapter)
    finally:
        native.llama_free(context)
    return found


def kept_tensors(adapter: Any, names: Iterable[str]) -> dict[str, int | None]:
    """Address of the `struct ggml_tensor` of each of an adapter's tensors; None for one that is not found.

    The graph shows copies of some. Where llama.cpp keeps the tensors themselves, its public interface does
    not tell; this method of its adapters is exported all the same, and of a weight reads only the name.
    Source: `llama_adapter_lora::get_weight` in src/llama-adapter.cpp.
    """
    try:
        get_weight = getattr(native._lib, GET_WEIGHT)
    except AttributeError:
        return {}
    get_weight.argtypes, get_weight.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_void_p
    found: dict[str, int | None] = {}
    with ggml_context() as context:
        weight = new_tensor(context, F32, 1)
        for name in names:
            target, _, _ = name.rpartition(".")
            ggml("ggml_set_name")(weight, target.encode())
            pair = get_weight(adapter, weight)
            both = (ctypes.c_uint64 * 2).from_address(pair) if pair else ()
            found[name] = next((tensor for tensor in both if library.tensor_name(tensor) == name), None)
    return found


def _context(model: Model, on_node: Any) -> Any:
    params = native.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = PROBE_CONTEXT_TOKENS, 1, 1, 1
    params.cb_eval = on_node
    if model.gpu_layers == 0:
        params.abort_callback = _abort
    params.no_perf = True
    params.n_threads = params.n_threads_batch = 1
    with library.native_errors() as lines:
        context = native.llama_init_from_model(model.handle, params)
    if not context:
        raise AdapterError(f"the adapter cannot be checked: {library.explain(lines)}.")
    return context


def _build_one_pass(context: Any, adapter: Any) -> None:
    native.llama_set_adapters_lora(
        context, (native.llama_adapter_lora_p_ctypes * 1)(adapter), 1, (ctypes.c_float * 1)(1.0)
    )
    batch = Batch(1)
    batch.add([0], 0, 0, 1)
    with library.silence():  # an aborted pass is logged as an error
        status = native.llama_decode(context, batch.native)
    if status not in (DECODED, ABORTED):
        raise AdapterError(f"the adapter cannot be checked: llama_decode returned {status}.")


def _always(_user: Any) -> bool:
    return True


_abort = native.ggml_abort_callback(_always)  # kept: llama.cpp holds only its address
