"""Images of a prompt: what may be decoded at all, and how they stand among a sequence's tokens.

In a sequence an image is numbers below zero, one for each of its vectors, made of a hash of all of them: what
compares tokens, such as the prefix cache, so compares the images' contents.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np

from llamaleon_server.binding.vision import Picture

MAX_SIDE, MAX_PIXELS = 16_384, 50_000_000  # decoding takes 3 bytes a pixel, whatever the file's size
JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # markers of a frame's header
MOST_SEGMENTS = 10_000  # that are looked at before a JPEG's frame
FORMATS = "PNG, JPEG, GIF or BMP"


@dataclass(frozen=True, eq=False)
class Image:
    """`picture`, from token number `start` of a prompt on."""

    start: int
    picture: Picture

    @property
    def end(self) -> int:
        return self.start + len(self.picture.vectors)


def placeholders(picture: Picture) -> list[int]:
    """What stands for its vectors in a sequence: 31 bits of hash each."""
    digest = hashlib.sha256(picture.vectors.tobytes())
    if picture.places is not None:
        digest.update(picture.places.tobytes())
    count = len(picture.vectors)
    words = np.frombuffer(hashlib.shake_128(digest.digest()).digest(4 * count), "<u4")
    return [-1 - int(word) for word in words >> 1]


def problem_of(image: bytes) -> str | None:
    """Why an image must not be decoded: it is none, or would take too much memory."""
    size = _size(image)
    if size is None:
        return f"it is no {FORMATS} image"
    width, height = size
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        return f"it has {width} x {height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all"
    return None


def _size(image: bytes) -> tuple[int, int] | None:
    """Width and height, from the header."""
    try:
        if image.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack_from(">II", image, 16)
        if image.startswith((b"GIF87a", b"GIF89a")):
            return struct.unpack_from("<HH", image, 6)
        if image.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", image, 18)
            return width, abs(height)
        if image.startswith(b"\xff\xd8"):
            return _size_of_jpeg(image)
    except struct.error:  # it ends too early
        return None
    return None


def _size_of_jpeg(image: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(MOST_SEGMENTS):
        mark, kind, length = struct.unpack_from(">BBH", image, at)
        if mark != 0xFF:
            return None
        if kind in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", image, at + 5)
            return width, height
        # Bytes between segments may be 0xFF fill; segments have a length of their own.
        at += 1 if kind == 0xFF else 2 + length
    return None
