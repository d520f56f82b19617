"""The held-out split. No torch here."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar


class HasContent(Protocol):
    def content(self) -> bytes: ...


R = TypeVar("R", bound=HasContent)


def split(rows: Sequence[R], fraction: float, seed: int = 0) -> tuple[list[R], list[R]]:
    """Cut rows into (train, held_out), each in file order; about `fraction` of them are held out.

    Identical rows go together, so that nothing held out was trained on. Which rows are held out follows from
    their content and the seed, not from their order. At least one row is held out when fraction > 0, and at
    least one distinct row is trained on.

    Raises:
        ValueError: fraction outside [0, 1), or no two distinct rows to hold one out of.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out fraction must be at least 0 and below 1, not {fraction}")
    if fraction == 0:
        return list(rows), []
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[hashlib.sha256(f"{seed}\n".encode() + row.content()).digest()].append(index)
    if len(groups) < 2:
        raise ValueError("holding rows out needs at least two different rows")
    wanted = max(1, round(fraction * len(rows)))
    held: set[int] = set()
    by_digest: list[list[int]] = [groups[digest] for digest in sorted(groups)]
    for group in by_digest[:-1]:  # the last group always trains
        if len(held) + len(group) <= wanted:
            held.update(group)
    if not held:  # every group is larger than the wanted number
        smallest = min(by_digest, key=len)
        held.update(smallest)
    train = [row for index, row in enumerate(rows) if index not in held]
    return train, [rows[index] for index in sorted(held)]
