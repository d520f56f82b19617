"""Tokens per second of the engine alone: one stream, eight, eight under adapters; and an adapter's arrival.

usage: python -m tests.bench.engine_streams [MODEL.gguf] [--threads N]
Without a model it makes two of random weights in the shape of a 0.5 B model, in Q4_0 and in Q8_0. The gain
of batching depends on llama.cpp's kernels: on a CPU with AVX-512 its Q8_0 kernel is bound by arithmetic even
for one token, so that eight streams gain little there; Q4_0, F16 and F32 gain two to three times.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.engine_process import EngineProcess
from tests.lora import random_lora
from tests.tiny.speed_model import Shape, speed_model

from llamaleon_server.engine.protocol import AdapterUse

PROMPT_TOKENS, NEW_TOKENS, STREAMS, ADAPTERS = 16, 48, 8, 4


def rate(engine: EngineProcess, streams: int, adapters: list[str]) -> float:
    """Decoded tokens per second of all streams; stream i runs under adapter i modulo their number."""
    numbers = []
    for stream in range(streams):
        uses = (AdapterUse(adapters[stream % len(adapters)]),) if adapters else ()
        prompt = [300 + 7 * stream + place for place in range(PROMPT_TOKENS)]
        numbers.append(
            engine.start(prompt, adapters=uses, max_tokens=NEW_TOKENS, ignore_eos=True, cache_prompt=False)
        )
    slowest = max(answer.done.timings.decode_s for answer in engine.wait(numbers))
    return streams * (NEW_TOKENS - 1) / slowest


def best(engine: EngineProcess, streams: int, adapters: list[str]) -> float:
    """The best of three: other programs on the machine can only make it slower."""
    return max(rate(engine, streams, adapters) for _ in range(3))


def arrival_ms(engine: EngineProcess, key: str, path: Path) -> tuple[float, float]:
    """Milliseconds to load an adapter, and from its load message to the first token under it."""
    began = time.perf_counter()
    loaded = engine.load(key, path)
    number = engine.start([300] * PROMPT_TOKENS, adapters=(AdapterUse(key),), max_tokens=2)
    while engine.answers[number].deltas == 0:
        engine.receive()
    elapsed = time.perf_counter() - began
    engine.wait([number])
    return loaded.load_s * 1e3, elapsed * 1e3


def measure(model: Path, folder: Path, threads: int | None) -> None:
    with EngineProcess(model, threads=threads, context_tokens=1024, parallel_sequences=STREAMS) as engine:
        print(f"{engine.ready.n_params / 1e6:.0f} M parameters, loaded in {engine.ready.load_s:.1f} s")
        rate(engine, 1, [])
        one, eight = best(engine, 1, []), best(engine, STREAMS, [])
        print(f"1 stream   {one:8.1f} tokens/s")
        print(f"8 streams  {eight:8.1f} tokens/s, {eight / one:.2f} times")
        keys = [f"adapter{number}" for number in range(ADAPTERS)]
        for number, key in enumerate(keys):
            path = random_lora(model, folder / f"{key}.gguf", seed=number, rank=16)
            loaded, first = arrival_ms(engine, key, path)
            size = path.stat().st_size / 1e6
            print(f"{key}: {size:.0f} MB loaded in {loaded:.0f} ms, first token after {first:.0f} ms")
        print(f"8 streams under one adapter   {best(engine, STREAMS, keys[:1]):8.1f} tokens/s")
        print(f"8 streams under four adapters {best(engine, STREAMS, keys):8.1f} tokens/s, in turns")


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokens per second of the engine alone.")
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model:
            measure(arguments.model, Path(folder), arguments.threads)
            return
        for kind in ("Q4_0", "Q8_0"):
            print(kind)
            model = speed_model(Path(folder) / f"{kind}.gguf", Shape(quantization=kind))
            measure(model, Path(folder), arguments.threads)
            model.unlink()


if __name__ == "__main__":
    main()
