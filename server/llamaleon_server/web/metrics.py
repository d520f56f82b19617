"""What `GET /metrics` tells: HTTP and latencies are counted here, engines say the rest.

Names follow Prometheus: base units, `_total` for counters. `model` is the base model, never an adapter: what
users may make a thousand of must not become a time series each.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llamaleon_server.engine.protocol import Delta, Finish, GenerateRequest
from llamaleon_server.registry.records import Target
from llamaleon_server.residents.residents import Residents
from llamaleon_server.residents.throughput import Vitals
from llamaleon_server.web.figures import families

log = logging.getLogger(__name__)

METHODS = {"GET", "POST", "DELETE", "HEAD", "OPTIONS"}  # others share a label: clients may invent them
REQUEST_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
FIRST_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BETWEEN_S = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counters of one application: each has its own, also several in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        of_http = ("method", "route", "status")
        self._requests = Counter(
            "llamaleon_http_requests", "HTTP requests answered.", of_http, registry=self._registry
        )
        self._durations = self._histogram(
            "llamaleon_http_request_duration_seconds",
            "Until the last byte of the answer, streams included.",
            REQUEST_S,
            of_http,
        )
        self._first = self._histogram(
            "llamaleon_time_to_first_token_seconds",
            "From the request to the first text of a choice, waiting included.",
            FIRST_TOKEN_S,
        )
        self._between = self._histogram(
            "llamaleon_inter_token_latency_seconds",
            "Between one piece of text of a choice and the next: a token, or several that were guessed.",
            BETWEEN_S,
        )
        self._queued = self._histogram(
            "llamaleon_request_queue_seconds", "Until the engine took a choice up.", FIRST_TOKEN_S
        )

    def _histogram(
        self, name: str, what: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ("model",)
    ) -> Histogram:
        return Histogram(name, what, labels, buckets=buckets, registry=self._registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        labels = method if method in METHODS else "other", route, str(status)
        self._requests.labels(*labels).inc()
        self._durations.labels(*labels).observe(seconds)

    def generate(
        self, residents: Residents, target: Target, request: GenerateRequest
    ) -> AsyncGenerator[Delta, None]:
        """`Residents.generate`, with its latencies counted from now on."""
        return self._watched(target, residents.generate(target, request), time.perf_counter())

    async def _watched(
        self, target: Target, generation: AsyncGenerator[Delta, None], began: float
    ) -> AsyncGenerator[Delta, None]:
        model, last = target.base.name, began
        latency, between = self._first.labels(model), self._between.labels(model)
        async with contextlib.aclosing(generation):
            async for delta in generation:
                if delta.tokens:
                    now = time.perf_counter()
                    latency.observe(now - last)
                    latency, last = between, now
                if delta.finish is not None:
                    self._queued.labels(model).observe(delta.finish.timings.queue_s)
                    log.debug("%s: %s", target.requested, _line(delta.finish))
                yield delta

    def text(self, vitals: Mapping[str, Vitals]) -> bytes:
        return generate_latest(_Together(self._registry.collect(), families(vitals)))


class _Together(Collector):
    """Without the `_created` times, which double the series and which Prometheus does not read."""

    def __init__(self, *metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for metric in itertools.chain(*self._metrics):
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric


def _line(finish: Finish) -> str:
    spent = finish.timings
    return (
        f"{finish.prompt_tokens} prompt tokens ({finish.cached_tokens} cached), "
        f"{finish.completion_tokens} generated ({finish.reason}); queue {spent.queue_s * 1000:.0f} ms, "
        f"prefill {spent.prefill_s * 1000:.0f} ms, decode {spent.decode_s * 1000:.0f} ms"
    )
