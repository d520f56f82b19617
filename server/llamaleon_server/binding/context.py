"""One llama.cpp context: the KV cache that all sequences share, the active adapters, and the logits."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from llamaleon_server.binding import library
from llamaleon_server.binding.batch import Batch, VectorBatch
from llamaleon_server.binding.errors import DecodeError, LoadError
from llamaleon_server.binding.fitting import KV_TYPES
from llamaleon_server.binding.mixer import Mixer
from llamaleon_server.binding.model import Model

DECODED, NO_KV_SLOT = 0, 1


@dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """`kv_tokens` are shared by all `sequences`; `outputs` bounds the rows of logits of one decode.

    With a `mixer` its callback watches the passes.
    """

    kv_tokens: int
    sequences: int
    batch_tokens: int
    outputs: int
    threads: int
    flash_attention: bool | None = None
    kv_type: str = "f16"
    kv_type_v: str | None = None  # of the values, if not the same
    mixer: Mixer | None = None
    pooling: int | None = None  # enum llama_pooling_type; set: embeddings are computed, see embedding.py


class Context:
    """Decode batches, read logits, cut and copy sequences. Not thread-safe: one thread owns it."""

    def __init__(self, model: Model, options: ContextOptions) -> None:
        """Allocate the KV cache and compute buffers. Raises: LoadError with the reason."""
        self._model = model
        with library.native_errors() as lines, library.native_warnings() as said:
            self.handle: Any = native.llama_init_from_model(model.handle, _params(model, options))
        if not self.handle:
            raise LoadError(f"llama.cpp cannot make a context: {library.explain(lines)}.")
        self._memory = native.llama_get_memory(self.handle)
        # Where it is left to llama.cpp, it is used unless a warning says that the device cannot.
        refused = any("flash" in line.lower() for line in said)
        self.flash_attention = not refused if options.flash_attention is None else options.flash_attention
        # Text comes of attention to what was before, and of a memory of it; encoders have neither.
        self.generates: bool = bool(self._memory) and bool(native.llama_get_causal_attn(self.handle))
        self._active: tuple[tuple[Any, float], ...] = ()
        self.mixer = options.mixer
        self._outputs = options.outputs
        self._logits: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._logits_at: int | None = None
        self.kv_tokens: int = native.llama_n_ctx(self.handle)

    def close(self) -> None:
        if self.handle is not None:
            native.llama_free(self.handle)
            self.handle = None

    def use_adapters(self, adapters: tuple[tuple[Any, float], ...]) -> bool:
        """Make exactly these (adapter handle, weight) pairs active; a change re-reserves the graph.

        Returns: whether that was a change.
        """
        if adapters == self._active:
            return False
        count = len(adapters)
        handles = (native.llama_adapter_lora_p_ctypes * count)(*(handle for handle, _ in adapters))
        weights = (ctypes.c_float * count)(*(weight for _, weight in adapters))
        status = native.llama_set_adapters_lora(self.handle, handles, count, weights)
        if status != 0:
            raise DecodeError(status)
        self._active = adapters
        return True

    def uses(self, adapter: Any) -> bool:
        return any(handle == adapter for handle, _ in self._active)

    def decode(self, batch: Batch | VectorBatch, *, causal: bool = True) -> bool:
        """Run a batch. False if its tokens found no room in the KV cache: then nothing has changed.

        Without `causal` each sees all of the batch, which must be of one sequence.
        Raises: DecodeError on any other failure; what lies in the cache for its sequences is then unknown.
        """
        if not causal:
            native.llama_set_causal_attn(self.handle, False)
        status = native.llama_decode(self.handle, batch.native)
        if not causal:
            native.llama_set_causal_attn(self.handle, True)
        if status == NO_KV_SLOT:
            return False
        mixed = self.mixer is None or self.mixer.check()  # in any case: the next pass starts without its mark
        if status != DECODED or not mixed:
            raise DecodeError(status)
        return True

    def logits(self, rows: int) -> NDArray[np.float32]:
        """Raw logits of the last decode, (rows, n_vocab), in batch order; valid until the next decode."""
        pointer = native.llama_get_logits(self.handle)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if address != self._logits_at:  # making an array of a pointer takes longer than all else in here
            self._logits_at = address
            self._logits = np.ctypeslib.as_array(pointer, shape=(self._outputs, self._model.vocabulary.size))
        return self._logits[:rows]

    def remove(self, sequence: int, start: int = 0) -> bool:
        """Forget positions from `start` on. False if this kind of memory cannot forget a part."""
        return bool(native.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def wipe(self) -> None:
        """Forget everything, and overwrite it with zeros."""
        native.llama_memory_clear(self._memory, True)

    def copy(self, source: int, target: int, end: int) -> None:
        """Let `target` share the positions [0, end) of `source`."""
        native.llama_memory_seq_cp(self._memory, source, target, 0, end)

    def positions(self, sequence: int) -> tuple[int, int]:
        """First and last position kept for a sequence; (-1, -1) if there is none."""
        return (
            native.llama_memory_seq_pos_min(self._memory, sequence),
            native.llama_memory_seq_pos_max(self._memory, sequence),
        )

    def state_bytes(self, sequence: int) -> int:
        """Size of what `save` returns."""
        return int(native.llama_state_seq_get_size(self.handle, sequence))

    def save(self, sequence: int) -> NDArray[np.uint8]:
        """A copy of what the cache holds for a sequence, (state_bytes,)."""
        state = np.empty(self.state_bytes(sequence), np.uint8)
        size = native.llama_state_seq_get_data(self.handle, _bytes(state), len(state), sequence)
        return state[:size]

    def restore(self, sequence: int, state: NDArray[np.uint8]) -> bool:
        """Fill a sequence with what `save` gave for any. False, and it is empty, if there is no room."""
        return bool(
            native.llama_state_seq_set_data(self.handle, _bytes(state), len(state), sequence) == len(state)
        )


def _bytes(array: NDArray[np.uint8]) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def exact_context(model: Model, tokens: int, rows: int, threads: int, mixer: Mixer | None) -> Context:
    """A context for one sequence that rounds as little as llama.cpp can: no flash attention, 32-bit cache.

    In the serving context those two cost up to 0.03 in a logit (CPU flash attention), a hundred times what
    a correct conversion of an adapter may differ by.
    """
    options = ContextOptions(
        kv_tokens=tokens,
        sequences=1,
        batch_tokens=rows,
        outputs=rows,
        threads=threads,
        flash_attention=False,
        kv_type="f32",
        mixer=mixer,
    )
    return Context(model, options)


def _params(model: Model, options: ContextOptions) -> Any:
    params = native.llama_context_default_params()
    params.n_ctx = options.kv_tokens
    params.n_seq_max = options.sequences
    # Equal, so that every decode is one micro-batch: its rows keep their order and it fails as a whole.
    params.n_batch = params.n_ubatch = options.batch_tokens
    params.n_outputs_max = options.outputs
    params.n_threads = params.n_threads_batch = options.threads
    params.kv_unified = True
    params.no_perf = True
    params.type_k = KV_TYPES[options.kv_type][0]
    params.type_v = KV_TYPES[options.kv_type_v or options.kv_type][0]
    model.rope.apply(params)
    if options.flash_attention is not None:
        params.flash_attn_type = int(options.flash_attention)
    if options.pooling is not None:
        params.embeddings, params.pooling_type = True, options.pooling
    if options.mixer is not None:
        function, data = options.mixer.callback
        params.cb_eval = ctypes.cast(function, type(params.cb_eval))
        params.cb_eval_user_data = data
    return params
