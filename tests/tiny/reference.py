"""Logits of a small GGUF from llama.cpp in this process. For tests only: the engine has its own binding."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Loras = Sequence[tuple[Path, float]]
CONTEXT_TOKENS = 256
ERROR_LEVEL = 4

messages: list[str] = []  # what llama.cpp said at error level since the last `open_model`


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_errors(level: int, text: bytes, _: Any) -> None:
    if level == ERROR_LEVEL:
        messages.append(text.decode(errors="replace"))


class Model:
    """One loaded GGUF with a context, F32 key-value cache and one thread."""

    def __init__(self, model: Any, context: Any) -> None:
        self._model = model
        self._context = context
        self._adapters: dict[Path, Any] = {}
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def logits(self, tokens: Sequence[int], loras: Loras = (), *, piece: int | None = None) -> Array:
        """Logits of every position, shape (n_tokens, n_vocab). Raises: RuntimeError if llama.cpp refuses.

        Args:
            piece: how many tokens one pass takes; all of them by default.
        """
        self._activate(loras)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        size = piece or len(tokens)
        passes = [self._decode(tokens[start : start + size], start) for start in range(0, len(tokens), size)]
        return np.concatenate(passes)

    def _decode(self, tokens: Sequence[int], start: int) -> Array:
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, 1
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            if code := llama_cpp.llama_decode(self._context, batch):
                raise RuntimeError(f"llama_decode returned {code}: {messages}")
            flat = llama_cpp.llama_get_logits(self._context)
            return np.ctypeslib.as_array(flat, (len(tokens), self.n_vocab)).copy()
        finally:
            llama_cpp.llama_batch_free(batch)

    def tokenize(self, text: str) -> list[int]:
        """Control tokens are read as such; nothing is added."""
        raw = text.encode()
        ids = (llama_cpp.llama_token * (len(raw) + 8))()
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        count = llama_cpp.llama_tokenize(vocab, raw, len(raw), ids, len(ids), False, True)
        return list(ids[:count])

    def _activate(self, loras: Loras) -> None:
        for path, _ in loras:
            if path not in self._adapters:
                adapter = llama_cpp.llama_adapter_lora_init(self._model, str(path).encode())
                if not adapter:
                    raise RuntimeError(f"llama.cpp does not load {path}: {messages}")
                self._adapters[path] = adapter
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * len(loras))(*(self._adapters[p] for p, _ in loras))
        scales = (ctypes.c_float * len(loras))(*(scale for _, scale in loras))
        llama_cpp.llama_set_adapters_lora(self._context, handles, len(loras), scales)


def start_backend() -> None:
    """llama.cpp, silent but for errors, which go to `messages`."""
    llama_cpp.llama_log_set(_keep_errors, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


@contextmanager
def open_model(gguf: Path, context_tokens: int = CONTEXT_TOKENS) -> Iterator[Model]:
    """Raises: RuntimeError with llama.cpp's own message if it does not load the file."""
    messages.clear()
    start_backend()
    model_params = llama_cpp.llama_model_default_params()
    model_params.use_mmap = False
    model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), model_params)
    if not model:
        raise RuntimeError(f"llama.cpp does not load {gguf}: {messages}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = context_tokens
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, params)
    try:
        yield Model(model, context)
    finally:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)


def llama_logits(gguf: Path, tokens: Sequence[int], loras: Loras = ()) -> Array:
    """Logits of one sequence, shape (n_tokens, n_vocab)."""
    with open_model(gguf) as model:
        return model.logits(tokens, loras)


def mean_kl(expected: Array, actual: Array) -> float:
    """Mean over tokens of KL(softmax(expected) || softmax(actual)), in nats."""
    p, q = _log_softmax(expected), _log_softmax(actual)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def _log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
