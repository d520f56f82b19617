"""`make bench`: every figure of docs/benchmarks.md, measured on this machine in one run.

Ratios are taken inside the run, because machines are noisy; absolute times are medians.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import adapters, convert_speed, machine, parity, process, streams
from tests.bench.figures import Figure
from tests.data import REPOSITORY

MEASURES: dict[str, Callable[[Path], list[Figure]]] = {
    "process": process.measure,
    "streams": streams.measure,
    "adapters": adapters.measure,
    "convert": convert_speed.measure,
    "parity": parity.measure,
}


def page(figures: list[Figure]) -> str:
    lines = [
        "# Figures",
        "",
        "Written by `make bench`; run it again on your machine. The demonstration prints its own figures",
        "(`make demo`).",
        "",
        f"Machine: {machine.describe()}.",
        "",
        "| what | measured | goal |",
        "|---|--:|--:|",
        *(f"| {figure.what} | {figure.measured} | {figure.goal or ''} |" for figure in figures),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "measures", nargs="*", default=list(MEASURES), help=f"of {', '.join(MEASURES)}; all by default"
    )
    parser.add_argument(
        "--write", action="store_true", help="write docs/benchmarks.md and docs/benchmarks.json"
    )
    options = parser.parse_args()
    figures: list[Figure] = []
    for name in options.measures:
        with tempfile.TemporaryDirectory() as scratch:
            start = time.perf_counter()
            figures += (found := MEASURES[name](Path(scratch)))
            print(f"== {name}: {time.perf_counter() - start:.0f} s", flush=True)
            for figure in found:
                print(
                    f"   {figure.what}: {figure.measured}"
                    + (f"  (goal {figure.goal})" if figure.goal else ""),
                    flush=True,
                )
    if options.write:
        docs = REPOSITORY / "docs"
        (docs / "benchmarks.md").write_text(page(figures), encoding="utf-8")
        raw = {"machine": machine.describe(), "figures": [figure.as_dict() for figure in figures]}
        (docs / "benchmarks.json").write_text(
            json.dumps(raw, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
