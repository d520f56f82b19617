"""The held-out split. No torch here."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class HasContent(Protocol):
    def content(self) -> bytes: ...


R = TypeVar("R", bound=HasContent)


def split(
    rows: Sequence[R], fraction: float, seed: int = 0, alike: Iterable[tuple[int, int]] = ()
) -> tuple[list[R], list[R]]:
    """Cut rows into (train, held_out), each in file order; about `fraction` of them are held out.

    Identical rows go together, and so do those whose places `alike` pairs (near-duplicates), unless that
    leaves nothing to hold out: nothing held out was trained on. Which rows are held out follows from their
    content and the seed, not from their order. At least one row is held out when fraction > 0, and at least
    one distinct row is trained on.

    Raises:
        ValueError: fraction outside [0, 1), or no two distinct rows to hold one out of.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out fraction must be at least 0 and below 1, not {fraction}")
    if fraction == 0:
        return list(rows), []
    digests = [hashlib.sha256(f"{seed}\n".encode() + row.content()).digest() for row in rows]
    groups = _grouped(digests, alike)
    if len(groups) < 2:
        groups = _grouped(digests, ())
    if len(groups) < 2:
        raise ValueError("holding rows out needs at least two different rows")
    wanted = max(1, round(fraction * len(rows)))
    held: set[int] = set()
    by_digest = [groups[digest] for digest in sorted(groups)]
    for group in by_digest[:-1]:  # the last group always trains
        if len(held) + len(group) <= wanted:
            held.update(group)
    if not held:  # every group is larger than the wanted number
        smallest = min(by_digest, key=len)
        held.update(smallest)
    train = [row for index, row in enumerate(rows) if index not in held]
    return train, [rows[index] for index in sorted(held)]


def _grouped(digests: Sequence[bytes], alike: Iterable[tuple[int, int]]) -> dict[bytes, list[int]]:
    """Places by the smallest digest of all that belong together."""
    parent = {digest: digest for digest in digests}

    def root(digest: bytes) -> bytes:
        while parent[digest] != digest:
            parent[digest] = parent[parent[digest]]
            digest = parent[digest]
        return digest

    for one, other in alike:
        first, second = sorted((root(digests[one]), root(digests[other])))
        parent[second] = first
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        groups[root(digest)].append(place)
    return groups
