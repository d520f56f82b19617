"""`keep_alive`: how long a model stays in memory after its last use, in Ollama's forms."""

from __future__ import annotations

import math
import re
from typing import Any

from llamaleon_server.errors import BadRequest

UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
LONG_S = 10 * 365 * 86_400  # more is for ever: clocks and calendars have an end
LONGEST = 64  # characters: patterns like these take the square of a text's length
_DURATION = re.compile(r"(?P<sign>[+-]?)(?P<parts>(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+)")
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")


def parse_keep_alive(value: Any, field: str = "keep_alive") -> float | None:
    """Seconds; None: for ever, which Ollama's clients write as a negative number.

    >>> parse_keep_alive("1h30m"), parse_keep_alive(0), parse_keep_alive("-1")
    (5400.0, 0.0, None)

    Raises: BadRequest naming `field`.
    """
    if isinstance(value, str):
        seconds = _seconds(value.strip())
    elif isinstance(value, bool) or not isinstance(value, int | float):
        seconds = math.nan
    else:
        # An int may be larger than any float.
        seconds = value if isinstance(value, float) else float(max(-1, min(value, 2 * LONG_S)))
    if math.isnan(seconds):
        raise BadRequest(
            f"`{field}`: {value!r} is no time: write seconds, '5m', '1h30m', 0: not at all, -1: for ever.",
            param=field,
        )
    return None if seconds < 0 or seconds > LONG_S else seconds


def _seconds(text: str) -> float:
    if len(text) > LONGEST:
        return math.nan
    if _NUMBER.fullmatch(text):
        return float(text)
    found = _DURATION.fullmatch(text)
    if found is None:
        return math.nan
    total = sum(float(number) * UNITS_S[unit] for number, unit in _PART.findall(found["parts"]))
    return -total if found["sign"] == "-" else total
