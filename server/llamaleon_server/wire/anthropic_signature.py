"""The `signature` of a thinking block: what Anthropic's clients give back with it, unread.

Ours is no seal, and none is checked: whoever asks this server may put words into the model's mouth anyway.
Where the thinking is not shown (`display: "omitted"`) the signature carries it, so that a conversation with
tools goes on as if it had been.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib

CARRIES = "llamaleon.thinking."
MARKS = "llamaleon.sha256."
MAX_BYTES = 4 << 20  # of thinking in a signature


def signature_of(thinking: str, *, carries: bool) -> str:
    """
    >>> thinking_of("", signature_of("Hm.", carries=True))
    'Hm.'
    """
    if carries:
        return CARRIES + base64.urlsafe_b64encode(zlib.compress(thinking.encode())).decode()
    return MARKS + hashlib.sha256(thinking.encode()).hexdigest()


def thinking_of(shown: str, signature: str | None) -> str:
    """What was thought: what was shown, else what a signature of ours carries."""
    if shown or signature is None or not signature.startswith(CARRIES):
        return shown
    try:
        packed = base64.urlsafe_b64decode(signature.removeprefix(CARRIES))
        return zlib.decompressobj().decompress(packed, MAX_BYTES).decode()
    except (binascii.Error, zlib.error, UnicodeError, ValueError):
        return shown  # no longer what we wrote: as good as another server's
