"""Milliseconds to draw the next token of 8 sequences from 152,000 logits each, by what a client asks for.

usage: python -m tests.bench sampling
The comparison is llama.cpp's own sampler chain on the same logits, with its wide top-k (1,024) before top-p,
which is fast but cuts a nucleus that is wider than that; ours is exact.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray
from tests.bench.figures import Figure
from tests.tiny.speed_model import Shape, speed_model

from llamaleon_server.binding import library
from llamaleon_server.binding.batch import Batch
from llamaleon_server.binding.cores import available_cores
from llamaleon_server.binding.loading import Loaded, LoadOptions, open_model
from llamaleon_server.engine.drawing import Drawing
from llamaleon_server.engine.protocol import Generate, Sampling
from llamaleon_server.engine.runner import SpanResult
from llamaleon_server.engine.scheduling.composition import Span
from llamaleon_server.engine.sequence import Sequence

SEQUENCES, RUNS = 8, 15
WIDE_TOP_K = 1024
NARROW_SHAPE = Shape(hidden=64, layers=1, ffn=128, heads=2, kv_heads=1, context=512)
CHAINS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 1, as OpenAI's default": {},
    "top_p 0.9": {"top_p": 0.9},
    "top_k 40, top_p 0.95, min_p 0.05": {"top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "min_p 0.05": {"min_p": 0.05},
    "frequency and presence penalty": {"frequency_penalty": 0.5, "presence_penalty": 0.5},
    "repeat penalty": {"repeat_penalty": 1.1},
    "logit_bias of 100 tokens": {"logit_bias": dict.fromkeys(range(100), -5.0)},
}
LOGPROBS = {"greedy, logprobs 0": 0, "greedy, top_logprobs 5": 5, "greedy, top_logprobs 20": 20}


def measure(scratch: Path) -> list[Figure]:
    figures = []
    with _loaded(scratch) as loaded:
        _evaluate(loaded)
        logits = loaded.context.logits(SEQUENCES)
        _like_a_language_model(logits)
        for what, fields in CHAINS.items():
            theirs = _native_ms(loaded, fields)
            figures.append(_figure(what, _ours_ms(loaded, fields, None), theirs))
        for what, alternatives in LOGPROBS.items():
            figures.append(_figure(what, _ours_ms(loaded, {"temperature": 0.0}, alternatives), None))
        logits[:] = np.random.default_rng(0).standard_normal(logits.shape)
        what = "top_p 0.9 of a flat distribution: 93,000 tokens"
        figures.append(_figure(what, _ours_ms(loaded, {"top_p": 0.9}, None), None))
    return figures


def _figure(what: str, ours: tuple[float, float], theirs: float | None) -> Figure:
    alone, threads = ours
    against = "" if theirs is None else f"; llama.cpp's samplers {theirs:.1f} ms"
    return Figure(
        f"drawing for {SEQUENCES} sequences, {what}",
        f"{threads:.2f} ms ({alone:.2f} ms in one thread{against})",
        raw={"threads_ms": threads, "one_thread_ms": alone} | ({"native_ms": theirs} if theirs else {}),
    )


@contextmanager
def _loaded(scratch: Path) -> Iterator[Loaded]:
    library.start()
    options = LoadOptions(
        path=speed_model(scratch / "narrow.gguf", NARROW_SHAPE),
        gpu_layers=None,
        context_tokens=256,
        kv_tokens=None,
        running_sequences=SEQUENCES,
        batch_tokens=64,
        threads=available_cores(),
        flash_attention=False,
        kv_type="f32",
        use_mmap=True,
    )
    loaded = open_model(options)
    try:
        yield loaded
    finally:
        loaded.context.close()
        loaded.model.close()


def _evaluate(loaded: Loaded) -> None:
    batch = Batch(64)
    for sequence in range(SEQUENCES):
        batch.add([300 + sequence], 0, sequence, 1)
    assert loaded.context.decode(batch)


def _like_a_language_model(logits: NDArray[np.float32]) -> None:
    """In place: a wide heap of unlikely tokens, and some hundred that stand out."""
    rng = np.random.default_rng(0)
    logits[:] = rng.standard_normal(logits.shape) * 2.5
    for row in logits:
        row[rng.integers(0, len(row), 200)] += np.linspace(0, 12, 200)


def _median_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def _ours_ms(loaded: Loaded, fields: dict[str, Any], alternatives: int | None) -> tuple[float, float]:
    """In one thread and in as many as there are cores."""
    logits = loaded.context.logits(SEQUENCES)
    results = []
    for number in range(SEQUENCES):
        request = Generate(
            id=number, prompt=[1, 2], sampling=Sampling(seed=1, **fields), logprobs=alternatives
        )
        span = Span(Sequence(request, [1, 2], 512), start=0, count=2, outputs=1)
        results.append(SpanResult(span, logits[number : number + 1]))
    vocabulary = loaded.model.vocabulary
    alone, threads = Drawing(vocabulary, 1), Drawing(vocabulary, available_cores())
    return _median_ms(lambda: alone.draw(results)), _median_ms(lambda: threads.draw(results))


def _native_ms(loaded: Loaded, fields: dict[str, Any]) -> float:
    size = loaded.model.vocabulary.size
    chains = [_native_chain(Sampling(**fields), size) for _ in range(SEQUENCES)]

    def draw() -> None:
        for number, chain in enumerate(chains):
            native.llama_sampler_sample(chain, loaded.context.handle, number)

    elapsed = _median_ms(draw)
    for chain in chains:
        native.llama_sampler_free(chain)
    return elapsed


def _native_chain(asked: Sampling, size: int) -> Any:
    params = native.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = native.llama_sampler_chain_init(params)
    bias = asked.logit_bias
    entries = (native.llama_logit_bias * len(bias))(*bias.items())
    top_k = asked.top_k or (WIDE_TOP_K if asked.top_p < 1.0 else 0)
    frequency, presence, repeat = asked.frequency_penalty, asked.presence_penalty, asked.repeat_penalty
    samplers = [
        bias and native.llama_sampler_init_logit_bias(size, len(entries), entries),
        (frequency or presence or repeat != 1.0)
        and native.llama_sampler_init_penalties(size, 64, repeat, frequency, presence),
        top_k and native.llama_sampler_init_top_k(top_k),
        asked.top_p < 1.0 and native.llama_sampler_init_top_p(asked.top_p, 1),
        asked.min_p and native.llama_sampler_init_min_p(asked.min_p, 1),
        asked.temperature and native.llama_sampler_init_temp(asked.temperature),
        native.llama_sampler_init_dist(1) if asked.temperature else native.llama_sampler_init_greedy(),
    ]
    for sampler in filter(None, samplers):
        native.llama_sampler_chain_add(chain, sampler)
    return chain
