"""What a model says after a prompt with images, by mtmd's own helper: the reference of the vision tests."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp as mtmd
from numpy.typing import NDArray
from tests.tiny.reference import start_backend

CONTEXT_TOKENS = 512


def next_logits(model: Path, projector: Path, prompt: str, images: list[bytes]) -> NDArray[np.float32]:
    """Logits of the token after the prompt, (n_vocab,). `prompt` has mtmd's marker for each image."""
    start_backend()
    loaded = llama_cpp.llama_model_load_from_file(str(model).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT_TOKENS
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(loaded, params)
    options = mtmd.mtmd_context_params_default()
    options.use_gpu, options.n_threads = False, 1
    eyes = mtmd.mtmd_init_from_file(str(projector).encode(), loaded, options)
    try:
        _evaluate(eyes, context, prompt.encode(), images)
        size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
        row = llama_cpp.llama_get_logits_ith(context, -1)
        return np.ctypeslib.as_array(row, (size,)).copy()
    finally:
        mtmd.mtmd_free(eyes)
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(loaded)


def _evaluate(eyes: Any, context: Any, prompt: bytes, images: list[bytes]) -> None:
    chunks = mtmd.mtmd_input_chunks_init()
    bitmaps = [
        mtmd.mtmd_helper_bitmap_init_from_buf(
            eyes, (ctypes.c_uint8 * len(image)).from_buffer_copy(image), len(image), False
        )
        for image in images
    ]
    text = mtmd.mtmd_input_text(prompt, len(prompt), False, True)
    given = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
    assert mtmd.mtmd_tokenize(eyes, chunks, ctypes.byref(text), given, len(bitmaps)) == 0
    end = llama_cpp.llama_pos()
    status = mtmd.mtmd_helper_eval_chunks(
        eyes, context, chunks, 0, 0, CONTEXT_TOKENS, True, ctypes.byref(end)
    )
    assert status == 0
    mtmd.mtmd_input_chunks_free(chunks)
    for bitmap in bitmaps:
        mtmd.mtmd_bitmap_free(bitmap)
