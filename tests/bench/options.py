"""What the benchmarks were asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LLAMA_SERVER = "LLAMALEON_BENCH_LLAMA_SERVER"
THREADS = 2


@dataclass(frozen=True)
class Options:
    """`made` is a folder that the measures of one run share: models and adapters are made there once.

    `quick` shrinks everything so that the harness can be tried; its figures mean nothing.
    """

    made: Path
    llama_server: Path | None = None
    gpu: bool = False
    quick: bool = False
