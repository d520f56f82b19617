"""Against llama-server and llama_cpp.server: the same model, threads, prompts, over HTTP, streaming.

Ratios are of paired rounds; only one server is asked at a time. Speculation is off in ours: random weights
fall into loops that it would guess right.
"""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench import models
from tests.bench.figures import Figure
from tests.bench.load import Body, burst
from tests.bench.options import LLAMA_SERVER, Options
from tests.bench.rounds import Contestant, compete, decoding, first_token, throughput
from tests.bench.servers import (
    LlamaServer,
    Ours,
    PythonServer,
    Server,
    Serving,
    python_server_problem,
    versions,
)

OURS, LLAMA, PYTHON = "ours", "llama_server", "llama_cpp_server"
SHARED = 8  # adapters that are used at once
MANY = 64
PREFILL_ROUNDS = 7
ZIPF = 1.1
BANK = ("bank_copies", "bank_evictions", "bank_rebuilds")  # how often adapters came, went, moved house
NAMES = {LLAMA: "llama-server", PYTHON: "llama_cpp.server"}


@dataclass(frozen=True)
class Size:
    """How much is measured; `tokens` of each answer."""

    rounds: int = 3
    tokens: int = 48
    prompt_words: int = 3  # about 15 tokens
    long_words: int = 200  # about 1,000
    zipf_requests: int = 64
    zipf_tokens: int = 24
    zipf_rounds: int = 2
    zipf_kinds: tuple[str, ...] = (models.WIDE,)


FULL = Size()
SHORT = Size(rounds=2)
QUICK = Size(rounds=1, tokens=6, long_words=60, zipf_requests=16, zipf_tokens=4, zipf_rounds=1)


@dataclass(frozen=True)
class Table:
    """The running servers and what they serve."""

    servers: dict[str, Server]
    adapters: dict[str, list[Path]]  # by kind
    size: Size
    title: str

    @property
    def ours(self) -> Ours:
        found = self.servers[OURS]
        assert isinstance(found, Ours)
        return found

    @property
    def all(self) -> list[Server]:
        return list(self.servers.values())

    @property
    def peers(self) -> list[str]:
        return [name for name in NAMES if name in self.servers]

    def warm_up(self) -> None:
        for server in self.all:
            burst(server.client, [server.body(text, 4) for text in models.prompts(8, 5, seed=0)], 8)

    def bodies(self, server: Server, kind: str, used: int, streams: int, tokens: int) -> list[Body]:
        """One request a stream; stream i under adapter i modulo `used`."""
        texts = models.prompts(streams, self.size.prompt_words, seed=streams)
        files = self.adapters[kind]
        return [server.body(text, tokens, files[at % used]) for at, text in enumerate(texts)]


def measure(scratch: Path, options: Options, quantization: str, size: Size) -> list[Figure]:
    """All rows for one file type of the model."""
    if options.quick:
        size = QUICK
    base = models.shaped(options, quantization)
    kept = options.made / f"adapters-{models.shape_name(options)}"
    adapters = {kind: models.adapters(kept, base, kind, MANY) for kind in models.KINDS}
    serving = Serving(base, tuple(path for paths in adapters.values() for path in paths))
    with ExitStack() as stack:
        servers = start(stack, scratch, serving, options, adapters)
        table = Table(servers, adapters, size, f"{models.shape_title(options)} {quantization}")
        table.warm_up()
        return [
            described(table, options),
            *base_rows(table),
            *(figure for kind in models.KINDS for figure in shared_rows(table, kind)),
            *(many_row(table, kind) for kind in size.zipf_kinds),
            *prefill_rows(table),
            prefix_row(table),
        ]


def start(
    stack: ExitStack,
    scratch: Path,
    serving: Serving,
    options: Options,
    adapters: dict[str, list[Path]],
    *,
    used: int = SHARED,
) -> dict[str, Server]:
    """Ours, and those peers that are there; what is not is said. llama-server gets `used` of each kind."""
    made: dict[str, Server] = {OURS: Ours(serving, scratch / "home")}
    if options.llama_server is None:
        print(f"   llama-server is not compared: give --llama-server PATH or ${LLAMA_SERVER}", flush=True)
    else:
        files = [path for paths in adapters.values() for path in paths[:used]]
        made[LLAMA] = LlamaServer(serving, options.llama_server, files, scratch / "llama-server.log")
    problem = python_server_problem()
    if options.gpu:
        problem = "it would take memory for a second 7 B model, to serve one stream"
    if problem:
        print(f"   llama_cpp.server is not compared: {problem}", flush=True)
    else:
        made[PYTHON] = PythonServer(serving, scratch / "llama-cpp-server.log")
    for server in made.values():
        stack.enter_context(server)
    return made


def described(table: Table, options: Options) -> Figure:
    known = versions(options.llama_server)
    lines = [f"- {server.name} ({known[server.name]}): `{server.flags}`" for server in table.all]
    if policy := os.environ.get("OMP_WAIT_POLICY"):
        lines.append(f"- for all of them OMP_WAIT_POLICY={policy}")
    shown = "".join(f"\n{line}" for line in lines)
    return Figure(
        f"servers compared on {table.title}",
        ", ".join(server.name for server in table.all),
        detail=f"Servers on {table.title}, adapters {models.ADAPTER_TYPE}:\n{shown}\n",
    )


def base_rows(table: Table) -> list[Figure]:
    size, figures = table.size, []
    for streams, goal in ((1, "at least 0.97"), (8, "at least 1.0")):
        texts = models.prompts(streams, size.prompt_words, seed=streams)
        contestants = [
            Contestant(
                name,
                server,
                [server.body(text, size.tokens) for text in texts],
                streams,
                rounds=1 if name == PYTHON and streams > 1 else None,  # one after another: it takes long
            )
            for name, server in table.servers.items()
        ]
        value = decoding if streams == 1 else throughput
        outcome = compete(contestants, size.rounds, value, all_servers=table.all)
        for peer in table.peers:
            what = f"{streams} stream{'s' * (streams > 1)}, base, over {NAMES[peer]}, {table.title}"
            figures.append(outcome.figure(what, OURS, peer, goal if peer == LLAMA else None, "tokens_per_s"))
    return figures


def shared_rows(table: Table, kind: str) -> list[Figure]:
    """Eight adapters for eight streams, over the peer's eight and over our own one."""
    size = table.size
    contestants = [
        Contestant(name, server, table.bodies(server, kind, used, 8, size.tokens), 8)
        for name, server, used in (
            (OURS, table.ours, SHARED),
            ("ours_one_adapter", table.ours, 1),
            (LLAMA, table.servers.get(LLAMA), SHARED),
        )
        if server is not None
    ]
    for one in contestants:  # adapters are loaded and in the bank
        burst(one.server.client, [{**body, "max_tokens": 2} for body in one.bodies], 8)
    outcome = compete(contestants, size.rounds, throughput, all_servers=table.all)
    what = f"8 adapters x 8 streams, {kind}, {table.title}"
    figures = [
        outcome.figure(f"{what}, over one adapter", OURS, "ours_one_adapter", "at least 0.88", "tokens_per_s")
    ]
    if LLAMA in table.servers:
        figures.append(
            outcome.figure(f"{what}, over llama-server", OURS, LLAMA, "at least 2.2", "tokens_per_s")
        )
    return figures


def zipf_choices(requests: int, seed: int = 0) -> list[int]:
    """Which of the adapters each request is for."""
    weights = [1 / rank**ZIPF for rank in range(1, MANY + 1)]
    return random.Random(seed).choices(range(MANY), weights, k=requests)


def many_row(table: Table, kind: str) -> Figure:
    """More adapters than the bank holds, all warm in RAM: they come and go while eight streams run."""
    size, ours, files = table.size, table.ours, table.adapters[kind]
    chosen = zipf_choices(size.zipf_requests)
    burst(ours.client, [ours.body("x", 1, path) for path in files], 8)
    texts = models.prompts(size.zipf_requests, size.prompt_words, seed=3)
    mixed = [ours.body(text, size.zipf_tokens, files[at]) for text, at in zip(texts, chosen, strict=True)]
    alone = [ours.body(text, size.zipf_tokens, files[0]) for text in texts]
    contestants = [Contestant(OURS, ours, mixed, 8), Contestant("ours_one_adapter", ours, alone, 8)]
    before = {name: ours.counter(f"llamaleon_{name}_total") for name in BANK}
    outcome = compete(contestants, size.zipf_rounds, throughput, all_servers=table.all)
    moved = {name: ours.counter(f"llamaleon_{name}_total") - before[name] for name in BANK}
    what = (
        f"{MANY} adapters, Zipf {ZIPF} ({len(set(chosen))} of them in {len(chosen)} requests), 8 streams, "
        f"{kind}, {table.title}, over one adapter"
    )
    figure = outcome.figure(what, OURS, "ours_one_adapter", "at least 0.75", "tokens_per_s")
    counted = ", ".join(f"{count:.0f} {name.removeprefix('bank_')}" for name, count in moved.items())
    return replace(figure, measured=f"{figure.measured}; {counted}", raw={**figure.raw, **moved})


def prefill_rows(table: Table) -> list[Figure]:
    """Time to the first token of a long prompt that nothing of is cached: less is better."""
    [text] = models.prompts(1, table.size.long_words, seed=17)
    contestants = [
        # llama_cpp.server always keeps its last prompt: the second time it would have nothing to do.
        Contestant(name, server, [server.body(text, 2)], 1, rounds=1 if name == PYTHON else None)
        for name, server in table.servers.items()
    ]
    # Three rounds of four seconds each said 0.91 to 1.58 of one and the same pair of servers.
    rounds = 1 if table.size is QUICK else PREFILL_ROUNDS
    outcome = compete(contestants, rounds, first_token, all_servers=table.all)
    counted = burst(table.ours.client, [table.ours.body(text, 1)], 1).heard[0].usage["prompt_tokens"]
    what = f"time to first token, uncached prompt of {counted} tokens, base, {table.title}"
    return [outcome.figure(f"{what}, over {NAMES[peer]}", OURS, peer, None, "s") for peer in table.peers]


def prefix_row(table: Table) -> Figure:
    """A prefix seen under that adapter, another end, over the same without the cache."""
    ours, adapter = table.ours, table.adapters[models.WIDE][0]
    fresh, seen, length = [], [], 0
    for number in range(table.size.rounds):
        [prefix] = models.prompts(1, table.size.long_words, seed=100 + number)
        ends = models.prompts(2, 3, seed=200 + number)
        asked = [ours.body(f"{prefix} {end}", 2, adapter, cache=True) for end in ends]
        first, again = (burst(ours.client, [body], 1).heard[0] for body in asked)
        assert not first.usage["prompt_tokens_details"]["cached_tokens"], "no prompt begins alike"
        fresh.append(first.first_s)
        seen.append(again.first_s)
        length = int(again.usage["prompt_tokens_details"]["cached_tokens"])
    ratios = sorted(a / b for a, b in zip(seen, fresh, strict=True))
    ratio = ratios[len(ratios) // 2]
    return Figure(
        f"time to first token, prefix of {length} tokens seen under that adapter, over uncached, "
        f"{table.title}",
        f"{ratio:.3f} ({min(seen) * 1e3:.0f} / {min(fresh) * 1e3:.0f} ms at best)",
        "at most 0.1",
        {"ratio": ratio, "seen_s": min(seen), "fresh_s": min(fresh), "cached_tokens": float(length)},
    )
