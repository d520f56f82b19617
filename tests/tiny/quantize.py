"""A GGUF in another file type, by llama.cpp's own quantiser."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp

from tests.tiny.reference import start_backend

PREFIX = "LLAMA_FTYPE_MOSTLY_"
KINDS = {
    "F32": llama_cpp.LLAMA_FTYPE_ALL_F32,
    **{key.removeprefix(PREFIX): getattr(llama_cpp, key) for key in dir(llama_cpp) if key.startswith(PREFIX)},
}


def quantize(source: Path, target: Path, kind: str) -> Path:
    """`kind` as in `llama-quantize`: F32, F16, Q8_0, Q4_K_M, ... Returns `target`.

    Raises: ValueError for an unknown kind; RuntimeError if llama.cpp cannot do it.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(sorted(KINDS))}")
    start_backend()  # which also keeps the log to errors
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = KINDS[kind]
    params.nthread = 1
    params.allow_requantize = True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama.cpp could not turn {source} into {kind}")
    return target
