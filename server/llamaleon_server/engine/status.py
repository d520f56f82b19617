"""What an engine says of itself: see `protocol.Status`."""

from __future__ import annotations

from msgspec import Struct


class HotAdapter(Struct, frozen=True, kw_only=True):
    """An adapter in the bank: ranks [first_rank, first_rank + rank) of every tensor."""

    key: str
    first_rank: int
    rank: int
    pinned: bool
    users: int  # sequences that run under it


class BankStatus(Struct, frozen=True, kw_only=True):
    """What of the adapters lies where. `mixing` False: one adapter set per pass, for the `reason` given."""

    mixing: bool
    reason: str | None = None
    total_ranks: int = 0
    used_ranks: int = 0
    bytes: int = 0  # of the bank
    hot: list[HotAdapter] = []
    alone: dict[str, str] = {}  # key -> why this adapter cannot share a pass
    warm_adapters: int = 0  # in RAM, hot ones included
    warm_bytes: int = 0
    cold_adapters: int = 0  # known by path only
    copies: int = 0  # adapters written into the bank so far
    evictions: int = 0
    rebuilds: int = 0  # each a re-reserve of the graph
    last_copy_s: float = 0.0


class PrefixStatus(Struct, frozen=True, kw_only=True):
    """The prefix cache since the start. The hit rate is `hit_tokens / prompt_tokens`."""

    prefixes: int = 0
    tokens: int = 0
    limit_tokens: int = 0
    hits: int = 0  # requests that found something
    misses: int = 0
    hit_tokens: int = 0
    prompt_tokens: int = 0
    evictions: int = 0
    stored: int = 0  # idle prefixes moved to RAM, and what they take there
    stored_bytes: int = 0
    restored: int = 0  # moved back, so far


class StepStatus(Struct, frozen=True, kw_only=True):
    """Passes since the start; means are over the last few hundred."""

    steps: int = 0
    mixed_steps: int = 0  # with two or more adapter sets
    intercepted_steps: int = 0  # whose LoRA products were weighted row by row
    mean_s: float = 0.0
    p99_s: float = 0.0
    host_mean_s: float = 0.0  # our Python's share: all but llama.cpp and the samplers
    sequences_mean: float = 0.0
    tokens_mean: float = 0.0
    adapters_mean: float = 0.0
    tokens_in: int = 0  # prompt tokens computed
    tokens_out: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class EngineStatus(Struct, frozen=True, kw_only=True):
    running: int
    waiting: int
    kv_used_tokens: int
    kv_total_tokens: int
    adapters: list[str]
    resident_bytes: int
    step: StepStatus = StepStatus()
    bank: BankStatus = BankStatus(mixing=False)
    prefix: PrefixStatus = PrefixStatus()
