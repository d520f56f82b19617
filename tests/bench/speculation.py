"""What guessing ahead by prompt lookup gains where an answer repeats its prompt, and costs where it does not.

usage: python -m tests.bench speculation
Two engines run the same requests in turns, one of them without guesses. The 0.5 B-shaped model counts: after
every token it says the one whose id follows. A prompt of pieces of that sequence, each in another place, thus
makes an answer that copies a piece at a time, as extraction does; a prompt without them makes one in which
nothing comes twice.
"""

from __future__ import annotations

import random
import statistics
from pathlib import Path

from tests.bench.figures import Figure
from tests.data import NANO
from tests.engine_process import Answer, EngineProcess
from tests.tiny.speed_model import Shape, speed_model

from llamaleon_server.engine.protocol import Sampling

ROUNDS = 3
TOKENS = 96
PIECE = 12  # tokens copied in one go; an answer of many short fields
FIRST_WORD, WORDS = 20_000, 600  # ids of the pieces
GREEDY = Sampling(temperature=0.0)
STORY = "Había una vez un ratón que vivía en un bosque. El ratón tenía"


def measure(scratch: Path) -> list[Figure]:
    shaped = speed_model(scratch / "half-b-counts.gguf", Shape(quantization="Q8_0"), counts=True)
    figures = []
    with EngineProcess(shaped, speculation=False) as plain, EngineProcess(shaped) as guessing:
        engines = plain, guessing
        copied = _compare(engines, _pieces(), GREEDY, 1)
        figures.append(_figure("1 stream, 0.5 B-shaped Q8_0, the answer copies its prompt", copied))
        copied = _compare(engines, _pieces(), GREEDY, 8)
        figures.append(_figure("8 streams, 0.5 B-shaped Q8_0, the answers copy their prompt", copied))
        fresh = _compare(engines, [100_000], GREEDY, 1)
        figures.append(_figure("1 stream, 0.5 B-shaped Q8_0, nothing comes twice", fresh, "no slower"))
    with EngineProcess(NANO, speculation=False) as plain, EngineProcess(NANO) as guessing:
        story = _compare((plain, guessing), STORY, Sampling(temperature=1.0, seed=1), 1)
        figures.append(_figure("1 stream, nano, a story at temperature 1", story))
    return figures


def _pieces() -> list[int]:
    """The sequence in pieces, in another order; it ends where the first begins."""
    starts = list(range(FIRST_WORD, FIRST_WORD + WORDS, PIECE))
    random.Random(0).shuffle(starts)
    return [start + place for start in starts for place in range(PIECE)] + [FIRST_WORD]


Speeds = tuple[list[float], list[float], list[Answer]]


def _compare(
    engines: tuple[EngineProcess, EngineProcess], prompt: str | list[int], sampling: Sampling, streams: int
) -> Speeds:
    """Tokens per second without and with guesses, round by round, and the answers with them."""
    rates: tuple[list[float], list[float]] = ([], [])
    guessed = []
    for number in range(ROUNDS + 1):
        for engine, into in zip(engines, rates, strict=True):
            requests = [
                engine.start(prompt, max_tokens=TOKENS, sampling=sampling, ignore_eos=True)
                for _ in range(streams)
            ]
            answers = engine.wait(requests)
            if number:  # the first fills the caches
                slowest = max(answer.done.timings.decode_s for answer in answers)
                into.append(streams * (TOKENS - 1) / slowest)
                guessed += answers if engine is engines[1] else []
    return *rates, guessed


def _figure(what: str, speeds: Speeds, goal: str | None = None) -> Figure:
    plain, guessing, answers = speeds
    ratio = statistics.median(fast / slow for slow, fast in zip(plain, guessing, strict=True))
    drafted = sum(answer.done.timings.drafted_tokens for answer in answers)
    accepted = sum(answer.done.timings.accepted_tokens for answer in answers)
    return Figure(
        f"guessing ahead, {what}",
        f"{ratio:.2f} x ({accepted} of {drafted} guesses right)",
        goal,
        raw={
            "ratio": ratio,
            "plain_tokens_per_s": statistics.median(plain),
            "guessing_tokens_per_s": statistics.median(guessing),
            "drafted_tokens": drafted,
            "accepted_tokens": accepted,
        },
    )
