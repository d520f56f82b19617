"""Images of a prompt: what may be decoded at all, and how they stand among a sequence's tokens.

In a sequence an image is numbers below zero, one for each of its vectors, made of a hash of all of them: what
compares tokens, such as the prefix cache, so compares the images' contents.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llamaleon_server.binding.vision import Picture
from llamaleon_server.engine.webp import is_webp

MAX_SIDE, MAX_PIXELS = 16_384, 50_000_000  # decoded it has 3 bytes a pixel, whatever the file's size
MAX_PIXELS_TOGETHER = 200_000_000  # of all images of a request: they are in memory at once
JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # markers of a frame's header
MOST_SEGMENTS = 10_000  # that are looked at before a JPEG's frame
FORMATS = "PNG, JPEG, WebP, GIF or BMP"


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


def first_problem(images: Sequence[bytes]) -> tuple[int, str] | None:
    """Which of a request's images must not be decoded, and why; the sum of them counts, too."""
    pixels = 0
    for index, image in enumerate(images):
        if problem := problem_of(image):
            return index, problem
        width, height = _size(image) or (0, 0)
        pixels += width * height
        if pixels > MAX_PIXELS_TOGETHER:
            return index, f"the images up to it have {pixels} pixels; at most {MAX_PIXELS_TOGETHER} in all"
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
        if is_webp(image):
            return _size_of_webp(image)
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


def _size_of_webp(image: bytes) -> tuple[int, int] | None:
    """Of the canvas, which no frame exceeds. Source: RFC 9649, sections 2.5 to 2.7 and 3.4; RFC 6386, 9.1."""
    kind = image[12:16]
    if kind == b"VP8X":
        width, height = struct.unpack_from("<3s3s", image, 24)
        return 1 + int.from_bytes(width, "little"), 1 + int.from_bytes(height, "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", image, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", image, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
