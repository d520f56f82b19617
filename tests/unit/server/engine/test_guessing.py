"""Guesses change no answer: engines stepped by hand with and without them, and one real process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.engine_process import Answer, EngineProcess
from tests.tiny import kinds
from tests.tiny.speed_model import Shape, speed_model

from llamaleon_server.binding import library
from llamaleon_server.binding.loading import LoadOptions, open_model
from llamaleon_server.engine import engine as engine_module
from llamaleon_server.engine import protocol
from llamaleon_server.engine.engine import Engine
from llamaleon_server.engine.options import EngineOptions
from llamaleon_server.engine.protocol import Generate, Sampling
from llamaleon_server.engine.scheduling.speculate import Speculator

START = "Once upon a time"
STORY = "Once upon a time, there was a little girl named Lily. She saw a big red ball. " * 3
GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=0.8, seed=11)


class DearPasses:
    """Every guess is worth its time, as if passes cost the same however many tokens they take."""

    def predict(self, tokens: int, outputs: int) -> float | None:
        return 1.0


class Eager(Speculator):
    """Learns nothing of what passes take here: tests must not depend on that."""

    def __init__(self, _cost: object) -> None:
        super().__init__(DearPasses())

    def observe(self, tokens: int, outputs: int, seconds: float) -> None:
        """Every pass stays equally dear."""


class Stepped:
    """An engine in this process, as exact as llama.cpp can be, whose answers are collected."""

    def __init__(self, path: Path, *, guesses: bool) -> None:
        library.start()
        self._loaded = open_model(
            LoadOptions(
                path=path,
                gpu_layers=0,
                context_tokens=None,
                kv_tokens=None,
                running_sequences=8,
                batch_tokens=512,
                threads=1,
                flash_attention=False,
                kv_type="f32",
                use_mmap=True,
                mixing=False,
            )
        )
        options = EngineOptions(model_path=str(path), speculation=guesses, mixing=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine_module, "Speculator", Eager)
            self.engine = Engine(self._loaded, options, self._take)
        self._ids = itertools.count(1)
        self.answers: dict[int, Answer] = {}

    def close(self) -> None:
        self.engine.close()
        self._loaded.context.close()
        self._loaded.model.close()

    def _take(self, message: protocol.FromEngine) -> None:
        assert isinstance(message, protocol.Step), message
        for delta in message.deltas:
            self.answers[delta.id].add(delta)

    def start(self, prompt: str | list[int], **fields: Any) -> int:
        vocabulary = self._loaded.model.vocabulary
        if isinstance(prompt, str):
            prompt = vocabulary.tokenize(prompt, add_special=True, parse_special=True)
        number = next(self._ids)
        self.answers[number] = Answer()
        self.engine.generate(Generate(id=number, prompt=prompt, **fields), prompt)
        return number

    def generate(self, prompt: str | list[int], **fields: Any) -> Answer:
        number = self.start(prompt, **fields)
        self.run()
        return self.answers[number]

    def run(self) -> None:
        while self.engine.has_work:
            self.engine.step()


@contextmanager
def both(path: Path) -> Iterator[tuple[Stepped, Stepped]]:
    """Without guesses and with them."""
    engines = Stepped(path, guesses=False), Stepped(path, guesses=True)
    try:
        yield engines
    finally:
        for engine in engines:
            engine.close()


@pytest.fixture(scope="module")
def engines(stories: Path) -> Iterator[tuple[Stepped, Stepped]]:
    with both(stories) as pair:
        yield pair


def same(engines: tuple[Stepped, Stepped], prompt: str, **fields: Any) -> Answer:
    """The answer of the guessing engine, after checking that it is the other's."""
    expected, answer = (engine.generate(prompt, **fields) for engine in engines)
    assert answer.tokens == expected.tokens
    assert answer.text == expected.text
    for one, other in zip(answer.logprobs, expected.logprobs, strict=True):
        assert (one.token_id, one.piece) == (other.token_id, other.piece)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    ours, theirs = answer.done, expected.done
    assert (ours.reason, ours.completion_tokens) == (theirs.reason, theirs.completion_tokens)
    assert ours.stop_string == theirs.stop_string
    assert (theirs.timings.drafted_tokens, theirs.timings.accepted_tokens) == (0, 0)
    return answer


@pytest.mark.parametrize("sampling", [GREEDY, WARM, Sampling(seed=3, top_p=0.9, repeat_penalty=1.1)])
def test_the_same_tokens(engines: tuple[Stepped, Stepped], sampling: Sampling) -> None:
    answer = same(engines, STORY, max_tokens=250, sampling=sampling, logprobs=2, ignore_eos=True)
    timings = answer.done.timings
    assert 0 < timings.accepted_tokens <= timings.drafted_tokens
    assert answer.deltas <= answer.done.completion_tokens - timings.accepted_tokens


# Loops for ever: whatever follows is guessed from what was.
LOOP = Sampling(temperature=0.0, logit_bias={400: 1000.0})


def test_max_tokens_is_kept_inside_a_run(engines: tuple[Stepped, Stepped]) -> None:
    accepted = 0
    for most in range(20, 40):
        answer = same(engines, START, max_tokens=most, sampling=LOOP)
        assert answer.done.completion_tokens == most
        accepted += answer.done.timings.accepted_tokens
    assert accepted > 20


def test_a_stop_string_inside_a_run_of_guesses(engines: tuple[Stepped, Stepped]) -> None:
    asked: dict[str, Any] = {"max_tokens": 140, "sampling": GREEDY, "ignore_eos": True}
    whole = same(engines, STORY, **asked)
    assert whole.done.timings.accepted_tokens > 0
    for begin in range(40, len(whole.text) - 6, 30):
        stop = whole.text[begin : begin + 5]
        answer = same(engines, STORY, **asked, stop=(stop,), logprobs=0)
        assert answer.text == whole.text[: whole.text.index(stop)]


def test_several_at_once_and_one_that_leaves(engines: tuple[Stepped, Stepped]) -> None:
    _, guessing = engines
    asked = [{"max_tokens": 90, "sampling": s, "ignore_eos": True} for s in (GREEDY, WARM)]
    alone = [guessing.generate(STORY, **fields) for fields in asked]
    leaving = guessing.start(STORY, sampling=LOOP)
    numbers = [guessing.start(STORY, **fields) for fields in asked]
    while guessing.answers[leaving].deltas < 4:
        guessing.engine.step()
    guessing.engine.cancel(leaving)
    guessing.run()
    assert guessing.answers[leaving].finish is None
    for number, answer in zip(numbers, alone, strict=True):
        assert guessing.answers[number].tokens == answer.tokens
        assert guessing.answers[number].done.timings.accepted_tokens > 0
    status = guessing.engine.status(0)
    assert status.running == 0
    assert 0 < status.kv_used_tokens <= status.prefix.tokens, "some are shared"


def test_what_was_guessed_wrongly_is_not_cached(engines: tuple[Stepped, Stepped]) -> None:
    """A continued answer reuses what it should, and goes on as if nothing had been guessed."""
    answer = same(engines, STORY, max_tokens=150, sampling=GREEDY, ignore_eos=True)
    more = same(engines, STORY + answer.text, max_tokens=60, sampling=GREEDY, ignore_eos=True)
    assert more.done.cached_tokens > 100


# Three tokens in random order: whatever they are, they stood there before, and what follows is a toss.
DICE = Sampling(temperature=20.0, seed=2, logit_bias=dict.fromkeys((300, 301, 302), 3000.0))


@pytest.mark.parametrize("write", [kinds.gemma2, kinds.mamba, kinds.jamba])
def test_each_kind_of_memory(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    """A sliding window is cut back and goes on; a recurrent state cannot be, and is not guessed for."""
    with both(write(tmp_path / "model.gguf")) as pair:
        plain, guessing = (
            engine.generate([300, 301, 302] * 8, max_tokens=200, sampling=DICE) for engine in pair
        )
    assert guessing.tokens == plain.tokens
    assert len(guessing.tokens) == 200
    timings = guessing.done.timings
    if write is kinds.gemma2:
        assert 0 < timings.accepted_tokens < timings.drafted_tokens
    else:
        assert timings.drafted_tokens == 0


def test_a_real_process_guesses_where_it_pays(tmp_path: Path) -> None:
    """Here a pass costs mostly the weights, which it reads once for any number of tokens."""
    shape = Shape(hidden=512, layers=2, ffn=2048, heads=4, kv_heads=2, vocabulary=50_000, context=2048)
    model = speed_model(tmp_path / "counts.gguf", shape, counts=True)
    copied = [*range(2000, 2400), 2000]
    with EngineProcess(model, threads=1) as engine:
        for _ in range(10):  # it must see first what passes cost
            answer = engine.generate(copied, max_tokens=60, sampling=GREEDY, ignore_eos=True)
            assert answer.tokens == list(range(2001, 2061))
            if answer.done.timings.accepted_tokens > 20:
                break
        assert answer.deltas < 40
        fresh = engine.generate([10_000], max_tokens=60, sampling=GREEDY, ignore_eos=True)
        assert fresh.tokens == list(range(10_001, 10_061))
        assert fresh.done.timings.drafted_tokens == 0
