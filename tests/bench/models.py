"""Models and adapters that the benchmarks make on the spot."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from tests.bench.options import Options
from tests.lora import LINEARS, random_lora
from tests.tiny.speed_model import HALF_BILLION, SEVEN_BILLION, SMALL, speed_model

# F32, as our trainer's adapters are, and what both our converter and llama.cpp's write of F32 checkpoints.
ADAPTER_TYPE = "F32"
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "rank 8 on query and value": (8, ("attn_q", "attn_v")),
    "rank 16 on every linear layer": (16, LINEARS),
}
NARROW, WIDE = KINDS


def shaped(options: Options, quantization: str) -> Path:
    """A random model in the shape of a 0.5 B one, of a 7 B one for the GPU."""
    shape = SMALL if options.quick else SEVEN_BILLION if options.gpu else HALF_BILLION
    path = options.made / f"{'small' if options.quick else shape_name(options)}-{quantization.lower()}.gguf"
    return path if path.exists() else speed_model(path, replace(shape, quantization=quantization))


def shape_name(options: Options) -> str:
    return "seven-b" if options.gpu else "half-b"


def shape_title(options: Options) -> str:
    return "small" if options.quick else "7 B-shaped" if options.gpu else "0.5 B-shaped"


def adapters(folder: Path, base: Path, kind: str, count: int) -> list[Path]:
    """Files of one kind that differ in one number each: random weights for each would take a minute."""
    rank, targets = KINDS[kind]
    stem = f"rank{rank}"
    folder.mkdir(exist_ok=True)
    first = random_lora(
        base, folder / f"{stem}-0.gguf", seed=1, rank=rank, targets=targets, dtype=ADAPTER_TYPE
    )
    content = bytearray(first.read_bytes())
    paths = [first]
    for number in range(1, count):
        content[-16] = number  # low byte of a number's mantissa
        paths.append(folder / f"{stem}-{number}.gguf")
        paths[-1].write_bytes(content)
    return paths


def prompts(count: int, words: int, seed: int) -> list[str]:
    """Made-up texts that share no beginning."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"

    def word() -> str:
        return "".join(rng.choice(letters) for _ in range(rng.randint(3, 7)))

    return [" ".join(word() for _ in range(words)) for _ in range(count)]
