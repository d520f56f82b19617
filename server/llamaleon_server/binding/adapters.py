"""LoRA adapters of one model: loaded by llama.cpp, and proved to be used by its graph.

A tensor that loads is not thereby applied: llama.cpp builds some products without asking for a LoRA, and
then the adapter is silently weaker than what was trained. So before a new set of target tensors is accepted,
a small context is asked to build one pass with the adapter active; its evaluation callback sees every node
of the graph, and every `lora_a` must be the first source of one. The pass is aborted at its first node
where the device allows it, so a probe costs building a graph, not computing one.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native

from llamaleon_server.binding import adapter_file, library
from llamaleon_server.binding.batch import Batch
from llamaleon_server.binding.errors import AdapterError
from llamaleon_server.binding.model import Model

PROBE_CONTEXT_TOKENS = 32
DECODED, ABORTED = 0, 2


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter. `handle` is what a context takes."""

    handle: int
    rank: int
    tensors: int
    bytes: int


class AdapterLoader:
    """Loads adapters for one model and remembers which of its tensors its graph adapts."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._adaptable: set[str] = set()
        self._source_offset = library.first_source_offset()

    def load(self, path: Path) -> Adapter:
        """Check, load and probe an adapter file. Raises: AdapterError naming the tensor or key."""
        file = adapter_file.check(path, self._model.header)
        with library.native_errors() as lines:
            handle = native.llama_adapter_lora_init(self._model.handle, str(path).encode())
        if not handle:
            raise AdapterError(f"{path}: llama.cpp cannot load this adapter: {library.explain(lines)}.")
        if not file.targets <= self._adaptable:
            self._adaptable |= self._used_targets(handle)
        if ignored := sorted(file.targets - self._adaptable):
            self.free(handle)
            more = f" and {len(ignored) - 1} more" if len(ignored) > 1 else ""
            raise AdapterError(
                f"{path}: tensor '{ignored[0]}.lora_a'{more} would be ignored: the graph of "
                f"{self._model.header.architecture!r} never applies a LoRA to {ignored[0]!r}. "
                "Train without that module."
            )
        return Adapter(handle, file.rank, 2 * len(file.targets), file.bytes)

    def free(self, handle: int) -> None:
        """Free an adapter that no context has active."""
        native.llama_adapter_lora_free(handle)

    def _used_targets(self, handle: int) -> set[str]:
        """Base tensors whose LoRA takes part in a pass. Raises: AdapterError if no pass can be built."""
        names: set[str] = set()

        def on_node(tensor: int, _asks: bool, _user: Any) -> bool:
            source = ctypes.c_uint64.from_address(tensor + self._source_offset).value
            if source:
                # A weight that the scheduler copies to another device is named `DEVICE#NAME#COPY`.
                name = library.tensor_name(source)
                parts = name.split("#")
                name = parts[1] if len(parts) > 2 else name
                if name.endswith(".lora_a"):
                    names.add(name.removesuffix(".lora_a"))
            return False

        def abort(_user: Any) -> bool:
            return True

        params = native.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = PROBE_CONTEXT_TOKENS, 1, 1, 1
        params.cb_eval = native.ggml_backend_sched_eval_callback(on_node)
        params.abort_callback = native.ggml_abort_callback(abort)
        params.no_perf = True
        params.n_threads = params.n_threads_batch = 1
        with library.native_errors() as lines:
            context = native.llama_init_from_model(self._model.handle, params)
            if not context:
                raise AdapterError(f"the adapter cannot be checked: {library.explain(lines)}.")
        try:
            self._build_one_pass(context, handle)
        finally:
            native.llama_free(context)
        return names

    @staticmethod
    def _build_one_pass(context: Any, handle: int) -> None:
        native.llama_set_adapters_lora(
            context, (native.llama_adapter_lora_p_ctypes * 1)(handle), 1, (ctypes.c_float * 1)(1.0)
        )
        batch = Batch(1)
        batch.add([0], 0, 0, 1)
        with library.silence():  # an aborted pass is logged as an error
            status = native.llama_decode(context, batch.native)
        if status not in (DECODED, ABORTED):
            raise AdapterError(f"the adapter cannot be checked: llama_decode returned {status}.")
