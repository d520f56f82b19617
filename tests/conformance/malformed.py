"""100,000 malformed requests: never a 500, never a hang, never a dropped connection.

python -m tests.conformance.malformed --count 100000 --sockets 30000
python -m tests.conformance.malformed --only 4711        # one of them again, shown whole
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.api import CHATML, running_api
from tests.conformance.driving import Answered, through_asgi, through_socket
from tests.conformance.generate import Asked, Generator
from tests.conformance.nowhere import hurry, nowhere
from tests.server import RunningServer
from tests.unit.server.registry.small import write_base

from llamaleon_server.app import ROUTES
from llamaleon_server.web.openapi import document

AT_ONCE = 16
Send = Callable[[int, Asked], Awaitable[Answered]]


@dataclass
class Tally:
    statuses: Counter[int | None] = field(default_factory=Counter)
    problems: list[tuple[int, Asked, str]] = field(default_factory=list)
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, -1)  # seconds, number

    def __str__(self) -> str:
        total = sum(self.statuses.values())
        shown = ", ".join(f"{count} x {status}" for status, count in self.statuses.most_common())
        rate = total / self.seconds if self.seconds else 0.0
        return (
            f"{total} requests in {self.seconds:.0f} s ({rate:.0f}/s, "
            f"slowest {self.slowest[0]:.2f} s: {self.slowest[1]}): "
            f"{shown}; {len(self.problems)} problems"
        )


def generator(seed: int = 0) -> Generator:
    return Generator(document(ROUTES), ["tiny", "nano", "tiny"], seed)


async def send_all(numbers: Iterable[int], made: Generator, send: Send, tally: Tally) -> None:
    waiting = iter(numbers)
    began = time.perf_counter()

    async def worker() -> None:
        for number in waiting:
            asked = made.request(number)
            sent = time.perf_counter()
            answered = await send(number, asked)
            tally.slowest = max(tally.slowest, (time.perf_counter() - sent, number))
            tally.statuses[answered.status] += 1
            if answered.problem is not None:
                tally.problems.append((number, asked, answered.problem))

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    tally.seconds += time.perf_counter() - began


async def in_process(numbers: Iterable[int], home: Path, *, seed: int = 0) -> Tally:
    tally = Tally()
    hurry()
    base = write_base(home.parent / "tiny.gguf", template=CHATML)
    async with running_api(home, base, max_body_bytes=2 << 20) as api:
        await send_all(numbers, generator(seed), lambda _, asked: through_asgi(api.app, asked), tally)
        assert (await api.chat()).status_code == 200, "the server answers no more"
    return tally


async def over_sockets(numbers: Iterable[int], port: int, *, seed: int = 0) -> Tally:
    tally = Tally()

    def send(number: int, asked: Asked) -> Awaitable[Answered]:
        return through_socket(port, asked, again=number % 3 == 0)

    await send_all(numbers, generator(seed), send, tally)
    return tally


class ServingProcess(RunningServer):
    """`tests.conformance.serving` in place of the server's own command."""

    def __init__(self, home: Path, *bases: Path) -> None:
        super().__init__(home)
        self._bases = [str(base) for base in bases]

    def command(self) -> list[str]:
        module = "tests.conformance.serving"
        return [sys.executable, "-m", module, str(self.home), str(self.port), *self._bases]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="in all")
    parser.add_argument("--sockets", type=int, help="of them over sockets; default: three in ten")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="send this one alone")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)
    with nowhere(), tempfile.TemporaryDirectory() as folder:
        if arguments.only is not None:
            logging.disable(logging.NOTSET)
            print(generator(arguments.seed).request(arguments.only))
            numbers = range(arguments.only, arguments.only + 1)
            alone = in_process(numbers, Path(folder) / "home", seed=arguments.seed)
            return report("in this process", asyncio.run(alone))
        sockets = arguments.count * 3 // 10 if arguments.sockets is None else arguments.sockets
        inner = range(arguments.count - sockets)
        failed = report(
            "in this process", asyncio.run(in_process(inner, Path(folder) / "home", seed=arguments.seed))
        )
        base = write_base(Path(folder) / "tiny.gguf", template=CHATML)
        with ServingProcess(Path(folder) / "served", base) as server:
            outer = range(arguments.count - sockets, arguments.count)
            failed += report(
                "over sockets", asyncio.run(over_sockets(outer, server.port, seed=arguments.seed))
            )
            assert server.process is not None
            assert server.process.poll() is None, "the server died"
            said = server.log.read_text()
            if "Traceback" in said:
                print("the log of the server ends:", said[-4000:], sep="\n")
    return min(failed, 1)


def report(where: str, tally: Tally) -> int:
    print(f"{where}: {tally}")
    kinds = Counter(problem[:80] for _, _, problem in tally.problems)
    for kind, count in kinds.most_common(20):
        number, asked, problem = next(one for one in tally.problems if one[2].startswith(kind))
        print(f"\n{count} x {kind}\n  e.g. --only {number}: {asked}\n  {problem}")
    return len(tally.problems)


if __name__ == "__main__":
    sys.exit(main())
