"""Ten thousand short, mixed requests over HTTP: memory stays flat, none fails.

Base, adapters and blends, some cancelled in mid-stream, with prompts from a small pool, so that caches fill
early and what grows afterwards is a leak. Memory is the resident memory of the API process and the engine.

Flat means: from half way to the end it grows by less than 1 % or 8 MiB, whichever is more.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import httpx
import psutil
from tests.bench.figures import Figure
from tests.bench.load import Body, listen, new_client
from tests.bench.options import THREADS, Options
from tests.data import NANO
from tests.lora import random_lora
from tests.server import RunningServer

REQUESTS, STREAMS, ADAPTERS, PROMPTS = 10_000, 8, 12, 64
SHARE_GROWTH, MIB_GROWTH = 0.01, 8.0
CANCELLED = 0.1
PREFIX_RAM = "16MiB"  # of idle prefixes: the usual 1 GiB would not be full by the end
KINDS = {"base", "adapter", "blend", "cancelled"}


@dataclass(frozen=True)
class Soaked:
    """`rss_mib` at 10, 50 and 100 % of the requests; `kinds` of them, `errors` in words."""

    requests: int
    seconds: float
    rss_mib: tuple[float, ...]
    kinds: dict[str, int]
    errors: list[str]

    @property
    def flat(self) -> bool:
        _, half, end = self.rss_mib
        return end - half <= max(MIB_GROWTH, SHARE_GROWTH * half)


def soak(scratch: Path, requests: int, base: Path = NANO) -> Soaked:
    """Run `requests` of them, `STREAMS` at a time, against a server of its own."""
    folder = scratch / "adapters"
    folder.mkdir()
    names = [
        random_lora(base, folder / f"a{number}.gguf", seed=number, rank=2 + 2 * (number % 4)).stem
        for number in range(ADAPTERS)
    ]
    bodies = list(made(base.stem, names, requests))
    arguments = ["--model", str(base), "--watch", str(folder), "--context", "512", "--parallel", str(STREAMS)]
    arguments += ["--threads", str(THREADS), "--log-level", "warning", "--prefix-ram", PREFIX_RAM]
    with (
        RunningServer(scratch / "home", arguments) as server,
        new_client(server.url) as client,
        ThreadPoolExecutor(STREAMS) as pool,
    ):
        wait_for(client, {f"{base.stem}+{name}" for name in names})
        began = time.perf_counter()
        errors: list[str] = []
        rss = []
        for first, last in marks(requests):
            errors += [error for error in pool.map(lambda b: ask(client, b), bodies[first:last]) if error]
            rss.append(resident_mib(server))
        seconds = time.perf_counter() - began
        assert client.get("/health").is_success
    kinds = Counter(body["kind"] for body in bodies)
    return Soaked(requests, seconds, tuple(rss), dict(kinds), errors)


def marks(requests: int) -> Iterator[tuple[int, int]]:
    """Up to 10 %, 50 % and 100 %."""
    edges = [0, requests // 10, requests // 2, requests]
    return pairwise(edges)


def made(base: str, names: list[str], requests: int) -> Iterator[Body]:
    rng = random.Random(0)
    prompts = [f"{number}: " + "lorem ipsum dolor " * rng.randint(1, 6) for number in range(PROMPTS)]
    for _ in range(requests):
        kind = rng.choices(("base", "adapter", "blend"), (2, 5, 3))[0]
        model = base
        if kind == "adapter":
            model += f"+{rng.choice(names)}"
        elif kind == "blend":
            model += "".join(f"+{name}*{rng.choice((0.3, 0.7, 1.0))}" for name in rng.sample(names, 2))
        yield {
            "model": model,
            "prompt": rng.choice(prompts),
            "max_tokens": rng.randint(1, 6),
            "temperature": rng.choice((0.0, 0.8)),
            "seed": rng.randint(0, 1000),
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "kind": "cancelled" if rng.random() < CANCELLED else kind,  # which the server ignores
        }


def ask(client: httpx.Client, body: Body) -> str | None:
    """What went wrong, or None."""
    try:
        if body["kind"] == "cancelled":
            with client.stream("POST", "/v1/completions", json={**body, "max_tokens": 400}) as response:
                if response.status_code != httpx.codes.OK:
                    return response.read().decode()
                next(response.iter_raw())
            return None
        heard = listen(client, body)
    except (RuntimeError, httpx.HTTPError) as error:
        return f"{body['model']}: {error!r}"
    if heard.tokens != heard.asked:
        return f"{body['model']}: {heard.tokens} tokens instead of {heard.asked}"
    return None


def wait_for(client: httpx.Client, models: set[str]) -> None:
    deadline = time.monotonic() + 30
    while not models <= {entry["id"] for entry in client.get("/v1/models").json()["data"]}:
        assert time.monotonic() < deadline, "the watched adapters are not served"
        time.sleep(0.05)


def resident_mib(server: RunningServer) -> float:
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    every = [process, *process.children(recursive=True)]
    return float(sum(one.memory_info().rss for one in every)) / 2**20


def measure(scratch: Path, options: Options) -> list[Figure]:
    done = soak(scratch, REQUESTS // 100 if options.quick else REQUESTS)
    for error in done.errors[:5]:
        print(f"   error: {error}", flush=True)
    tenth, half, end = done.rss_mib
    mix = ", ".join(f"{count} {kind}" for kind, count in sorted(done.kinds.items()))
    return [
        Figure(
            f"{done.requests} mixed requests on nano ({mix}): resident memory at 10, 50, 100 %",
            f"{tenth:.0f}, {half:.0f}, {end:.0f} MiB: {'flat' if done.flat else 'NOT flat'}; "
            f"{len(done.errors)} errors",
            "flat, no error",
            {
                "rss_10_mib": tenth,
                "rss_50_mib": half,
                "rss_100_mib": end,
                "errors": float(len(done.errors)),
                "requests_per_s": done.requests / done.seconds,
            },
        )
    ]
