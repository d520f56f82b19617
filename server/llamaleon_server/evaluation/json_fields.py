"""Answers that are JSON, field by field: which of the wanted values are there, whatever their order.

A field is where a value stands, list places left out: `blockers_today[].delay_hours`. Elements of two lists
are paired so that most of their values agree, best pairs first; their order does not count.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

DEEPEST = 40  # levels; what is nested deeper counts as no JSON
PAIRED_ELEMENTS = 64  # of longer lists elements are compared place by place

Value = Any


class Counts(Struct):
    """Of one field, over any number of answers: values that agree, that were given, that were wanted."""

    right: int = 0
    given: int = 0
    wanted: int = 0

    @property
    def precision(self) -> float:
        return self.right / self.given if self.given else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.wanted if self.wanted else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.given + self.wanted) if self.given + self.wanted else 1.0

    def add(self, other: Counts) -> None:
        self.right += other.right
        self.given += other.given
        self.wanted += other.wanted


def parse(text: str) -> Value | None:
    """An object or a list; None if the text is neither. NaN and Infinity, which Python reads, are no JSON."""
    try:
        value = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) and _depth_fits(value) else None


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def compare(given: Value | None, wanted: Value) -> dict[str, Counts]:
    """By field. `given` None: an answer that is no JSON, all of whose values are missing."""
    found: dict[str, Counts] = {}
    for place in _leaves(wanted, ""):
        found.setdefault(place, Counts()).wanted += 1
    if given is None:
        return found
    for place in _leaves(given, ""):
        found.setdefault(place, Counts()).given += 1
    for place, count in _agreeing(given, wanted, "").items():
        if count:
            found[place].right += count
    return found


def equal(first: Value, second: Value) -> bool:
    """As JSON: the order of an object's fields does not count, 1 is 1.0, and true is not 1."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    return bool(first == second)


def _leaves(value: Value, place: str) -> Iterator[str]:
    """The fields of all single values; empty objects and lists are values too."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _leaves(one, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list) and value:
        for one in value:
            yield from _leaves(one, f"{place}[]")
    else:
        yield place or "(all)"


def _agreeing(given: Value, wanted: Value, place: str) -> Counter[str]:
    """How many values agree, by field."""
    if isinstance(given, dict) and isinstance(wanted, dict) and given and wanted:
        found: Counter[str] = Counter()
        for key in given.keys() & wanted.keys():
            found += _agreeing(given[key], wanted[key], f"{place}.{key}" if place else str(key))
        return found
    if isinstance(given, list) and isinstance(wanted, list) and given and wanted:
        return _paired(given, wanted, f"{place}[]")
    if isinstance(given, dict | list) and isinstance(wanted, dict | list):
        return Counter({place or "(all)": int(not given and not wanted and type(given) is type(wanted))})
    return Counter({place: int(equal(given, wanted))})


def _paired(given: list[Value], wanted: list[Value], place: str) -> Counter[str]:
    if max(len(given), len(wanted)) > PAIRED_ELEMENTS:
        pairs = [
            (_agreeing(one, other, place), at, at)
            for at, (one, other) in enumerate(zip(given, wanted, strict=False))
        ]
    else:
        pairs = [
            (_agreeing(one, other, place), at, beside)
            for at, one in enumerate(given)
            for beside, other in enumerate(wanted)
        ]
        pairs.sort(key=lambda pair: -pair[0].total())
    found: Counter[str] = Counter()
    taken_given, taken_wanted = set[int](), set[int]()
    for counts, at, beside in pairs:
        if at not in taken_given and beside not in taken_wanted:
            taken_given.add(at)
            taken_wanted.add(beside)
            found += counts
    return found


def _depth_fits(value: Value) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Value] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        if not inner:
            return True
        level = inner
    return False
