"""A projector (mtmd): what turns an encoded image into vectors that a language model reads like tokens.

Only the thread that made a projector may use it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from llamaleon_server.binding import library
from llamaleon_server.binding.errors import BindingError, LoadError
from llamaleon_server.binding.model import Model

TEXT = 0  # enum mtmd_input_chunk_type
NOWHERE = b"/dev/null"  # no folder


class ImageError(BindingError):
    """One image cannot be read. `index` is its place among the images given."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, or one of the tiles that a model cuts it into, as the model reads it.

    `vectors` (count, width) stand where tokens would. They take `positions` positions: one each, or fewer
    where `places` (4, count), from the first one on, says where each lies. `whole`: each vector is read with
    all of them in view, and so all in one pass.
    """

    vectors: NDArray[np.float32]
    positions: int
    places: NDArray[np.int32] | None
    whole: bool


class Chunk:
    """A part of a prompt: `tokens`, or (None) what will be a picture of `count` vectors."""

    def __init__(self, mtmd: Any, handle: Any) -> None:
        self.handle = handle
        self.tokens: list[int] | None = None
        self.count = int(mtmd.mtmd_input_chunk_get_n_tokens(handle))
        self.image: str = (mtmd.mtmd_input_chunk_get_id(handle) or b"").decode()  # hash of its bytes
        if mtmd.mtmd_input_chunk_get_type(handle) == TEXT:
            length = ctypes.c_size_t()
            pointer = mtmd.mtmd_input_chunk_get_tokens_text(handle, ctypes.byref(length))
            self.tokens = [int(pointer[at]) for at in range(length.value)]


class Projector:
    """One mmproj file in memory, for one model, which must outlive it."""

    def __init__(self, path: Path, model: Model, threads: int) -> None:
        """Raises: LoadError with the reason."""
        self._mtmd = mtmd = _library()
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = model.gpu_layers != 0
        params.print_timings = False
        params.n_threads = threads
        with library.native_errors() as lines:
            self._handle: Any = mtmd.mtmd_init_from_file(str(path).encode(), model.handle, params)
        if not self._handle:
            raise LoadError(f"{path}: mtmd cannot load this projector: {library.explain(lines)}.")
        if not mtmd.mtmd_support_vision(self._handle):
            self.close()
            raise LoadError(f"{path}: this projector does not read images.")
        self._width: int = native.llama_model_n_embd_inp(model.handle)
        self._sections: bool = bool(mtmd.mtmd_decode_use_mrope(self._handle))

    def close(self) -> None:
        if self._handle:
            self._mtmd.mtmd_free(self._handle)
            self._handle = None

    @contextmanager
    def chunks(
        self, prompt: str, images: Iterable[bytes], *, add_special: bool, parse_special: bool
    ) -> Iterator[list[Chunk]]:
        """A prompt in parts, an image for each marker in it; they live inside the block.

        There must be as many markers as images. Raises: ImageError, and what `images` raises.
        """
        mtmd, bitmaps = self._mtmd, list[Any]()
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            for index, image in enumerate(images):
                bitmaps.append(self._bitmap(index, image))
            raw = prompt.encode()
            text = mtmd.mtmd_input_text(raw, len(raw), add_special, parse_special)
            given = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
            with library.native_errors() as lines:
                status = mtmd.mtmd_tokenize(self._handle, chunks, ctypes.byref(text), given, len(bitmaps))
            if status:
                raise ImageError(0, f"the image cannot be prepared: {library.explain(lines)}")
            count = mtmd.mtmd_input_chunks_size(chunks)
            yield [Chunk(mtmd, mtmd.mtmd_input_chunks_get(chunks, at)) for at in range(count)]
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_free(bitmap)

    def picture(self, chunk: Chunk) -> Picture:
        """Run the projector. Raises: ImageError."""
        mtmd = self._mtmd
        with library.native_errors() as lines:
            status = mtmd.mtmd_encode_chunk(self._handle, chunk.handle)
        if status:
            raise ImageError(0, f"the projector failed: {library.explain(lines)}")
        pointer = mtmd.mtmd_get_output_embd(self._handle)
        vectors = np.ctypeslib.as_array(pointer, shape=(chunk.count, self._width)).copy()
        return Picture(
            vectors=vectors,
            positions=int(mtmd.mtmd_input_chunk_get_n_pos(chunk.handle)),
            places=self._places(chunk) if self._sections else None,
            whole=bool(mtmd.mtmd_decode_use_non_causal(self._handle, chunk.handle)),
        )

    def _places(self, chunk: Chunk) -> NDArray[np.int32]:
        tokens = self._mtmd.mtmd_input_chunk_get_tokens_image(chunk.handle)
        found = (self._mtmd.mtmd_decoder_pos * chunk.count)()
        self._mtmd.mtmd_helper_image_get_decoder_pos(tokens, 0, found)
        return np.array([[one.t, one.y, one.x, one.z] for one in found], np.int32).T.copy()

    def _bitmap(self, index: int, image: bytes) -> Any:
        buffer = (ctypes.c_uint8 * len(image)).from_buffer_copy(image)
        options = self._mtmd.mtmd_helper_init_opt_default()
        # What is no image after all, mtmd would hand to ffmpeg, in a process of its own.
        options.video_params.ffmpeg_bin_dir = NOWHERE
        with library.silence():
            made = self._mtmd.mtmd_helper_bitmap_init_from_buf(
                self._handle, buffer, len(image), False, options
            )
        if not made:
            raise ImageError(index, "it is damaged")
        return made


def _library() -> Any:
    try:
        import llama_cpp.mtmd_cpp as mtmd  # loads libmtmd, which only models with a projector need
    except (ImportError, RuntimeError, FileNotFoundError) as error:
        raise LoadError(
            f"This llama-cpp-python was built without mtmd, so it reads no images: {error}"
        ) from error
    mtmd.mtmd_log_set(library.log_callback, ctypes.c_void_p(0))
    mtmd.mtmd_helper_log_set(library.log_callback, ctypes.c_void_p(0))
    return mtmd
