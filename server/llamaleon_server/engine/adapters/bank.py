"""The adapters of an engine: cold on disk, warm in RAM, hot in the bank; and who of them may share a pass.

Adapters that the bank can take share every pass with each other, with blends and with the bare base. The
others, and all of them where mixing is off, are loaded by llama.cpp itself and served alone, in turns.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as ListOf

import msgspec

from llamaleon_server.binding.adapters import Adapter
from llamaleon_server.binding.context import Context
from llamaleon_server.binding.errors import AdapterError, NoRoomError
from llamaleon_server.binding.mixer import Place, Uses
from llamaleon_server.binding.model import Model
from llamaleon_server.engine.adapters.grouping import TakeTurns
from llamaleon_server.engine.adapters.hot import HotAdapters
from llamaleon_server.engine.adapters.roster import Roster
from llamaleon_server.engine.adapters.warm import Known, Post, WarmAdapters
from llamaleon_server.engine.options import EngineOptions
from llamaleon_server.engine.sequence import AdapterSet, Sequence
from llamaleon_server.engine.status import BankStatus, HotAdapter

COPY_BUDGET_S = 0.008  # of a step in which others run
TURN_STEPS = 64  # an adapter that runs may be asked to leave a bank too small for all after this many
IDLE_BANK_S = 30.0  # the bare base runs without the bank once no adapter was used for this long

SHARED: AdapterSet = ()  # the lane of everything that shares passes, the bare base among it
MOST_TRIES = 16  # to have a set in the bank together: each of its adapters may make that anew, larger
MOST_SETS = 1024  # whose lanes are remembered: there is no end of blends


class AdapterBank:
    """`off`: why adapters cannot be mixed here, None if they can. One thread owns it, but for `status`."""

    def __init__(
        self, model: Model, context: Context, options: EngineOptions, post: Post, off: str | None
    ) -> None:
        self.contexts = [context]  # whose passes see the adapters for longer than one piece of work
        self._off = off
        # Recurrent models cut a pass into pieces by sequence: its rows are then not in our order.
        self._splits = "it keeps a state, and its passes are split by sequence" if model.keeps_state else None
        self._warm = WarmAdapters(model, post, options.adapter_ram_bytes)
        self._mixer = context.mixer if off is None else None
        self._hot: HotAdapters | None = None
        if self._mixer is not None:
            self._hot = HotAdapters(model, self._mixer, options.bank_ranks, self._let_go)
        self.roster = Roster(
            model,
            self._warm,
            off=off,
            limit_ranks=self._hot.limit_ranks if self._hot is not None else 0,
            changed=self._changed,
            leaves=self._leaves,
            unused=self._unused,
        )
        self._failed: dict[str, AdapterError] = {}  # could not be read again
        self._alone: dict[AdapterSet, bool] = {}  # see `_is_alone`; cleared when that may change
        self._users: Counter[str] = Counter()
        self._turns = TakeTurns(self._lane)
        self._clock = 0
        self._deadline = 0.0
        self.copied_s = 0.0  # what copying and making banks took in this step
        self._last_adapter_s = -IDLE_BANK_S
        self.waits_for_disk = False

    @property
    def keys(self) -> list[str]:
        return self.roster.keys

    def take_failed(self) -> dict[str, AdapterError]:
        """Adapters that could not be read again: their sequences cannot go on."""
        failed, self._failed = self._failed, {}
        return failed

    def close(self) -> None:
        self._warm.close()
        if self._hot is not None:
            self._hot.close()

    def _changed(self) -> None:
        self._alone.clear()
        self._trim()

    def _leaves(self, key: str) -> None:
        if self._hot is not None:
            self._hot.leave(key)

    def _unused(self, native: Adapter) -> None:
        for context in self.contexts:
            if context.uses(native.handle):
                context.use_adapters(())

    # ------------------------------------------------------------ each step

    def begin_step(self) -> None:
        self._clock += 1
        self._deadline = time.monotonic() + COPY_BUDGET_S
        self.copied_s = 0.0
        self.waits_for_disk = False

    def choose(self, running: ListOf[Sequence]) -> list[Sequence]:
        """Those that may share the next pass; brings the adapters of the others nearer."""
        self._users = Counter(use.key for sequence in running for use in sequence.adapters)
        now = time.monotonic()
        for key in self._users:
            self.roster.known[key].last_used = now
        ready = [sequence for sequence in running if self._is_ready(sequence.adapters)]
        if len(ready) < len(running):
            began = time.perf_counter()
            self._bring(running, patient=bool(ready))
            ready = [sequence for sequence in running if self._is_ready(sequence.adapters)]
            if not ready:  # a bank made anew has lost those that were there
                self._bring(running, patient=False)
                ready = [sequence for sequence in running if self._is_ready(sequence.adapters)]
            self.copied_s += time.perf_counter() - began
        if self._hot is not None and not all(self._hot.ready(key) for key in self.roster.pinned):
            self._bring_pinned(self._hot)
        return self._turns.choose(ready)

    def _lane(self, adapters: AdapterSet) -> AdapterSet:
        """Sequences of one lane may share a pass."""
        return adapters if self._off or self._splits or self._is_alone(adapters) else SHARED

    def _is_alone(self, adapters: AdapterSet) -> bool:
        """Whether a set is for llama.cpp's own adapters: the bank cannot take all of it at once."""
        if adapters not in self._alone:
            if len(self._alone) > MOST_SETS:
                self._alone.clear()
            self._alone[adapters] = self._hot is None or not self._fits(self._hot, adapters)
        return self._alone[adapters]

    def _fits(self, hot: HotAdapters, adapters: AdapterSet) -> bool:
        mine = [self.roster.known[use.key] for use in adapters]
        if any(known.alone for known in mine):
            return False
        for kind in {known.kind for known in mine}:
            pinned = [
                self.roster.known[key] for key in self.roster.pinned if self.roster.known[key] not in mine
            ]
            needed = [known.file.rank for known in (*mine, *pinned) if known.kind == kind and not known.alone]
            if sum(map(hot.rounded, needed)) > hot.limit_ranks:
                return False
        return True

    def _is_ready(self, adapters: AdapterSet) -> bool:
        if self._hot is None or self._is_alone(adapters):
            return True
        return all(self._hot.ready(use.key) for use in adapters)

    def _bring(self, running: ListOf[Sequence], *, patient: bool) -> None:
        """Copy missing adapters into the bank: as time allows if `patient`, else completely."""
        if self._hot is None:
            return
        deadline = self._deadline if patient else float("inf")
        wanted = [
            use.key
            for sequence in running
            if not self._is_alone(sequence.adapters)
            for use in sequence.adapters
        ]
        for key in dict.fromkeys(wanted):
            if not self._hot.ready(key):
                self._bring_one(self._hot, self.roster.known[key], deadline)

    def _bring_pinned(self, hot: HotAdapters) -> None:
        """Those who lost their place when the bank was made anew, or had none yet; idle ones make room."""
        for key in self.roster.pinned & self.roster.known.keys():
            known = self.roster.known[key]
            if (
                known.alone is None
                and not hot.ready(key)
                and (key in hot.entries or known.weights is not None)
            ):
                self._bring_one(hot, known, self._deadline)

    def _bring_one(self, hot: HotAdapters, known: Known, deadline: float) -> None:
        if known.key not in hot.entries:
            if known.weights is None:
                self.waits_for_disk = True
                self._warm.warm(known, lambda error: self._warmed(known, error))
                return
            if not self._enter(hot, known):
                return
        if hot.copy(known.key, deadline):
            self._trim()

    def _enter(self, hot: HotAdapters, known: Known, together: frozenset[str] = frozenset()) -> bool:
        """Find a place for a warm adapter, but not that of one that it is wanted `together` with."""
        assert known.weights is not None, "only warm adapters enter"
        protected = together | self._users.keys()
        try:
            entered = hot.enter(known, protected, self._clock)
            if not entered:
                spared = self.roster.pinned | together
                victim = hot.longest_in(known.kind, spared, self._clock - TURN_STEPS)
                if victim is not None:
                    entered = hot.enter(known, protected - {victim}, self._clock)
                elif not self._others_run(hot, known):  # only the pinned are in the way, scattered
                    hot.clear(known.kind)
                    entered = hot.enter(known, protected, self._clock)
        except AdapterError as error:
            self._failed[known.key] = error
            return False
        return entered

    def _others_run(self, hot: HotAdapters, known: Known) -> bool:
        """Whether unpinned adapters in the same bank are in use, who will leave when their turn is over."""
        return any(
            entry.known.kind == known.kind and self._users[key] and not entry.known.pinned
            for key, entry in hot.entries.items()
        )

    def _warmed(self, known: Known, error: AdapterError | None) -> None:
        if error is not None:
            self._failed[known.key] = error
        self._trim()

    def _trim(self, now: AdapterSet = ()) -> None:
        """Keep RAM within its limit: the bank's are kept longest, those on their way in always.

        So are llama.cpp's own copies of those that run, that are pinned, or that a pass uses `now`.
        """
        hot = self._hot.entries if self._hot is not None else {}
        known = self.roster.known
        kept = {key for key in self._users if key not in hot}
        wanted = {use.key for use in now} | self._users.keys() | self.roster.pinned
        kept |= {key for key in wanted if key in known and known[key].native is not None}
        for one in self._warm.excess(known.values(), last=hot.keys(), never=kept):
            self.roster.make_cold(one)

    # ------------------------------------------------------------ a pass

    def require(self, adapters: AdapterSet) -> None:
        """Have adapters in the bank now, whatever it takes. Raises: AdapterError."""
        if self._hot is None:
            return
        if self._is_alone(adapters):
            return
        hot, keys = self._hot, [use.key for use in adapters]
        for _ in range(MOST_TRIES):
            missing = [key for key in keys if not hot.ready(key)]
            if not missing:
                return
            for key in missing:  # a bank made anew for one has lost those that were there
                self._require_one(hot, self.roster.known[key], frozenset(keys))
        raise NoRoomError("the bank has no room for all of them while others run")

    def _require_one(self, hot: HotAdapters, known: Known, together: frozenset[str]) -> None:
        self._warm.warm_now(known)
        known.last_used = time.monotonic()
        if known.key not in hot.entries and not self._enter(hot, known, together):
            raise NoRoomError("the bank has no room for it while others run")
        hot.copy(known.key, float("inf"))

    def arrange(self, context: Context, rows: ListOf[tuple[AdapterSet, int, int]]) -> bool:
        """Set up the next pass of a context: (adapters, tokens, outputs) in batch order.

        Returns: whether its products are intercepted. Raises: ValueError if sets meet that cannot.
        """
        sets = dict.fromkeys(adapters for adapters, _, _ in rows)
        lanes = {self._lane(adapters) for adapters in sets}
        if len(lanes) != 1:
            raise ValueError(f"one pass takes one lane of adapters, not {len(lanes)}")
        if self._mixer is None or any(adapters and self._is_alone(adapters) for adapters in sets):
            (adapters,) = sets
            self._use_native(context, adapters)
            if self._mixer is not None:
                self._mixer.rest()
            return False
        now = time.monotonic()
        if any(sets):
            self._last_adapter_s = now
        elif not self._mixer.banks or now - self._last_adapter_s > IDLE_BANK_S:
            context.use_adapters(())
            self._mixer.rest()
            return False
        fresh = context.use_adapters(self._mixer.handles)
        uses = {adapters: self._uses(adapters) for adapters in sets}
        self._mixer.arrange(
            context.handle,
            tuple((uses[adapters], tokens, outputs) for adapters, tokens, outputs in rows),
            whole=fresh,
            uniform=self._splits is not None,
        )
        return self._mixer.intercepts

    def _use_native(self, context: Context, adapters: AdapterSet) -> None:
        native = tuple((self.roster.native(use.key).handle, use.weight) for use in adapters)
        if context.use_adapters(native):  # some may have been read, others may have had their last use
            self._trim(adapters)

    def _uses(self, adapters: AdapterSet) -> Uses:
        return tuple((self._place(use.key), use.weight) for use in adapters)

    def _place(self, key: str) -> Place:
        place = self._hot.ready(key) if self._hot is not None else None
        assert place is not None, "only ready adapters are chosen"
        return place

    def _let_go(self) -> None:
        for context in self.contexts:
            context.use_adapters(())

    # ------------------------------------------------------------ status

    def status(self, users: Mapping[str, int]) -> BankStatus:
        """`users` are the running sequences of each adapter. May be called from another thread."""
        known = list(self.roster.known.values())
        alone = {one.key: one.alone for one in known if one.alone}
        warm = [one.held_bytes for one in known if one.held_bytes]
        status = BankStatus(
            mixing=not (self._off or self._splits),
            reason=self._off or self._splits,
            alone=alone,
            warm_adapters=len(warm),
            warm_bytes=sum(warm),
            cold_adapters=len(known) - len(warm),
        )
        return status if self._hot is None else self._with_hot(status, self._hot, users)

    @staticmethod
    def _with_hot(status: BankStatus, hot: HotAdapters, users: Mapping[str, int]) -> BankStatus:
        return msgspec.structs.replace(
            status,
            total_ranks=hot.total_ranks,
            used_ranks=hot.used_ranks,
            bytes=hot.bytes,
            hot=[
                HotAdapter(
                    key=key,
                    first_rank=entry.place.first,
                    rank=entry.place.ranks,
                    pinned=entry.known.pinned,
                    users=users.get(key, 0),
                )
                for key, entry in list(hot.entries.items())
            ],
            copies=hot.copies,
            evictions=hot.evictions,
            rebuilds=hot.rebuilds,
            last_copy_s=hot.last_copy_s,
        )
