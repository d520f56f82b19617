"""Near-duplicates among texts: rows that are the same but for a few words. No torch here.

Two texts are near-duplicates if at least `THRESHOLD` of what they have together they have in common (Jaccard
similarity of their runs of eight bytes, which in most alphabets is as many letters or half of them). Case and
white space make no difference. What many rows say (`FRAME_SHARE` of them) is the frame of a prompt and does
not count.

Sketches of the 128 smallest hashes stand for long texts (bottom-k: Broder, "On the resemblance and
containment of documents", 1997), and only rows that share some of their rarest hashes are compared: 50,000
rows take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.7
FRAME_SHARE = 0.05
FRAME_ROWS = 10  # at the least
FRAME_SAMPLE = 1000  # texts that are asked for what they have in common, and how much of each
FRAME_CHARACTERS = 20_000
SHINGLE_BYTES = 8
SKETCH = 128  # hashes of a row
FEWEST_HASHES = 16  # of its own, for a row to be compared at all
RAREST = 6  # hashes by which a row finds others
NEIGHBOURS = 4  # rows with the same hash that it is compared with
_MIX = np.uint64(0x9E3779B97F4A7C15)

ALL = np.uint64(0xFFFFFFFFFFFFFFFF)

Hashes = NDArray[np.uint64]
Integers = NDArray[Any]


class Sketch(NamedTuple):
    """The smallest hashes of a text's runs of eight bytes, sorted: all that are at most `reach`."""

    hashes: Hashes
    reach: np.uint64


class Pair(NamedTuple):
    """Places of two texts, the first the smaller, and how much they have in common (0.7 to 1)."""

    first: int
    second: int
    similarity: float


def near_duplicates(texts: Sequence[str], threshold: float = THRESHOLD) -> list[Pair]:
    """Pairs by place, each text with its next likes: of a large group not every pair. Equal texts are none.

    Which pairs are found does not depend on the order of the texts.
    """
    places: dict[str, int] = {}
    for place, text in enumerate(texts):
        places.setdefault(text, place)
    distinct = sorted(places)
    if len(distinct) < 2:
        return []
    frame = _frame(distinct)
    sketches = [_sketch(_hashes(text), frame) for text in distinct]
    found = []
    for one, other in _candidates(sketches):
        similarity = _similarity(sketches[one], sketches[other])
        if similarity >= threshold:
            first, second = sorted((places[distinct[one]], places[distinct[other]]))
            found.append(Pair(first, second, similarity))
    return sorted(found)


def _hashes(text: str) -> Hashes:
    """Of all runs of eight bytes, in any order and with repetitions."""
    data = np.frombuffer(" ".join(text.lower().split()).encode(errors="replace"), np.uint8)
    if len(data) < SHINGLE_BYTES:
        return np.empty(0, np.uint64)
    runs = np.lib.stride_tricks.sliding_window_view(data, SHINGLE_BYTES)
    hashes = np.ascontiguousarray(runs).view(np.uint64)[:, 0]
    for shift in (29, 32):  # as in splitmix64: the smallest must be a random choice
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * _MIX
    return hashes ^ (hashes >> np.uint64(32))


def _frame(texts: Sequence[str]) -> Hashes:
    """What too many texts have, going by some of them; sorted."""
    some = texts[:: max(1, len(texts) // FRAME_SAMPLE)]
    each = [np.unique(_hashes(text[:FRAME_CHARACTERS])) for text in some]
    values, counts = np.unique(np.concatenate(each), return_counts=True)
    return values[counts > max(FRAME_ROWS, FRAME_SHARE * len(some))]


def _sketch(hashes: Hashes, frame: Hashes) -> Sketch:
    if len(frame):
        places = np.searchsorted(frame, hashes)
        hashes = hashes[frame[np.minimum(places, len(frame) - 1)] != hashes]
    reach = ALL
    if len(hashes) > 2 * SKETCH:  # not to sort a book
        hashes = np.partition(hashes, 2 * SKETCH)[: 2 * SKETCH]
        reach = hashes.max()
    hashes = np.sort(hashes)
    hashes = hashes[np.flatnonzero(np.diff(hashes, prepend=hashes[:1] ^ np.uint64(1)))]
    return Sketch(hashes, reach) if len(hashes) <= SKETCH else Sketch(hashes[:SKETCH], hashes[SKETCH - 1])


def _candidates(sketches: list[Sketch]) -> list[tuple[int, int]]:
    """Pairs that share at least two of the rarest hashes that each has in common with any other row."""
    lengths = np.array([len(sketch.hashes) for sketch in sketches])
    lengths[lengths < FEWEST_HASHES] = 0
    if np.count_nonzero(lengths) < 2:
        return []
    kept = [sketch.hashes for sketch, length in zip(sketches, lengths, strict=True) if length]
    _, inverse, counts = np.unique(np.concatenate(kept), return_inverse=True, return_counts=True)
    rows = np.repeat(np.arange(len(sketches), dtype=np.int32), lengths)
    rarity, names = counts.astype(np.int32)[inverse], inverse.astype(np.int32)
    shared = rarity > 1
    rows, names, rarity = rows[shared], names[shared], rarity[shared]
    order = np.lexsort((names, rarity, rows))
    rows, names = rows[order], names[order]
    rarest = np.arange(len(rows)) - np.searchsorted(rows, rows) < RAREST
    rows, names = rows[rarest], names[rarest]
    by_hash = np.lexsort((rows, names))
    rows, names = rows[by_hash], names[by_hash]
    found = [_pairs(rows, names, apart) for apart in range(1, NEIGHBOURS + 1)]
    pairs, times = np.unique(np.concatenate(found), axis=0, return_counts=True)
    return [(int(one), int(other)) for one, other in pairs[times > 1]]


def _pairs(rows: Integers, names: Integers, apart: int) -> Integers:
    alike = names[:-apart] == names[apart:]
    return np.stack([rows[:-apart][alike], rows[apart:][alike]], axis=1)


def _similarity(one: Sketch, other: Sketch) -> float:
    """Jaccard's, over the hashes up to where both sketches reach."""
    reach = min(one.reach, other.reach)
    some, others = one.hashes[one.hashes <= reach], other.hashes[other.hashes <= reach]
    common = len(np.intersect1d(some, others, assume_unique=True))
    return common / max(1, len(some) + len(others) - common)
