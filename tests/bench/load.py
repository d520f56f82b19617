"""The clients: plain HTTP, one thread a stream, answers stamped as they come and read only afterwards.

Server and clients share the machine's cores, so a client does nothing but take bytes from its socket.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx

Body = dict[str, Any]


@dataclass(frozen=True)
class Heard:
    """One streamed completion. `sent` and `times`, one per piece received, are `perf_counter` seconds.

    `asked` is the number of tokens that were asked for.
    """

    asked: int
    sent: float
    times: list[float]
    received: bytes

    @property
    def first_s(self) -> float:
        """Time to the first token."""
        return self.times[0] - self.sent

    @property
    def end(self) -> float:
        return self.times[-1]

    @cached_property
    def events(self) -> list[Body]:
        lines = self.received.decode().splitlines()
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        for event in events:
            if "error" in event:
                raise RuntimeError(f"the server answered in its stream: {event['error']}")
        return events

    @property
    def text(self) -> str:
        return "".join(choice["text"] for event in self.events for choice in event["choices"])

    @property
    def usage(self) -> Body:
        return next((event["usage"] for event in reversed(self.events) if event.get("usage")), {})

    @property
    def tokens(self) -> int:
        """As the server counts them; llama_cpp.server only says whether it was as many as asked for."""
        counted = self.usage.get("completion_tokens")
        if counted is not None:
            return int(counted)
        reasons = [choice["finish_reason"] for event in self.events for choice in event["choices"]]
        return self.asked if "length" in reasons else 0

    @property
    def tokens_per_s(self) -> float:
        """Of decoding: without the first token, which ends the prefill."""
        return (self.tokens - 1) / (self.end - self.times[0])


def listen(client: httpx.Client, body: Body) -> Heard:
    """Ask for a streamed completion and take it. Raises: RuntimeError with the server's refusal."""
    times: list[float] = []
    pieces: list[bytes] = []
    sent = time.perf_counter()
    with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != httpx.codes.OK:
            raise RuntimeError(f"{response.status_code}: {response.read().decode()}")
        for piece in response.iter_raw():
            if b"data: {" in piece:
                times.append(time.perf_counter())
            pieces.append(piece)
    return Heard(int(body["max_tokens"]), sent, times, b"".join(pieces))


@dataclass(frozen=True)
class Burst:
    """Several streams at once, from the first request to the last answer's end."""

    heard: list[Heard]
    seconds: float
    client_cpu_s: float

    @property
    def tokens(self) -> int:
        return sum(heard.tokens for heard in self.heard)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def burst(client: httpx.Client, bodies: Sequence[Body], streams: int) -> Burst:
    """Every request once, `streams` of them at a time."""
    return _timed(lambda pool: list(pool.map(lambda body: listen(client, body), bodies)), streams)


def _timed(work: Callable[[ThreadPoolExecutor], list[Heard]], streams: int) -> Burst:
    with ThreadPoolExecutor(streams) as pool:
        cpu = time.process_time()
        heard = work(pool)
        cpu = time.process_time() - cpu
    seconds = max(one.end for one in heard) - min(one.sent for one in heard)
    return Burst(heard, seconds, cpu)


def new_client(url: str) -> httpx.Client:
    """A connection for each request: llama-server closes its own after a stream, sooner or later."""
    limits = httpx.Limits(max_connections=128)
    return httpx.Client(base_url=url, timeout=600.0, limits=limits, headers={"Connection": "close"})
