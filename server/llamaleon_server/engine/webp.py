"""WebP, which mtmd's decoder does not read: decoded by Pillow, which is imported when the first one comes."""

from __future__ import annotations

import io


class WebPError(ValueError):
    """It cannot be decoded; the message says why."""


def is_webp(image: bytes) -> bool:
    return image.startswith(b"RIFF") and image[8:12] == b"WEBP"


def as_bmp(image: bytes) -> bytes:
    """Its first frame as a file that mtmd reads. Transparency is dropped, as mtmd drops that of a PNG.

    Takes some 20 bytes a pixel for a moment: look at the header first. Raises: WebPError.
    """
    try:
        from PIL import Image, features
    except ImportError as error:
        raise WebPError(f"WebP needs Pillow: pip install 'llamaleon[vision]' ({error})") from error
    if not features.check("webp"):
        raise WebPError("the Pillow that is installed was built without WebP: pip install --upgrade pillow")
    made = io.BytesIO()
    try:
        with Image.open(io.BytesIO(image), formats=["WEBP"]) as opened:
            opened.load()
            rgb = opened if opened.mode == "RGB" else opened.convert("RGB")
            rgb.save(made, "BMP")
    except (OSError, ValueError) as error:  # Pillow's words are about its own files
        raise WebPError("it is damaged") from error
    return made.getvalue()
