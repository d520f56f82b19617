"""What is known of an image before it is decoded, and the numbers that stand for it among tokens."""

from __future__ import annotations

import io
import itertools
import struct
import sys
import time

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from tests.tiny import eyes

from llamaleon_server.binding.vision import Picture
from llamaleon_server.engine import images
from llamaleon_server.engine.images import Image, first_problem, placeholders, problem_of
from llamaleon_server.engine.protocol import Generate
from llamaleon_server.engine.scheduling.composition import Composer, Limits
from llamaleon_server.engine.scheduling.cost import StepCost
from llamaleon_server.engine.sequence import Sequence
from llamaleon_server.engine.webp import WebPError, as_bmp


def jpeg(width: int, height: int, before: bytes = b"") -> bytes:
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC2, 8, 8, height, width, 3)
    return b"\xff\xd8" + before + struct.pack(">BBH", 0xFF, 0xE0, 16) + bytes(14) + frame


def webp_canvas(width: int, height: int) -> bytes:
    """The beginning of a WebP file of the extended kind."""
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<II", 10, 0) + sides


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (eyes.picture(0, 30, 20), None),
        (b"GIF89a" + struct.pack("<HH", 30, 20), None),
        (b"BM" + bytes(16) + struct.pack("<ii", 30, -20), None),
        (jpeg(30, 20), None),
        (jpeg(30, 20, before=b"\xff" * 5), None),
        (b"GIF89a" + struct.pack("<HH", 0, 20), "0 x 20"),
        (jpeg(20_000, 20), "20000 x 20"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + struct.pack(">II", 16_000, 16_000), "16000 x 16000"),
        (b"\x89PNG\r\n\x1a\n", "no PNG"),
        (b"\xff\xd8", "no PNG"),
        (eyes.webp(eyes.picture(0, 30, 20)), None),
        (eyes.webp(eyes.picture(0, 30, 20), lossless=False), None),
        (webp_canvas(16_384, 20), None),
        (webp_canvas(16_385, 20), "16385 x 20"),
        (webp_canvas(16_000, 16_001), "16000 x 16001"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "no PNG"),
        (b"RIFF\0\0\0\0WEBPVP8X", "no PNG"),
        (b"RIFF\0\0\0\0WEBPJUNK" + bytes(40), "no PNG"),
        (b"", "no PNG"),
    ],
)
def test_size_comes_from_the_header(image: bytes, problem: str | None) -> None:
    found = problem_of(image)
    assert found is None if problem is None else problem in (found or "")


@pytest.mark.parametrize("options", [{}, {"lossless": False}, {"save_all": True}, {"xmp": b"<x/>"}])
@pytest.mark.parametrize("sides", [(1, 1), (1, 300), (257, 31), (16_383, 2)])
def test_size_of_webp_is_the_one_it_is_decoded_to(sides: tuple[int, int], options: dict[str, object]) -> None:
    image = eyes.webp(eyes.picture(0, *sides), **options)
    height, width, _ = pixels_of(as_bmp(image)).shape
    assert images._size(image) == (width, height) == sides


def test_images_of_a_request_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS_TOGETHER", 1500)
    small, wrong = eyes.picture(0, 30, 20), b"no image"
    assert first_problem([small, small]) is None
    index, problem = first_problem([small, small, small, wrong]) or (None, "")
    assert index == 2
    assert "1800 pixels" in problem
    index, problem = first_problem([small, wrong, small]) or (None, "")
    assert (index, "no PNG" in problem) == (1, True)


def pixels_of(image: bytes) -> NDArray[np.uint8]:
    with PIL.Image.open(io.BytesIO(image)) as opened:
        return np.asarray(opened.convert("RGB"))


def test_webp_becomes_the_same_pixels() -> None:
    image = eyes.picture(7, 31, 17)
    assert np.array_equal(pixels_of(as_bmp(eyes.webp(image))), pixels_of(image))


def test_of_a_moving_webp_the_first_frame_is_read() -> None:
    first, second = (PIL.Image.open(io.BytesIO(eyes.picture(seed))) for seed in (1, 2))
    made = io.BytesIO()
    first.save(made, "WEBP", save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(pixels_of(as_bmp(made.getvalue())), pixels_of(eyes.picture(1)))


def test_what_is_transparent_in_a_webp_has_its_colour() -> None:
    """mtmd's decoder drops the alpha of a PNG, too."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 4), np.uint8)
    made = io.BytesIO()
    PIL.Image.fromarray(pixels).save(made, "WEBP", lossless=True, exact=True)
    assert np.array_equal(pixels_of(as_bmp(made.getvalue())), pixels[..., :3])


@pytest.mark.parametrize("lossless", [True, False])
def test_damaged_webp_is_refused_or_read_and_nothing_else(lossless: bool) -> None:
    rng = np.random.default_rng(0)
    whole = eyes.webp(eyes.picture(1), lossless=lossless)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(0, 256)
        damaged = damaged[: rng.integers(12, len(whole) + 1)]
        if problem_of(bytes(damaged)) is not None:
            continue
        try:
            as_bmp(bytes(damaged))
        except WebPError:
            refused += 1
    assert refused > 50


def test_without_pillow_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    image = eyes.webp(eyes.picture(1))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(WebPError, match=r"pip install 'llamaleon\[vision\]'"):
        as_bmp(image)


def test_endless_header_ends_soon() -> None:
    began = time.monotonic()
    assert problem_of(b"\xff\xd8" + b"\xff" * 50_000_000) is not None
    assert time.monotonic() - began < 1.0


def a_picture(seed: int, count: int = 6, positions: int | None = None, *, whole: bool = False) -> Picture:
    vectors = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    places = None if positions is None else np.zeros((4, count), np.int32)
    return Picture(vectors=vectors, positions=positions or count, places=places, whole=whole)


def test_placeholders_stand_for_the_whole_image() -> None:
    one, same, other = placeholders(a_picture(1)), placeholders(a_picture(1)), placeholders(a_picture(2))
    assert one == same
    assert not set(one) & set(other)
    assert all(-(2**31) <= token < 0 for token in one)
    changed = a_picture(1)
    changed.vectors[-1, -1] += 1e-3
    assert not set(one) & set(placeholders(changed)), "the last vector counts in the first number"


def test_positions_after_images_that_share_them() -> None:
    images = (Image(3, a_picture(1, 6, positions=2)), Image(9, a_picture(2, 4)))
    tokens = [1, 1, 1, *placeholders(images[0].picture), *placeholders(images[1].picture), 2, 2]
    sequence = Sequence(Generate(id=1, prompt=tokens), tokens, 100, images)
    assert [sequence.position(at) for at in (0, 3, 9, 13, 14)] == [0, 3, 5, 9, 10]
    assert [sequence.stretch(at) for at in (0, 2, 3, 8, 9, 13)] == [3, 1, 6, 1, 4, 2]
    assert [sequence.image_at(at) for at in (2, 3, 8, 9, 13)] == [None, images[0], images[0], images[1], None]


def seeing(picture: Picture, before: int = 2, after: int = 3) -> Sequence:
    """A prompt that begins with words, all of them computed, then an image, then words."""
    tokens = [*[1] * before, *placeholders(picture), *[2] * after]
    sequence = Sequence(Generate(id=1, prompt=tokens), tokens, 4096, (Image(before, picture),))
    sequence.computed = before
    return sequence


def stream() -> Sequence:
    sequence = Sequence(Generate(id=2, prompt=[1, 1]), [1, 1], 4096)
    sequence.tokens.append(3)
    sequence.computed = 2
    return sequence


@pytest.mark.parametrize("whole", [False, True])
def test_images_take_every_other_pass_beside_streams(whole: bool) -> None:
    limits = Limits(context_tokens=4096, running=4, waiting=4, batch_tokens=256, output_rows=64)
    composer = Composer(limits, StepCost(), None)
    sees, other = seeing(a_picture(1, 200, whole=whole)), stream()
    passes = []
    while sees.computed < len(sees.tokens):
        spans = composer.compose([other], [sees], 4096)
        passes.append(["image" if span.image else "words" for span in spans])
        mine = [span for span in spans if span.sequence is sees]
        assert len(spans) == 1 or not any(span.image for span in spans)
        sees.computed += sum(span.count for span in mine)
    shown = passes.count(["image"])
    assert shown == 1 if whole else shown > 1
    assert (["image"], ["image"]) not in itertools.pairwise(passes)
    assert passes[-1] == ["words", "words"]


def test_image_alone_is_cut_to_passes_and_none_spans_words() -> None:
    limits = Limits(context_tokens=4096, running=4, waiting=4, batch_tokens=128, output_rows=64)
    composer = Composer(limits, StepCost(), None)
    sees = seeing(a_picture(1, 300))
    counts = []
    while sees.computed < len(sees.tokens):
        [span] = composer.compose([], [sees], 4096)
        assert (span.image is not None) == (sees.tokens[sees.computed] < 0)
        assert span.outputs == int(span.reaches_end)
        counts.append(span.count)
        sees.computed += span.count
    assert counts == [128, 128, 44, 3]
