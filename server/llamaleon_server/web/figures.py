"""The figures of an engine's status, as Prometheus knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from llamaleon_server.engine.status import EngineStatus
from llamaleon_server.residents.throughput import Vitals


class Figure(NamedTuple):
    """`name` without `llamaleon_`, and of counters without `_total`."""

    name: str
    what: str
    value: Callable[[EngineStatus], float]


GAUGES = (
    Figure("requests_running", "Sequences that take part in passes.", lambda s: s.running),
    Figure("requests_waiting", "Sequences in the engine's queue.", lambda s: s.waiting),
    Figure("resident_memory_bytes", "Memory of the engine process.", lambda s: s.resident_bytes),
    Figure("kv_cache_used_tokens", "Cells of the KV cache in use.", lambda s: s.kv_used_tokens),
    Figure("kv_cache_size_tokens", "Cells of the KV cache.", lambda s: s.kv_total_tokens),
    Figure("pass_mean_seconds", "Time of a pass; mean of the last ones.", lambda s: s.step.mean_s),
    Figure("pass_p99_seconds", "99th percentile of the same passes.", lambda s: s.step.p99_s),
    Figure("pass_host_mean_seconds", "Our Python's share of a pass.", lambda s: s.step.host_mean_s),
    Figure("pass_mean_sequences", "Sequences in a pass.", lambda s: s.step.sequences_mean),
    Figure("pass_mean_tokens", "Tokens in a pass.", lambda s: s.step.tokens_mean),
    Figure("pass_mean_adapters", "Different adapters in a pass.", lambda s: s.step.adapters_mean),
    Figure("bank_mixing", "1 if different adapters share a pass.", lambda s: s.bank.mixing),
    Figure("bank_size_ranks", "Ranks of the adapter bank.", lambda s: s.bank.total_ranks),
    Figure("bank_used_ranks", "Ranks that hold an adapter.", lambda s: s.bank.used_ranks),
    Figure("bank_bytes", "Memory of the bank.", lambda s: s.bank.bytes),
    Figure("adapters_hot", "Adapters in the bank.", lambda s: len(s.bank.hot)),
    Figure("adapters_pinned", "Adapters that stay in the bank.", lambda s: sum(a.pinned for a in s.bank.hot)),
    Figure("adapters_alone", "Adapters that cannot share a pass.", lambda s: len(s.bank.alone)),
    Figure("adapters_warm", "Adapters in RAM, hot ones included.", lambda s: s.bank.warm_adapters),
    Figure("adapters_warm_bytes", "What the adapters in RAM take.", lambda s: s.bank.warm_bytes),
    Figure("adapters_cold", "Adapters known by their file only.", lambda s: s.bank.cold_adapters),
    Figure("prefix_cache_prefixes", "Cached prefixes.", lambda s: s.prefix.prefixes),
    Figure("prefix_cache_tokens", "Tokens of cached prefixes.", lambda s: s.prefix.tokens),
    Figure("prefix_cache_limit_tokens", "Most tokens of cached prefixes.", lambda s: s.prefix.limit_tokens),
    Figure("prefix_cache_stored", "Idle prefixes moved to RAM.", lambda s: s.prefix.stored),
    Figure("prefix_cache_stored_bytes", "What they take there.", lambda s: s.prefix.stored_bytes),
)
COUNTERS = (
    Figure("passes", "Passes through the model.", lambda s: s.step.steps),
    Figure("mixed_passes", "Passes with two or more adapter sets.", lambda s: s.step.mixed_steps),
    Figure("intercepted_passes", "Passes weighted row by row.", lambda s: s.step.intercepted_steps),
    Figure("prompt_tokens", "Prompt tokens computed.", lambda s: s.step.tokens_in),
    Figure("generated_tokens", "Tokens drawn.", lambda s: s.step.tokens_out),
    Figure("drafted_tokens", "Tokens guessed ahead.", lambda s: s.step.drafted_tokens),
    Figure("accepted_tokens", "Guessed tokens that were right.", lambda s: s.step.accepted_tokens),
    Figure("bank_copies", "Adapters written into the bank.", lambda s: s.bank.copies),
    Figure("bank_evictions", "Adapters that had to leave the bank.", lambda s: s.bank.evictions),
    Figure("bank_rebuilds", "Times the bank was made anew.", lambda s: s.bank.rebuilds),
    Figure("prefix_cache_hits", "Requests that found a prefix.", lambda s: s.prefix.hits),
    Figure("prefix_cache_misses", "Requests that found none.", lambda s: s.prefix.misses),
    Figure("prefix_cache_hit_tokens", "Prompt tokens found.", lambda s: s.prefix.hit_tokens),
    Figure("prefix_cache_prompt_tokens", "Prompt tokens looked up.", lambda s: s.prefix.prompt_tokens),
    Figure("prefix_cache_evictions", "Prefixes that had to go.", lambda s: s.prefix.evictions),
    Figure("prefix_cache_restored", "Prefixes moved back from RAM.", lambda s: s.prefix.restored),
)


def families(vitals: Mapping[str, Vitals]) -> Iterator[Metric]:
    for kind, figures in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
        for figure in figures:
            family = kind(f"llamaleon_{figure.name}", figure.what, labels=("model",))
            for model, one in vitals.items():
                family.add_metric((model,), figure.value(one.status))
            yield family
