"""Contestants in turns, A B C B C A ..., so that a slow minute of the machine hits all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.bench.figures import Figure
from tests.bench.load import Body, Burst, burst
from tests.bench.servers import Server


@dataclass(frozen=True)
class Contestant:
    """A name, a server, what to ask it, how many streams at a time; `rounds` None takes part in all."""

    name: str
    server: Server
    bodies: Sequence[Body]
    streams: int
    rounds: int | None = None


@dataclass
class Outcome:
    """Values of each contestant by round, and what the CPU was spent on beside the server asked."""

    values: dict[str, list[float]] = field(default_factory=dict)
    cpu_s_per_token: dict[str, list[float]] = field(default_factory=dict)  # of the server asked
    client_share: float = 0.0  # of one core, the most of any burst
    idle_share: float = 0.0  # of the servers that had nothing to do, together

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def ratios(self, above: str, below: str) -> list[float]:
        """Of the rounds that both took part in."""
        return [a / b for a, b in zip(self.values[above], self.values[below], strict=False)]

    def figure(self, what: str, above: str, below: str, goal: str | None, unit: str) -> Figure:
        """The median of the paired rounds' ratios."""
        ratios = self.ratios(above, below)
        ratio = statistics.median(ratios)
        a, b = self.median(above), self.median(below)
        raw = {
            "ratio": ratio,
            "ratio_least": min(ratios),
            "ratio_most": max(ratios),
            "rounds": float(len(ratios)),
            f"{above}_{unit}": a,
            f"{below}_{unit}": b,
            f"{above}_cpu_s_per_token": statistics.median(self.cpu_s_per_token[above]),
            f"{below}_cpu_s_per_token": statistics.median(self.cpu_s_per_token[below]),
            "client_share_of_a_core": self.client_share,
            "idle_servers_share_of_a_core": self.idle_share,
        }
        shown = (
            f"{ratio:.2f} ({a:.3g} / {b:.3g} {UNITS[unit]}; rounds {min(ratios):.2f} to {max(ratios):.2f})"
        )
        return Figure(what, shown, goal, raw)


UNITS = {"tokens_per_s": "tokens/s", "s": "s"}


def throughput(of: Burst) -> float:
    """Tokens per second of all streams, their short prompts included."""
    return of.tokens_per_s


def decoding(of: Burst) -> float:
    """Tokens per second of one stream, from its first token on."""
    return of.heard[0].tokens_per_s


def first_token(of: Burst) -> float:
    return of.heard[0].first_s


def compete(
    contestants: Sequence[Contestant],
    rounds: int,
    value: Callable[[Burst], float],
    *,
    all_servers: Sequence[Server],
) -> Outcome:
    """Raises: AssertionError if an answer is not as long as was asked: its speed would mislead."""
    names = [one.name for one in contestants]
    outcome = Outcome({name: [] for name in names}, {name: [] for name in names})
    for number in range(rounds):
        turn = number % len(contestants)
        for one in (*contestants[turn:], *contestants[:turn]):
            if one.rounds is not None and number >= one.rounds:
                continue
            idle = [server for server in all_servers if server is not one.server]
            before = sum(server.cpu_s() for server in idle)
            own = one.server.cpu_s()
            got = burst(one.server.client, one.bodies, one.streams)
            own = one.server.cpu_s() - own
            short = [heard.tokens for heard in got.heard if heard.tokens != heard.asked]
            assert not short, f"{one.name} answered with {short} tokens, not as many as asked for"
            outcome.values[one.name].append(value(got))
            outcome.cpu_s_per_token[one.name].append(own / got.tokens)
            outcome.client_share = max(outcome.client_share, got.client_cpu_s / got.seconds)
            spent = sum(server.cpu_s() for server in idle) - before
            outcome.idle_share = max(outcome.idle_share, spent / got.seconds)
    return outcome
