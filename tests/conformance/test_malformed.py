"""A sample of what `python -m tests.conformance.malformed --count 100000` sends; another one every day."""

from __future__ import annotations

import time
from pathlib import Path

from tests.api import CHATML
from tests.conformance.malformed import ServingProcess, Tally, in_process, over_sockets
from tests.conformance.nowhere import nowhere
from tests.unit.server.registry.small import write_base


def seed_of_today() -> int:
    return int(time.time()) // 86_400


def check(tally: Tally, count: int) -> None:
    shown = [
        f"--seed {seed_of_today()} --only {number}: {asked}\n{problem}"
        for number, asked, problem in tally.problems
    ]
    assert not shown, "\n\n".join(shown[:5])
    assert sum(tally.statuses.values()) == count
    assert tally.statuses[200] > count // 50  # the names are right: not everything ends at the front door
    assert tally.statuses[400] > count // 10


async def test_malformed_requests_are_refused(tmp_path: Path) -> None:
    with nowhere():
        check(await in_process(range(6000), tmp_path / "home", seed=seed_of_today()), 6000)


async def test_malformed_requests_are_refused_over_sockets_and_no_connection_is_dropped(
    tmp_path: Path,
) -> None:
    base = write_base(tmp_path / "tiny.gguf", template=CHATML)
    with nowhere(), ServingProcess(tmp_path / "home", base) as server:
        check(await over_sockets(range(6000, 9000), server.port, seed=seed_of_today()), 3000)
        assert server.process is not None
        assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()
