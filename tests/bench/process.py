"""The API process: how fast it is up, what it weighs, what it has mapped; and the command's `--help`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
from tests.bench.figures import Figure
from tests.server import RunningServer


def help_time_s() -> float:
    command = [str(Path(sys.executable).with_name("llamaleon")), "--help"]
    times = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def measure(scratch: Path) -> list[Figure]:
    server = RunningServer(scratch / "home")
    start = time.perf_counter()
    server.start()
    up_s = time.perf_counter() - start
    try:
        time.sleep(2)
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        rss = process.memory_info().rss / 2**20
        foreign = {
            word
            for word in ("llama", "ggml", "torch")
            for m in process.memory_maps()
            if word in Path(m.path).name.replace("llamaleon", "")
        }
    finally:
        server.stop()
    help_s = help_time_s()
    return [
        Figure("API process, start to first `/health`", f"{up_s:.2f} s", "under 1 s", {"up_s": up_s}),
        Figure(
            f"API process idle, resident (llama.cpp or torch mapped: {', '.join(foreign) or 'none'})",
            f"{rss:.0f} MiB",
            "under 120 MB, none",
            {"rss_mib": rss},
        ),
        Figure("`llamaleon --help`", f"{help_s:.2f} s", "under 0.3 s", {"help_s": help_s}),
    ]
