"""Comparing token sequences: cheap enough to look at every donor for every request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Donor = TypeVar("Donor")


def common_length(one: Tokens, other: Tokens) -> int:
    """How many tokens the two begin with in common."""
    length = min(len(one), len(other))
    if length == 0:
        return 0
    differs = one[:length] != other[:length]
    first = int(differs.argmax())
    return first if differs[first] else length


def longest(
    wanted: Tokens, donors: Iterable[tuple[Tokens, Donor]], *, whole: bool = False
) -> tuple[Donor | None, int]:
    """The donor that begins most like `wanted`, and for how long; the earliest of equals.

    With `whole`, only donors of which `wanted` has every token. Most donors cost the comparison of one token:
    the one in which they would have to be better than the best so far.
    """
    best: Donor | None = None
    length = 0
    for tokens, donor in donors:
        if min(len(tokens), len(wanted)) <= length or tokens[length] != wanted[length]:
            continue
        common = common_length(tokens, wanted)
        if common > length and (not whole or common == len(tokens)):
            best, length = donor, common
    return best, length
