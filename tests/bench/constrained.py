"""What a grammar costs where the model has a choice, and gains where it has none.

usage: python -m tests.bench constrained
Each round asks for free text and for constrained text of as many tokens, in turns, from one engine without
guesses. Text without quotes is the worst case: nearly every token is allowed, so that every draw computes a
mask of 152,000 bits and applies it, and no pass is saved. An extraction is the other case: names, quotes and
commas are certain, and take no pass of their own.
"""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

import llama_cpp.llama_cpp as native
import numpy as np
from tests.bench.figures import Figure
from tests.bench.models import shape_title, shaped
from tests.bench.options import Options
from tests.engine_process import EngineProcess

from llamaleon_server.binding import library
from llamaleon_server.binding.vocabulary import Vocabulary
from llamaleon_server.chat.ask import Form
from llamaleon_server.chat.forms import grammar_of
from llamaleon_server.engine.protocol import Sampling
from llamaleon_server.engine.sampling.compiling import Compiler, GrammarRefused
from llamaleon_server.engine.sampling.grammar import Grammar
from llamaleon_server.engine.sampling.sampler import Sampler, SamplerSettings

ROUNDS, TOKENS, DRAWS = 5, 32, 200
PROMPT = list(range(300, 332))
TEXT = Form(kind="regex", value=r'[^"\\\x00-\x1f]*')  # what stands in a JSON string
FIELDS = ("customer", "product", "quantity_ordered", "delivery_country", "is_urgent", "payment_status")
CHOICES = {"enum": ["unknown", "first choice", "second choice"]}
EXTRACTION = Form(
    kind="json_schema",
    value={
        "type": "object",
        "properties": dict.fromkeys(FIELDS, CHOICES),
        "required": list(FIELDS),
        "additionalProperties": False,
    },
)


def measure(scratch: Path, options: Options) -> list[Figure]:
    model = shaped(options, "Q8_0")
    mask_ms, figures = _masks(model)
    with EngineProcess(model, speculation=False) as engine:
        for streams in (1, 8):
            what = f"{streams} stream{'s' * (streams > 1)}, {shape_title(options)} Q8_0, temperature 1"
            rates = _rates(engine, TEXT, streams, TOKENS)
            share = mask_ms * statistics.median(rates[0]) / 1e3
            figures.append(
                Figure(
                    f"the masks' share of the time that free text takes, one after the other, {what}",
                    f"{share:.1%}",
                    "under 5 %",
                    raw={"share": share},
                )
            )
            figures.append(_figure(f"text without quotes, {what}", rates, "at least 0.95"))
            whole = engine.generate(PROMPT, sampling=Sampling(seed=1), grammar=grammar_of(EXTRACTION))
            rates = _rates(engine, EXTRACTION, streams, whole.done.completion_tokens)
            figures.append(_figure(f"an extraction of {len(FIELDS)} fields, {what}", rates, "faster"))
    return figures


# ---------------------------------------------------------------- one draw


def _masks(model: Path) -> tuple[float, list[Figure]]:
    """Milliseconds that a mask adds to one draw; and how long the vocabulary takes to be read, once."""
    library.start()
    params = native.llama_model_default_params()
    params.vocab_only = True
    handle = native.llama_model_load_from_file(str(model).encode(), params)
    vocabulary = Vocabulary(native.llama_model_get_vocab(handle))
    compiler = Compiler(vocabulary, lambda work: work())
    began = time.perf_counter()
    grammar = _compiled(compiler, grammar_of(TEXT))
    first_s = time.perf_counter() - began
    free, masked = _draw_ms(vocabulary.size, None), _draw_ms(vocabulary.size, grammar)
    compiler.close()
    native.llama_model_free(handle)
    return masked - free, [
        Figure(
            f"one draw from {vocabulary.size:,} logits at temperature 1 where a grammar allows nearly all",
            f"{masked:.2f} ms (free {free:.2f} ms)",
            raw={"masked_ms": masked, "free_ms": free},
        ),
        Figure(
            "first grammar of an engine, its vocabulary read", f"{first_s:.2f} s", raw={"first_s": first_s}
        ),
    ]


def _compiled(compiler: Compiler, text: str) -> Grammar:
    results: list[Grammar | GrammarRefused] = []
    done = threading.Event()

    def take(result: Grammar | GrammarRefused) -> None:
        results.append(result)
        done.set()

    compiler.compile(text, lambda: True, take)
    done.wait()
    assert isinstance(results[0], Grammar), results[0]
    return results[0]


def _draw_ms(size: int, grammar: Grammar | None) -> float:
    settings = SamplerSettings(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)
    sampler = Sampler(settings, [], grammar)
    row = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    times = []
    for _ in range(DRAWS):
        began = time.perf_counter()
        sampler.draw(row)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


# ---------------------------------------------------------------- streams

Rates = tuple[list[float], list[float]]


def _rates(engine: EngineProcess, form: Form, streams: int, tokens: int) -> Rates:
    """Tokens per second, free and constrained, round by round."""
    grammar = grammar_of(form)
    rates: Rates = ([], [])
    for number in range(ROUNDS + 1):
        for constraint, into in zip((None, grammar), rates, strict=True):
            began = time.perf_counter()
            requests = [
                engine.start(
                    [*PROMPT, 400 + stream],
                    max_tokens=tokens,
                    sampling=Sampling(seed=1),
                    ignore_eos=True,
                    grammar=constraint,
                )
                for stream in range(streams)
            ]
            done = [answer.done.completion_tokens for answer in engine.wait(requests)]
            if number:  # the first compiles the grammar and fills the cache
                into.append(sum(done) / (time.perf_counter() - began))
    return rates


def _figure(what: str, rates: Rates, goal: str) -> Figure:
    free, constrained = rates
    ratios = [b / a for a, b in zip(free, constrained, strict=True)]
    ratio = statistics.median(ratios)
    a, b = statistics.median(free), statistics.median(constrained)
    return Figure(
        f"constrained over free, {what}",
        f"{ratio:.2f} ({b:.3g} / {a:.3g} tokens/s; rounds {min(ratios):.2f} to {max(ratios):.2f})",
        goal,
        raw={
            "ratio": ratio,
            "ratio_least": min(ratios),
            "ratio_most": max(ratios),
            "free_tokens_per_s": a,
            "constrained_tokens_per_s": b,
        },
    )
