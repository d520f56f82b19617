"""What a job is estimated to take of memory, before its trainer starts."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from llamaleon_convert.errors import ConvertError
from llamaleon_server.residents.memory import free_gpu_bytes
from llamaleon_server.residents.room import free_ram
from llamaleon_trainer.job import PreferenceRow, Row, read_spec

log = logging.getLogger(__name__)

CUDA_CONTEXT_BYTES = 600 << 20  # of the driver and its kernels, in every process that uses a GPU


def needed_bytes(directory: Path, *, gpu: bool) -> int | None:
    """Of the GPU, or of RAM; None where nobody can tell. Blocks: it reads all rows."""
    from llamaleon_convert.header import read_header
    from llamaleon_trainer.estimate import estimate

    spec = read_spec(directory)
    try:
        header = read_header(Path(spec.base))
    except (OSError, ConvertError) as error:  # a Hugging Face directory: the trainer will see
        log.debug("%s: no estimate: %s", directory.name, error)
        return None
    on_gpu = gpu and spec.device != "cpu"
    found = estimate(
        header,
        spec,
        _lengths(directory, spec.method),
        device="cuda" if on_gpu else "cpu",
        free_bytes=free_bytes(gpu=on_gpu),
    ).memory_bytes
    return found + CUDA_CONTEXT_BYTES if on_gpu else found


def free_bytes(*, gpu: bool) -> int | None:
    """What a trainer finds there as things are now; None where nobody can tell. Blocks."""
    return free_gpu_bytes() if gpu else free_ram()


def _lengths(directory: Path, method: str) -> list[int | tuple[int, ...]]:
    """Of all rows, in tokens; of preference rows those of both answers."""
    lines = (directory / "train.jsonl").read_bytes().splitlines()
    if method == "dpo":
        pairs = [msgspec.json.decode(line, type=PreferenceRow) for line in lines]
        return [(len(pair.chosen.tokens), len(pair.rejected.tokens)) for pair in pairs]
    return [len(msgspec.json.decode(line, type=Row).tokens) for line in lines]
