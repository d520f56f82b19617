"""Sets a pass up: which ranks of the banks it sees, and which row is multiplied by what.

A pass in which every row is under the same adapters at weight 1 needs no interception: the window does it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from llamaleon_server.binding import hook
from llamaleon_server.binding.bank import NULL_RANKS, Bank
from llamaleon_server.binding.device import multipliers
from llamaleon_server.binding.layout import find_layout
from llamaleon_server.binding.weights import GGML_TYPES

# llama.cpp reuses a graph while its parameters are the same, and does not know that a window changed the
# shapes. This parameter, meant for models that predict several tokens, is compared, costs nothing when it
# changes and is otherwise ignored by a plain decode. Without it, graphs are not reused at all.
SET_EPOCH = ("llama_set_nextn_layer_offset", "_Z28llama_set_nextn_layer_offsetP13llama_contexti")
NO_REUSE = "LLAMA_GRAPH_REUSE_DISABLE"


@dataclass(frozen=True)
class Place:
    """Where an adapter lies: ranks [first, first + ranks) of the bank of its kind."""

    kind: str
    first: int
    ranks: int


Uses = tuple[tuple[Place, float], ...]  # of one row: places and weights
Rows = tuple[tuple[Uses, int, int], ...]  # in batch order: uses, tokens, and how many of them have outputs


class Mixer:
    """The plan that the callback reads. One mixer serves all contexts of a model, one pass at a time."""

    def __init__(self, devices: Sequence[int] = (), *, checks_host: bool = True) -> None:
        """`devices`: the `ggml_backend_dev_t` of each accelerator that may compute. Raises: UnknownLayout."""
        layout = find_layout()
        self._plan: NDArray[np.int64] = np.zeros(hook.WORDS, np.int64)
        for word, value in (
            (hook.AT_OPERATION, layout.operation),
            (hook.AT_SOURCE, layout.first_source),
            (hook.AT_NAME, layout.name),
            (hook.AT_EXTENTS, layout.extents),
            (hook.AT_STRIDES, layout.strides),
            (hook.AT_DATA, layout.data),
            (hook.AT_BUFFER, layout.buffer),
            (hook.MUL_MAT, layout.mul_mat),
            (hook.GET_ROWS, layout.get_rows),
        ):
            self._plan[word] = value
        self.banks: dict[str, Bank] = {}
        self._weights: list[NDArray[np.float32]] = []  # kept alive: the plan holds their addresses
        self._arranged: tuple[object, ...] = ()
        self._multipliers = multipliers(self._plan, devices, checks_host=checks_host)
        self._set_epoch = _epoch_setter()
        if self._set_epoch is None:
            os.environ.setdefault(NO_REUSE, "1")

    @property
    def callback(self) -> tuple[Any, int]:
        """Addresses of the callback and of its data, for a context's parameters."""
        return hook.callback.address, self._plan.ctypes.data

    @property
    def handles(self) -> tuple[tuple[int, float], ...]:
        """What a context must have active for a pass arranged here."""
        return tuple((bank.handle, 1.0) for bank in self.banks.values())

    @property
    def intercepts(self) -> bool:
        return bool(self._plan[hook.ENABLED])

    def forget(self) -> None:
        """The banks have changed: nothing that was arranged holds any more."""
        self._arranged = ()

    def arrange(self, context: Any, rows: Rows, *, whole: bool = False, uniform: bool = False) -> None:
        """Set up the next decode of `context` (a native handle).

        `whole`: let it see all ranks, so that llama.cpp reserves for the largest pass. `uniform`: all rows
        are under the same adapters, and the order in which the model takes them is not known.
        """
        key = (context, rows, whole, uniform)
        if key == self._arranged:
            return
        self._arranged = key
        self._weights.clear()
        plan = self._plan
        plan[hook.TOKENS] = sum(tokens for _, tokens, _ in rows)
        plan[hook.OUTPUTS] = sum(outputs for _, _, outputs in rows)
        plan[hook.UNIFORM] = uniform
        active = [self._arrange_bank(bank, rows, whole, uniform) for bank in self.banks.values()]
        plan[hook.ENABLED] = any(active)
        if self._set_epoch is not None:
            self._set_epoch(context, _epoch([bank.window[1] for bank in self.banks.values()]))

    def rest(self) -> None:
        """No bank is active in the next pass: intercept nothing."""
        self._plan[hook.ENABLED] = 0
        self._arranged = ()

    def check(self) -> bool:
        """Whether the last pass was multiplied as arranged; afterwards the mark is cleared."""
        failed = bool(self._plan[hook.FAILED])
        self._plan[hook.FAILED] = 0
        return not failed

    def _arrange_bank(self, bank: Bank, rows: Rows, whole: bool, uniform: bool) -> bool:
        """Window and weights of one bank. True if its products must be multiplied."""
        sets = {
            uses: tuple((place, weight) for place, weight in uses if place.kind == bank.kind)
            for uses, _, _ in rows
        }
        places = {place for mine in sets.values() for place, _ in mine}
        first = min((place.first for place in places), default=0)
        end = max((place.first + place.ranks for place in places), default=NULL_RANKS)
        if whole:
            first, end = 0, bank.ranks
        bank.look_at(first, end - first)
        at = hook.BANKS + hook.BANK_WORDS * GGML_TYPES[bank.kind]
        plain = not whole and (
            not places or (len(places) == 1 and all([w for _, w in mine] == [1.0] for mine in sets.values()))
        )
        self._plan[at + hook.ACTIVE] = not plain
        self._plan[at + hook.RANKS] = end - first
        if plain:
            return False
        table = np.zeros((len(sets), end - first), np.float32)
        for vector, mine in zip(table, sets.values(), strict=True):
            for place, weight in mine:
                vector[place.first - first : place.first + place.ranks - first] += weight
        numbers = {uses: number for number, uses in enumerate(sets)}
        which = [numbers[uses] for uses, _, _ in rows]
        if uniform:
            which = which[:1]
        for column, word in enumerate((hook.TOKEN_WEIGHTS, hook.OUTPUT_WEIGHTS)):
            counts = [1] if uniform else [row[1:][column] for row in rows]
            weights = np.repeat(table[which], counts, axis=0)
            self._weights.append(weights)
            self._plan[at + word] = weights.ctypes.data
            if len(weights):
                for multiplier in self._multipliers:
                    multiplier.arrange(GGML_TYPES[bank.kind], column, weights)
        return True


def _epoch_setter() -> Any:
    for name in SET_EPOCH:
        try:
            function = getattr(native._lib, name)
        except AttributeError:
            continue
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int32], None
        return function
    return None


def _epoch(windows: Sequence[int]) -> int:
    """One number for the shapes of all windows."""
    number = 0
    for ranks in windows:
        number = number << 15 | ranks
    return number
