"""Shapes of rows that other packages know: each makes one of our rows of its own.

A package names an object, or a class without arguments, in the entry point group `llamaleon.dataset_shapes`:

    [project.entry-points."llamaleon.dataset_shapes"]
    tickets = "my_package:Tickets"
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

GROUP = "llamaleon.dataset_shapes"

log = logging.getLogger(__name__)


@runtime_checkable
class Shape(Protocol):
    """`name` is what a file's shape is called, in messages and in `Dataset.shape`."""

    name: str

    def matches(self, row: dict[str, Any]) -> bool:
        """Whether a row is of this shape. Asked only about rows that none of our shapes fits."""

    def rewrite(self, row: dict[str, Any]) -> dict[str, Any]:
        """The same row as `messages`, `prompt` and `completion`, or `text`.

        Raises: ValueError that says what is wrong with the row.
        """


@cache
def other_shapes() -> tuple[Shape, ...]:
    """Of all packages installed here; one that cannot be loaded is logged and left out."""
    found = []
    for entry in entry_points(group=GROUP):
        try:
            made = entry.load()
            shape = made() if isinstance(made, type) else made
            if not isinstance(shape, Shape):
                raise TypeError(f"{shape!r} has no `name`, `matches` and `rewrite`")
        except Exception:  # another package's code: without it, our own shapes are still read
            log.exception("the dataset shape %s of %s cannot be loaded", entry.name, entry.value)
        else:
            found.append(shape)
    return tuple(found)
