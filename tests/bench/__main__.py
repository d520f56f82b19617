"""`make bench`: every figure of docs/benchmarks.md, measured on this machine in one run.

Ratios are taken inside the run, because machines are noisy; absolute times are medians. Measures that are
not run keep their figures of the last run in docs/benchmarks.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from tests.bench import report
from tests.bench.figures import Figure
from tests.bench.options import LLAMA_SERVER, Options

Measure = Callable[[Path], list[Figure]]


def measures(options: Options) -> dict[str, Measure]:
    """Modules are imported when they are run: one that lacks something stops no other."""

    def plain(module: str) -> Measure:
        def run(scratch: Path) -> list[Figure]:
            return _function(module)(scratch)

        return run

    def peers(quantization: str, size: str) -> Measure:
        def run(scratch: Path) -> list[Figure]:
            module = import_module("tests.bench.peers")
            figures: list[Figure] = module.measure(scratch, options, quantization, getattr(module, size))
            return figures

        return run

    def with_options(module: str) -> Measure:
        def run(scratch: Path) -> list[Figure]:
            return _function(module)(scratch, options)

        return run

    if options.gpu:
        return {"peers-gpu": with_options("peers_gpu")}
    return {
        "peers-text": with_options("peers_text"),
        "peers-q8_0": peers("Q8_0", "FULL"),
        "peers-q4_k_m": peers("Q4_K_M", "SHORT"),
        "arrival": with_options("arrival"),
        "flow": with_options("flow"),
        "overhead": with_options("overhead"),
        "waiting": with_options("waiting"),
        "sampling": plain("sampling"),
        "speculation": plain("speculation"),
        "constrained": with_options("constrained"),
        "soak": with_options("soak"),
        "process": plain("process"),
        "streams": plain("streams"),
        "adapters": plain("adapters"),
        "convert": plain("convert_speed"),
        "train": with_options("train"),
        "estimates": with_options("estimates"),
        "compile": with_options("compiled"),
        "parity": plain("parity"),
        "parity-families": with_options("parity_families"),
        "qlora": with_options("qlora"),
        "qlora-outliers": with_options("qlora_outliers"),
        "qlora-memory": with_options("qlora_memory"),
        "seven-billion": with_options("seven_billion"),
    }


def _function(module: str) -> Callable[..., list[Figure]]:
    found: Callable[..., list[Figure]] = import_module(f"tests.bench.{module}").measure
    return found


def chosen(known: list[str], asked: list[str]) -> list[str]:
    """`peers` stands for everything that begins so. Raises: SystemExit for an unknown name."""
    names = []
    for word in asked or known:
        found = [name for name in known if name == word or name.startswith(f"{word}-")]
        if not found:
            raise SystemExit(f"no measure {word!r}; there are: {', '.join(known)}")
        names += [name for name in found if name not in names]
    return names


def run(name: str, measure: Measure) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="llamaleon-bench-") as scratch:
        start = time.perf_counter()
        figures = measure(Path(scratch))
    print(f"== {name}: {time.perf_counter() - start:.0f} s", flush=True)
    for figure in figures:
        goal = f"  (goal {figure.goal})" if figure.goal else ""
        print(f"   {figure.what}: {figure.measured}{goal}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "measures", nargs="*", help="all by default; `peers` for all of the peers; see --list"
    )
    parser.add_argument("--list", action="store_true", help="print the measures' names")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and .json")
    parser.add_argument(
        "--llama-server", type=Path, metavar="PATH", help=f"its binary; default ${LLAMA_SERVER}"
    )
    parser.add_argument("--gpu", action="store_true", help="peers with a 7 B-shaped model on a GPU instead")
    parser.add_argument("--quick", action="store_true", help="tiny: tries the harness, figures mean nothing")
    arguments = parser.parse_args()
    binary = arguments.llama_server or (
        Path(os.environ[LLAMA_SERVER]) if os.environ.get(LLAMA_SERVER) else None
    )
    if binary is not None and not binary.is_file():
        parser.error(f"--llama-server: there is no file {binary}")
    if arguments.quick and arguments.write:
        parser.error("--quick measures nothing that is worth writing")
    with tempfile.TemporaryDirectory(prefix="llamaleon-bench-") as made:
        options = Options(Path(made), binary, arguments.gpu, arguments.quick)
        known = measures(options)
        names = chosen(list(known), arguments.measures)
        if arguments.list:
            print("\n".join(names))
            return
        for name in names:
            figures = run(name, known[name])
            if arguments.write:
                report.write(name, figures, gpu=options.gpu)


if __name__ == "__main__":
    main()
