"""Rows to tokens to what a client is told, with rows made for it; and seeds among other requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine_process import EngineProcess

from llamaleon_server.engine.drawing import Drawing
from llamaleon_server.engine.postprocess import Postprocessor
from llamaleon_server.engine.protocol import Delta, Generate, Sampling
from llamaleon_server.engine.runner import SpanResult
from llamaleon_server.engine.scheduling.composition import Span
from llamaleon_server.engine.sequence import Sequence

SIZE, END = 40, 39
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PROMPT = [30, 31, 32]


def piece(token: int) -> bytes:
    return b"</s>" if token == END else LETTERS[token].encode()


# What drawing and telling need of a vocabulary: tokens 0 to 25 are letters.
VOCABULARY: Any = SimpleNamespace(size=SIZE, end_tokens=frozenset([END]), piece=piece, rendered=piece)


def rows(*tokens: int) -> NDArray[np.float32]:
    """Logits under which these tokens come next, by far."""
    logits = np.zeros((len(tokens), SIZE), np.float32)
    logits[np.arange(len(tokens)), tokens] = 30.0
    return logits


def told(says: list[int], draft: tuple[int, ...] = (), **fields: Any) -> tuple[Sequence, Delta]:
    """One pass: `draft` are the guesses, `says` what the model thinks comes at each place, one more."""
    fields.setdefault("sampling", Sampling(temperature=0.0))
    sequence = Sequence(Generate(id=1, prompt=PROMPT, **fields), PROMPT, 100)
    span = Span(sequence, start=2, count=1 + len(draft), outputs=1 + len(draft), draft=draft)
    result = SpanResult(span, rows(*says))
    (drawn,) = Drawing(VOCABULARY, 2).draw([result])
    assert not drawn.failed
    delta = Postprocessor(VOCABULARY).advance(result, drawn)
    assert delta is not None
    return sequence, delta


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_guesses_that_come_true_are_told_at_once(temperature: float) -> None:
    sampling = Sampling(temperature=temperature, seed=1)
    sequence, delta = told([0, 1, 2, 3], (0, 1, 2), sampling=sampling, logprobs=1)
    assert (delta.text, delta.tokens, delta.finish) == ("abcd", [0, 1, 2, 3], None)
    assert delta.logprobs is not None
    assert [entry.token_id for entry in delta.logprobs] == [0, 1, 2, 3]
    assert sequence.tokens == [*PROMPT, 0, 1, 2, 3]
    assert (sequence.drafted, sequence.accepted) == (3, 3)


def test_the_first_wrong_guess_ends_the_run() -> None:
    """What comes after it was computed for another text."""
    sequence, delta = told([0, 5, 2, 3], (0, 1, 2), logprobs=0)
    assert delta.tokens == [0, 5]
    assert len(delta.logprobs or []) == 2
    assert (sequence.drafted, sequence.accepted) == (3, 1)


def test_an_end_token_that_was_guessed_ends_it_all() -> None:
    sequence, delta = told([0, END, 2, 3], (0, END, 2))
    assert (delta.text, delta.tokens) == ("a", [0])
    assert delta.finish is not None
    assert (delta.finish.reason, delta.finish.completion_tokens) == ("stop", 2)
    assert sequence.tokens == [*PROMPT, 0, END]
    assert delta.finish.timings.accepted_tokens == 2


def test_an_end_token_is_told_with_the_end() -> None:
    _, delta = told([0, END], (0,), logprobs=1)
    assert (delta.tokens, len(delta.logprobs or [])) == ([0], 1)
    assert delta.finish is not None
    assert delta.finish.end is not None
    assert (delta.finish.end.token_id, delta.finish.end.piece) == (END, b"</s>")
    assert delta.finish.end.logprob == pytest.approx(0, abs=1e-6)
    assert told([0, END], (0,))[1].finish.end is None, "nobody asked"  # type: ignore[union-attr]  # it ended


def test_a_stop_string_ends_a_run_of_guesses() -> None:
    sequence, delta = told([0, 1, 2, 3, 4], (0, 1, 2, 3), stop=("bc",))
    assert (delta.text, delta.tokens) == ("a", [0])
    assert delta.finish is not None
    assert (delta.finish.stop_string, delta.finish.completion_tokens) == ("bc", 3)
    assert sequence.tokens == [*PROMPT, 0, 1, 2]


def test_the_limit_ends_a_run_of_guesses() -> None:
    sequence, delta = told([0, 1, 2, 3, 4], (0, 1, 2, 3), max_tokens=2)
    assert delta.tokens == [0, 1]
    assert delta.finish is not None
    assert (delta.finish.reason, delta.finish.completion_tokens) == ("length", 2)
    assert sequence.accepted == 2


def test_penalties_see_each_accepted_token() -> None:
    """The second row would give the first row's token again."""
    sampling = Sampling(temperature=0.0, presence_penalty=100.0)
    _, delta = told([7, 7], (7,), sampling=sampling)
    assert delta.tokens[0] == 7
    assert delta.tokens[1] != 7


def test_guesses_and_threads_change_no_draw() -> None:
    """The same seeds and rows: token by token in one thread, or all at once in four."""
    text = np.random.default_rng(0).normal(0, 2, (6, 30, SIZE)).astype(np.float32)

    def sequences() -> list[Sequence]:
        kinds: list[dict[str, Any]] = [{}, {"top_p": 0.7}, {"top_k": 5, "repeat_penalty": 1.3}]
        return [
            Sequence(
                Generate(id=n, prompt=PROMPT, sampling=Sampling(seed=n, **kinds[n % 3]), logprobs=2),
                PROMPT,
                99,
            )
            for n in range(6)
        ]

    def span(sequence: Sequence, draft: tuple[int, ...]) -> Span:
        return Span(sequence, len(sequence.tokens) - 1, 1 + len(draft), 1 + len(draft), draft)

    alone = sequences()
    slow = Drawing(VOCABULARY, 1)
    for place in range(30):
        results = [SpanResult(span(one, ()), text[n, place : place + 1]) for n, one in enumerate(alone)]
        for one, drawn in zip(alone, slow.draw(results), strict=True):
            one.tokens += drawn.tokens
    together = sequences()
    results = [SpanResult(span(one, tuple(alone[n].tokens[3:32])), text[n]) for n, one in enumerate(together)]
    for one, drawn in zip(alone, Drawing(VOCABULARY, 4).draw(results), strict=True):
        assert drawn.tokens == one.tokens[3:]
        assert len(drawn.scores) == 30


def test_a_bad_row_fails_its_own_sequence() -> None:
    bad = rows(1)
    bad[0, 9] = np.nan
    results = [
        SpanResult(Span(Sequence(Generate(id=n, prompt=PROMPT, logprobs=0), PROMPT, 99), 2, 1, 1), row)
        for n, row in enumerate((rows(1), bad, rows(2)))
    ]
    drawn = Drawing(VOCABULARY, 2).draw(results)
    assert [one.failed for one in drawn] == [False, True, False]
    assert [one.tokens for one in drawn] == [[1], [], [2]]


@pytest.fixture(scope="module")
def wide(stories: Path) -> Iterator[EngineProcess]:
    with EngineProcess(
        stories, threads=2, parallel_sequences=8, flash_attention=False, kv_type="f32", speculation=False
    ) as process:
        yield process


def test_a_seed_decides_among_seven_others(wide: EngineProcess) -> None:
    mine = Sampling(temperature=1.1, seed=7, top_p=0.95, frequency_penalty=0.3)
    others = [
        Sampling(seed=1),
        Sampling(temperature=0.0),
        Sampling(seed=7, top_k=3),
        Sampling(temperature=2.0, seed=3, min_p=0.1),
        Sampling(seed=4, repeat_penalty=1.3),
        Sampling(seed=5, logit_bias={300: 2.0}),
        Sampling(temperature=0.3, seed=6, top_p=0.5),
    ]
    alone = wide.generate("Once upon a time", max_tokens=60, sampling=mine, ignore_eos=True, logprobs=3)
    starts = ["Tom", "One day a dog", "Lily saw", "The sun", "A big", "She", "Once upon a time"]
    numbers = [
        wide.start(start, max_tokens=80, sampling=sampling, ignore_eos=True, logprobs=n or None)
        for n, (start, sampling) in enumerate(zip(starts, others, strict=True))
    ]
    numbers.insert(3, wide.start("Once upon a time", max_tokens=60, sampling=mine, ignore_eos=True))
    among = wide.wait(numbers)
    assert among[3].done.timings.sequences_in_batch > 4
    assert among[3].tokens == alone.tokens
    assert len({tuple(answer.tokens[:60]) for answer in among}) == 8
