"""The same on a GPU: 7 B-shaped Q4_K_M, all layers offloaded, adapters of rank 16 on every linear layer.

llama-server must be built for the same GPU, and so llama-cpp-python: `python -m tests.bench --gpu`.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.bench import models
from tests.bench.arrival import arrival
from tests.bench.figures import Figure
from tests.bench.load import burst
from tests.bench.options import Options
from tests.bench.peers import LLAMA, NAMES, OURS, Size, Table, described, start
from tests.bench.rounds import Contestant, compete, throughput
from tests.bench.servers import Serving

STREAMS = (1, 8, 32, 64)
ADAPTERS = (1, 8, 32)
SIZE = Size(tokens=128)
QUICK = Size(rounds=1, tokens=6)
CONTEXT = 1024


def measure(scratch: Path, options: Options) -> list[Figure]:
    base = models.shaped(options, "Q4_K_M")
    size = QUICK if options.quick else SIZE
    most, rank = max(ADAPTERS), models.KINDS[models.WIDE][0]
    adapters = {models.WIDE: models.adapters(options.made / "adapters-gpu", base, models.WIDE, most)}
    serving = Serving(
        base,
        tuple(adapters[models.WIDE]),
        context=CONTEXT,
        parallel=max(STREAMS),
        gpu=True,
        bank_ranks=most * rank,
    )
    with ExitStack() as stack:
        servers = start(stack, scratch, serving, options, adapters, used=most)
        table = Table(servers, adapters, size, f"{models.shape_title(options)} Q4_K_M")
        table.warm_up()
        figures = [described(table, options)]
        for streams in STREAMS:
            figures += base_rows(table, streams)
            figures += [
                row for used in ADAPTERS if used <= streams for row in mixed_rows(table, streams, used)
            ]
    return [*figures, *arrival(scratch, base, goal_ms=50)]


def base_rows(table: Table, streams: int) -> list[Figure]:
    texts = models.prompts(streams, table.size.prompt_words, seed=streams)
    contestants = [
        Contestant(name, server, [server.body(text, table.size.tokens) for text in texts], streams)
        for name, server in table.servers.items()
        if name in (OURS, LLAMA)
    ]
    return rows(table, contestants, f"{streams} streams, base", None)


def mixed_rows(table: Table, streams: int, used: int) -> list[Figure]:
    """`used` adapters for the streams, over llama-server's same and over one adapter of our own."""
    tokens = table.size.tokens
    contestants = [
        Contestant(name, server, table.bodies(server, models.WIDE, used, streams, tokens), streams)
        for name, server in table.servers.items()
        if name in (OURS, LLAMA)
    ]
    if used > 1:
        alone = table.bodies(table.ours, models.WIDE, 1, streams, tokens)
        contestants.append(Contestant("ours_one_adapter", table.ours, alone, streams))
    for one in contestants:
        burst(one.server.client, [{**body, "max_tokens": 2} for body in one.bodies], streams)
    return rows(
        table, contestants, f"{used} adapters x {streams} streams", "at least 8" if used > 1 else None
    )


def rows(table: Table, contestants: list[Contestant], what: str, goal: str | None) -> list[Figure]:
    outcome = compete(contestants, table.size.rounds, throughput, all_servers=table.all)
    figures = []
    if LLAMA in outcome.values:
        title = f"{what}, over {NAMES[LLAMA]}, {table.title}"
        figures.append(outcome.figure(title, OURS, LLAMA, goal, "tokens_per_s"))
    if "ours_one_adapter" in outcome.values:
        title = f"{what}, over one adapter, {table.title}"
        figures.append(outcome.figure(title, OURS, "ours_one_adapter", "at least 0.8", "tokens_per_s"))
    return figures
