"""How much goes through the model at once: less when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from .batches import pieces
from .device import is_out_of_memory
from .errors import OutOfMemory
from .events import EventWriter
from .items import Item
from .job import JobSpec

T = TypeVar("T")


class Passes:
    """Cuts steps and evaluations into passes. `limit` is the most rows of one, once that was found out."""

    def __init__(
        self, model: Any, spec: JobSpec, events: EventWriter, largest_row: int, *, packed: bool
    ) -> None:
        self._model = model
        self._spec = spec
        self._events = events
        self._largest_row = largest_row  # tokens, of both answers of a preference
        self._packed = packed
        self.recomputing = False  # activations, in the backward pass
        self.limit: int | None = spec.micro_batch_size
        if spec.gradient_checkpointing:
            self._recompute()

    @property
    def rows(self) -> int:
        """Rows of one pass if all were as long as the longest; of shorter ones there may be more."""
        return min(self.limit or self._spec.batch_size, self._spec.batch_size)

    def cut(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """Passes over the items. A given `micro_batch_size` is the most rows of each."""
        most = self._spec.micro_batch_size or len(items)
        return pieces(items, self.rows * self._largest_row, most=most, packed=self._packed)

    def fitting(self, rows: int, attempt: Callable[[], T]) -> T:
        """What `attempt` returns once it fits into memory; it goes through at most `rows` rows at once.

        Raises:
            OutOfMemory: it never does.
        """
        while True:
            try:
                return attempt()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self._spec.sharding != "none":
                    raise  # ranks that gather each other's weights cannot try again alone
            # Outside the handler: the exception's frames held the tensors of the failed pass.
            self._use_less(rows)

    def _use_less(self, rows: int) -> None:
        """Halve the pass; at one row recompute activations instead of keeping them.

        Raises:
            OutOfMemory: both are done already.
        """
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = min(self.rows, rows)
        if size > 1:
            self.limit = size // 2
            message = f"out of memory with {size} rows a pass: going on with {size // 2}"
        elif not self.recomputing:
            self.limit = 1
            self._recompute()
            message = (
                "out of memory with one row a pass: recomputing activations from now on, which is slower"
            )
        else:
            raise OutOfMemory(
                "not even one row fits into memory: lower `max_sequence_tokens` or `lora.r`, "
                "use precision bfloat16, or a smaller base"
            )
        self._events.write("warning", message=message)

    def _recompute(self) -> None:
        self.recomputing = True
        self._model.activation_checkpointing_enable()
