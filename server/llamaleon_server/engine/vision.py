"""Reads the images of requests, in a thread of its own: the projector takes long, and streams must go on."""

from __future__ import annotations

import queue
import threading
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llamaleon_server.binding.cores import roam
from llamaleon_server.binding.errors import BindingError
from llamaleon_server.binding.vision import Chunk, ImageError, Picture, Projector
from llamaleon_server.engine.images import Image, first_problem, placeholders
from llamaleon_server.engine.protocol import Failed, FailedCode, Generate
from llamaleon_server.engine.webp import WebPError, as_bmp, is_webp

KEPT_BYTES = 256 << 20  # of vectors of images seen before: chats send theirs again with every turn


@dataclass(frozen=True)
class Prompt:
    """Token ids, with placeholders where the images stand."""

    tokens: list[int]
    images: tuple[Image, ...] = ()


class Vision(threading.Thread):
    """`done` gets each request with its prompt, or why it failed; from this thread."""

    def __init__(
        self,
        projector: Projector,
        context_tokens: int,
        queue_limit: int,
        done: Callable[[Generate, Prompt | Failed], None],
    ) -> None:
        super().__init__(name="vision", daemon=True)
        self._projector = projector
        self._context_tokens = context_tokens
        self._queue_limit = queue_limit
        self._done = done
        self._requests: queue.SimpleQueue[Generate | None] = queue.SimpleQueue()
        self._wanted: set[int] = set()
        self._lock = threading.Lock()  # a request is either cancelled here or handed on, never both
        self._seen: OrderedDict[tuple[str, int], Picture] = OrderedDict()
        self._seen_bytes = 0

    def add(self, request: Generate) -> None:
        if len(self._wanted) >= self._queue_limit:
            message = f"{len(self._wanted)} requests with images are waiting already. Try again later."
            self._done(request, _failed(request, message, None, "queue_full"))
            return
        self._wanted.add(request.id)
        self._requests.put(request)

    def cancel(self, request: int) -> None:
        """What is not handed on yet never will be."""
        with self._lock:
            self._wanted.discard(request)

    def close(self) -> None:
        """End the thread once it has read the image at hand, and free the projector."""
        with self._lock:
            self._wanted.clear()
        self._requests.put(None)
        self.join()
        self._projector.close()

    def run(self) -> None:
        roam()
        prompt: Prompt | Failed
        while (request := self._requests.get()) is not None:
            if request.id not in self._wanted:
                continue
            try:
                prompt = self._read(request)
            except Exception:  # whatever it is, the request must end and the next be read
                traceback.print_exc()
                prompt = _failed(request, "The images could not be read.", None, "engine_error")
            with self._lock:
                if request.id in self._wanted:
                    self._wanted.remove(request.id)
                    self._done(request, prompt)

    def _read(self, request: Generate) -> Prompt | Failed:
        if found := first_problem(request.media):
            index, problem = found
            return _failed(request, f"The image cannot be read: {problem}.", f"media[{index}]")
        assert isinstance(request.prompt, str), "the reader has checked that"
        try:
            with self._projector.chunks(
                request.prompt,
                _readable(request.media),
                add_special=request.add_special,
                parse_special=request.parse_special,
            ) as chunks:
                return self._prompt(request, chunks)
        except ImageError as error:
            return _failed(request, f"The image cannot be read: {error}.", f"media[{error.index}]")
        except BindingError as error:
            return _failed(request, f"The image cannot be read: {error}.", None, "engine_error")

    def _prompt(self, request: Generate, chunks: list[Chunk]) -> Prompt | Failed:
        count = sum(chunk.count for chunk in chunks)
        if count >= self._context_tokens:
            message = (
                f"This model's context holds {self._context_tokens} tokens; the prompt has {count} with its "
                "images. Shorten the prompt or send smaller images."
            )
            return _failed(request, message, "prompt", "context_length_exceeded")
        if chunks and chunks[-1].tokens is None:
            return _failed(request, "`prompt` must not end with an image.", "prompt")
        tokens: list[int] = []
        images: list[Image] = []
        parts = Counter[str]()  # of each image, so far: some models cut it into tiles
        for chunk in chunks:
            if chunk.tokens is not None:
                tokens += chunk.tokens
                continue
            picture = self._picture(chunk, parts[chunk.image])
            parts[chunk.image] += 1
            images.append(Image(len(tokens), picture))
            tokens += placeholders(picture)
        return Prompt(tokens, tuple(images))

    def _picture(self, chunk: Chunk, part: int) -> Picture:
        key = chunk.image, part
        picture = self._seen.get(key)
        if picture is None:
            picture = self._seen[key] = self._projector.picture(chunk)
            self._seen_bytes += picture.vectors.nbytes
            while self._seen_bytes > KEPT_BYTES and len(self._seen) > 1:
                _, oldest = self._seen.popitem(last=False)
                self._seen_bytes -= oldest.vectors.nbytes
        self._seen.move_to_end(key)
        return picture


def _readable(media: Sequence[bytes]) -> Iterator[bytes]:
    """As mtmd reads them; one at a time, because decoded ones are large. Raises: ImageError."""
    for index, image in enumerate(media):
        try:
            readable = as_bmp(image) if is_webp(image) else image
        except WebPError as error:
            raise ImageError(index, str(error)) from error
        yield readable


def _failed(request: Generate, message: str, param: str | None, code: FailedCode = "bad_request") -> Failed:
    return Failed(id=request.id, code=code, message=message, param=param)
