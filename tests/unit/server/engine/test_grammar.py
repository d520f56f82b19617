"""Grammars on real vocabularies, draws under them, and requests that have one among others that have none.

More vocabularies: $LLAMALEON_TEST_VOCABULARIES is a folder of llama.cpp's `models/ggml-vocab-*.gguf`.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.data import DATA, NANO

from llamaleon_server.binding import library
from llamaleon_server.binding.grammar import grammar_tokenizer
from llamaleon_server.binding.vocabulary import Vocabulary
from llamaleon_server.engine.sampling.compiling import Compiler, GrammarRefused
from llamaleon_server.engine.sampling.grammar import DeadEnd, Grammar
from llamaleon_server.engine.sampling.sampler import Sampler, SamplerSettings

STORIES = DATA / "stories260K/stories260K-f32.gguf"
MORE = Path(os.environ.get("LLAMALEON_TEST_VOCABULARIES", "nowhere"))
PATHS = [NANO, *([STORIES] if STORIES.exists() else []), *sorted(MORE.glob("ggml-vocab-*.gguf"))]
EMBEDDING_ONLY = ("ggml-vocab-bert-bge", "ggml-vocab-nomic-bert-moe")  # WPM and UGM: they spell no byte
GENERATING = [path for path in PATHS if path.stem not in EMBEDDING_ONLY]
RECORD = '{"name": "José \\"Ñandú\\"\\n", "años": [1, -2.5e3], "日本": {"ok": true, "none": null}}'
Row = NDArray[np.float32]


@contextmanager
def vocabulary_of(path: Path) -> Iterator[Vocabulary]:
    library.start()
    params = native.llama_model_default_params()
    params.vocab_only = True
    model = native.llama_model_load_from_file(str(path).encode(), params)
    try:
        yield Vocabulary(native.llama_model_get_vocab(model))
    finally:
        native.llama_model_free(model)


@contextmanager
def compiler_of(vocabulary: Vocabulary) -> Iterator[Compiler]:
    compiler = Compiler(vocabulary, lambda work: work())
    try:
        yield compiler
    finally:
        compiler.close()


def compiled(compiler: Compiler, text: str) -> Grammar:
    """Raises: GrammarRefused."""
    done = threading.Event()
    results: list[Grammar | GrammarRefused] = []

    def take(result: Grammar | GrammarRefused) -> None:
        results.append(result)
        done.set()

    compiler.compile(text, lambda: True, take)
    assert done.wait(60)
    if isinstance(results[0], GrammarRefused):
        raise results[0]
    return results[0]


@pytest.fixture(scope="module")
def nano() -> Iterator[Vocabulary]:
    with vocabulary_of(NANO) as vocabulary:
        yield vocabulary


@pytest.fixture(scope="module")
def compiler(nano: Vocabulary) -> Iterator[Compiler]:
    with compiler_of(nano) as compiler:
        yield compiler


def sampler(vocabulary: Vocabulary, grammar: Grammar, **fields: Any) -> Sampler:
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1} | fields
    return Sampler(SamplerSettings(**settings), [], grammar)


def flat(vocabulary: Vocabulary, seed: int = 0) -> Row:
    return np.random.default_rng(seed).standard_normal(vocabulary.size).astype(np.float32)


def written(vocabulary: Vocabulary, drawing: Sampler, most: int = 200, seed: int = 0) -> str:
    """The text of up to `most` draws from random rows, ended by an end token or the grammar's end."""
    text = b""
    for number in range(most):
        token = drawing.draw(flat(vocabulary, 1000 * seed + number))
        if token in vocabulary.end_tokens:
            break
        text += vocabulary.piece(token)
        if drawing.finished:
            break
    return text.decode()


# ---------------------------------------------------------------- vocabularies


@pytest.mark.parametrize("path", GENERATING, ids=lambda path: path.stem)
def test_every_vocabulary_writes_what_a_grammar_wants(path: Path) -> None:
    pattern = r"(sí|no|日本){1,3}; [a-z ]{5,40}\n[0-9]{3}"
    with vocabulary_of(path) as vocabulary, compiler_of(vocabulary) as compiler:
        grammar = compiled(compiler, f"start: /{pattern}/")
        for seed in range(5):
            drawing = sampler(vocabulary, grammar.copy(), seed=seed)
            assert re.fullmatch(pattern, written(vocabulary, drawing, seed=seed))


@pytest.mark.parametrize("path", GENERATING, ids=lambda path: path.stem)
def test_every_vocabulary_reads_json_as_llama_cpp_tokenises_it(path: Path) -> None:
    """The mask allows each token of a text that fulfils the grammar, and no control token ever."""
    with vocabulary_of(path) as vocabulary, compiler_of(vocabulary) as compiler:
        grammar = compiled(compiler, 'start: /[\\s\\S]/ "x"? _json\n_json: %json {"type": "object"}')
        controls = [
            token
            for token in range(vocabulary.size)
            if not vocabulary.piece(token) and token not in vocabulary.end_tokens
        ]
        # The record in the middle of a text: at its beginning some vocabularies put a space.
        tokens = vocabulary.tokenize("a:" + RECORD, add_special=False, parse_special=False)
        begin = next(i for i in range(len(tokens)) if b":" in vocabulary.piece(tokens[i]))
        pieces = [vocabulary.piece(token) for token in tokens[begin:]]
        if not b"".join(pieces).startswith(b":"):
            pytest.skip("this vocabulary joins the colon to a space")
        for token in tokens[begin:]:
            allowed = grammar.allowed(vocabulary.size)
            assert allowed[token], vocabulary.piece(token)
            assert grammar.allows(token)
            assert not allowed[controls].any()
            grammar.accept(token)
        assert b"".join(pieces) == b":" + RECORD.encode()
        assert grammar.finished


@pytest.mark.parametrize("path", GENERATING, ids=lambda path: path.stem)
def test_free_text_allows_every_text_token_and_no_control_token(path: Path) -> None:
    with vocabulary_of(path) as vocabulary, compiler_of(vocabulary) as compiler:
        allowed = compiled(compiler, "start: /(?s:.)*/").allowed(vocabulary.size)
        whole = [_is_text(vocabulary.piece(token)) for token in range(vocabulary.size)]
        ends = [token in vocabulary.end_tokens for token in range(vocabulary.size)]
        assert (allowed | ~np.array(whole))[~np.array(ends)].all()
        empty = [not vocabulary.piece(token) for token in range(vocabulary.size)]
        assert not allowed[np.array(empty) & ~np.array(ends)].any()
        assert allowed[np.array(ends)].all()


def _is_text(piece: bytes) -> bool:
    try:
        return bool(piece.decode())
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("stem", EMBEDDING_ONLY)
def test_a_vocabulary_that_cannot_spell_is_refused(stem: str) -> None:
    path = MORE / f"{stem}.gguf"
    if not path.exists():
        pytest.skip("needs $LLAMALEON_TEST_VOCABULARIES")
    with vocabulary_of(path) as vocabulary, pytest.raises(ValueError, match="sentinel"):
        grammar_tokenizer(vocabulary)


# ---------------------------------------------------------------- compiling


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("start: (", "Expected token"),
        ("start: other", "unknown name"),
        ('start: "a" <nobody>', "unknown special token"),
        ("start: <[99999999]>", "too large"),
        ('{"grammars": [{"json_schema": {"type": "strin"}}]}', "Invalid type"),
        ('{"grammars": [', "EOF|Expecting value"),
        ('{"grammars": [5]}', "invalid|int"),
        ('start: X\nX: "a" & "b"', "nothing fulfils it"),
        ("start: start", "nothing fulfils it"),
    ],
)
def test_what_is_no_grammar_is_refused_with_the_reason(compiler: Compiler, text: str, why: str) -> None:
    with pytest.raises(GrammarRefused, match=why):
        compiled(compiler, text)


def test_a_control_token_may_be_named(nano: Vocabulary, compiler: Compiler) -> None:
    control = next(t for t in range(nano.size) if not nano.piece(t) and t not in nano.end_tokens)
    name = nano.rendered(control)
    assert nano.control_token(name.decode()) == control
    grammar = compiled(compiler, f'start: "a" <[{control}]> "b"')
    drawing = sampler(nano, grammar)
    drawn = [drawing.draw(flat(nano, seed)) for seed in range(3)]
    assert b"".join(nano.rendered(token) for token in drawn) == b"a" + name + b"b"


def test_a_mark_is_a_token_where_the_vocabulary_has_it(nano: Vocabulary, compiler: Compiler) -> None:
    """Anything, up to a mark that no text can stand for; then what follows it."""
    control = next(t for t in range(nano.size) if not nano.piece(t) and t not in nano.end_tokens)
    mark = json.dumps(nano.rendered(control).decode())
    grammar = compiled(compiler, f'start: until_0 "done"\nuntil_0[lazy]: /(?s:.*)/ {mark}')
    for token in nano.tokenize("Thinking of <a> mark.", add_special=False, parse_special=False):
        assert grammar.allows(token)
        grammar.accept(token)
    assert not any(grammar.allows(token) for token in nano.end_tokens)
    grammar.accept(control)
    assert b"".join(nano.piece(token) for token in grammar.forced(9)) == b"done"


def test_a_long_chain_of_rules_ends_no_process(compiler: Compiler) -> None:
    chain = "\n".join(f'a{i}: a{i + 1} "x"' for i in range(3000))
    grammar = compiled(compiler, f'start: a0\n{chain}\na3000: "b"')
    assert grammar.forced(5)


def test_a_known_grammar_is_copied_not_compiled(nano: Vocabulary) -> None:
    with compiler_of(nano) as compiler:
        first = compiled(compiler, 'start: "ab"')
        first.accept(nano.tokenize("ab", add_special=False, parse_special=False)[0])
        again: list[Grammar | GrammarRefused] = []
        compiler.compile('start: "ab"', lambda: True, again.append)  # answered before it returns
        assert isinstance(again[0], Grammar)
        assert not again[0].finished


def test_what_was_cancelled_in_the_queue_is_not_compiled(nano: Vocabulary) -> None:
    """A thread compiles for all: who asks much and hangs up must not hold up the others."""
    results: dict[str, Grammar | GrammarRefused] = {}
    with compiler_of(nano) as compiler:
        for name, wanted in (("first", True), ("second", False), ("third", True)):
            take = functools.partial(results.__setitem__, name)
            compiler.compile(f'start: "{name}"', functools.partial(bool, wanted), take)
        compiled(compiler, 'start: "last"')  # one after the other
    assert results.keys() == {"first", "third"}


# ---------------------------------------------------------------- draws


def test_no_bias_lifts_a_masked_token(nano: Vocabulary, compiler: Compiler) -> None:
    grammar = compiled(compiler, "start: /[0-9]{4}/")
    words = [token for token in range(nano.size) if nano.piece(token).isalpha()]
    for temperature in (0.0, 1.0):
        drawing = sampler(nano, grammar.copy(), temperature=temperature, bias=dict.fromkeys(words, 1e6))
        assert re.fullmatch("[0-9]{4}", written(nano, drawing))


def test_penalties_and_truncations_choose_among_what_is_allowed(nano: Vocabulary, compiler: Compiler) -> None:
    grammar = compiled(compiler, "start: /[ab]{30}/")
    fields = {"frequency_penalty": 2.0, "presence_penalty": 1.0, "repeat_penalty": 1.3}
    for more in ({"top_k": 1}, {"top_p": 0.1}, {"min_p": 0.9}, {"temperature": 0.0}):
        text = written(nano, sampler(nano, grammar.copy(), **fields, **more))
        assert re.fullmatch("[ab]{30}", text)


def test_a_penalty_pushes_from_one_allowed_token_to_another(nano: Vocabulary, compiler: Compiler) -> None:
    row = np.full(nano.size, 9.0, np.float32)
    row[[not nano.piece(token).strip(b"ab") for token in range(nano.size)]] = -50.0
    for piece, logit in (("a", 0.5), ("b", 0.0)):
        row[nano.tokenize(piece, add_special=False, parse_special=False)[0]] = logit
    drawing = sampler(nano, compiled(compiler, "start: /[ab]{6}/"), temperature=0.0, frequency_penalty=1.0)
    assert [nano.piece(drawing.draw(row)) for _ in range(6)] == [b"a", b"b"] * 3


def test_draws_are_in_proportion_among_what_is_allowed(nano: Vocabulary, compiler: Compiler) -> None:
    grammar = compiled(compiler, 'start: "a" | "b" | "c"')
    single = {piece: nano.tokenize(piece, add_special=False, parse_special=False)[0] for piece in "abc"}
    row = np.full(nano.size, 9.0, np.float32)
    row[list(single.values())] = np.log([0.5, 0.3, 0.2])
    drawn = [sampler(nano, grammar.copy(), seed=seed).draw(row) for seed in range(2000)]
    shares = [drawn.count(token) / len(drawn) for token in single.values()]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.05)


def test_the_row_is_left_as_it_is(nano: Vocabulary, compiler: Compiler) -> None:
    for text in ("start: /(?s:.)*/", 'start: "abc"'):
        row = flat(nano)
        before = row.copy()
        sampler(nano, compiled(compiler, text)).draw(row)
        assert (row == before).all()


def test_forced_tokens_take_the_random_numbers_that_draws_would(nano: Vocabulary, compiler: Compiler) -> None:
    grammar = compiled(compiler, 'start: /[a-z]{2}/ ": certainly so; " /[a-z]{8}/')
    drawn, forced = (sampler(nano, grammar.copy(), frequency_penalty=0.5) for _ in range(2))
    one: list[int] = []
    other: list[int] = []
    while not drawn.finished:
        one.append(drawn.draw(flat(nano, len(one))))
    while not forced.finished:
        other.append(forced.draw(flat(nano, len(other))))
        other += forced.take_forced(99)
    assert one == other


def test_a_forbidden_forced_token_is_not_taken(nano: Vocabulary, compiler: Compiler) -> None:
    grammar = compiled(compiler, 'start: "a" /[0-9]/')
    letter = nano.tokenize("a", add_special=False, parse_special=False)[0]
    drawing = sampler(nano, grammar, bias={letter: -math.inf})
    assert drawing.take_forced(9) == []
    with pytest.raises(DeadEnd, match="logit_bias"):
        drawing.draw(flat(nano))


def test_an_end_that_is_all_there_is_comes_whatever_a_bias_says(nano: Vocabulary, compiler: Compiler) -> None:
    drawing = sampler(nano, compiled(compiler, 'start: ""'), bias=dict.fromkeys(nano.end_tokens, -math.inf))
    assert drawing.draw(flat(nano)) in nano.end_tokens


def test_guesses_fit_up_to_the_first_that_does_not(nano: Vocabulary, compiler: Compiler) -> None:
    grammar = compiled(compiler, "start: /[0-9]+/")
    digits = nano.tokenize("12345", add_special=False, parse_special=False)
    letters = nano.tokenize("x", add_special=False, parse_special=False)
    assert grammar.fitting([*digits, *letters, *digits]) == len(digits)
    assert grammar.fitting(digits) == len(digits)


def test_random_walks_of_a_schema_are_json(nano: Vocabulary, compiler: Compiler) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 9}, "b": {"enum": [1, None, "é"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    grammar = compiled(compiler, json.dumps({"grammars": [{"json_schema": schema}]}))
    for seed in range(20):
        value = json.loads(written(nano, sampler(nano, grammar.copy(), seed=seed), seed=seed))
        assert len(value["a"]) <= 9
        assert value["b"] in (1, None, "é")
