"""A loaded GGUF: its weights, its vocabulary and what it says about itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import Header, read_header
from llamaleon_server.binding import library
from llamaleon_server.binding.errors import LoadError
from llamaleon_server.binding.options import AS_TRAINED, UNSPLIT, Rope, Split
from llamaleon_server.binding.vocabulary import Vocabulary


class Model:
    """Weights in memory. `gpu_layers` is what was asked of llama.cpp; -1 means every layer."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int,
        use_mmap: bool = True,
        rope: Rope = AS_TRAINED,
        split: Split = UNSPLIT,
        on_progress: Callable[[float], bool] | None = None,
    ) -> None:
        """Load `path`. Raises: LoadError with the reason."""
        self.rope = rope
        self.header = _readable_header(path)
        self.handle: Any = _load(path, gpu_layers, split, use_mmap=use_mmap, on_progress=on_progress)
        self.gpu_layers = gpu_layers
        self.vocabulary = Vocabulary(native.llama_model_get_vocab(self.handle))
        self.layers: int = native.llama_model_n_layer(self.handle)
        self.train_context_tokens: int = native.llama_model_n_ctx_train(self.handle)
        self.window_tokens: int = native.llama_model_n_swa(self.handle)
        self.keeps_state: bool = bool(
            native.llama_model_is_recurrent(self.handle) or native.llama_model_is_hybrid(self.handle)
        )
        self.bytes: int = native.llama_model_size(self.handle)
        self.parameters: int = native.llama_model_n_params(self.handle)
        self._refuse_what_does_not_generate(path)

    def _refuse_what_does_not_generate(self, path: Path) -> None:
        reason = None
        if self.vocabulary.is_empty:
            reason = "has no vocabulary"
        elif native.llama_model_has_encoder(self.handle) or not native.llama_model_has_decoder(self.handle):
            reason = "is not a decoder-only model, and only those are served"
        elif native.llama_model_is_diffusion(self.handle):
            reason = "is a diffusion model, which does not generate token by token"
        if reason:
            self.close()
            raise LoadError(f"{path}: the model {reason}.")

    def close(self) -> None:
        """Free the weights and every adapter loaded for them. Contexts must be closed before."""
        if self.handle is not None:
            native.llama_model_free(self.handle)
            self.handle = None


def _readable_header(path: Path) -> Header:
    try:
        return read_header(path)
    except ConvertError as error:
        raise LoadError(str(error)) from error


def _load(
    path: Path,
    gpu_layers: int,
    split: Split,
    *,
    use_mmap: bool,
    on_progress: Callable[[float], bool] | None,
) -> Any:
    params = native.llama_model_default_params()
    kept = split.apply(params)
    params.n_gpu_layers = gpu_layers
    params.load_mode = native.LLAMA_LOAD_MODE_AUTO if use_mmap else native.LLAMA_LOAD_MODE_NONE

    def progress(fraction: float, _user: Any) -> bool:
        return on_progress is None or on_progress(fraction)

    params.progress_callback = native.llama_progress_callback(progress)
    with library.native_errors() as lines:
        handle = native.llama_model_load_from_file(str(path).encode(), params)
    del kept  # llama.cpp held only its address
    if not handle:
        raise LoadError(f"{path}: llama.cpp cannot load this model: {library.explain(lines)}.")
    return handle
