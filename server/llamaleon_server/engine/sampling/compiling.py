"""Compiles requests' grammars in a thread of its own, and remembers the last few."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from llamaleon_server.binding.cores import roam
from llamaleon_server.binding.vocabulary import Vocabulary
from llamaleon_server.engine.sampling.grammar import DeadEnd, Grammar
from llamaleon_server.engine.sampling.markers import with_tokens
from llamaleon_server.engine.sampling.validity import deeply

if TYPE_CHECKING:
    from llguidance import LLTokenizer

REMEMBERED_CHARACTERS = 1 << 20  # of grammars; each takes up to 100 bytes of memory
MAX_LEXER_STATES = 50_000  # some 2 kB each, in every request that gets that far


class GrammarRefused(Exception):
    """This is no grammar, or one that this model's vocabulary cannot express. The message says why."""


Done = Callable[[Grammar | GrammarRefused], None]


class Compiler:
    """Of one engine. `post` hands work to the engine's thread, which alone calls the methods."""

    def __init__(self, vocabulary: Vocabulary, post: Callable[[Callable[[], None]], None]) -> None:
        self._vocabulary = vocabulary
        self._post = post
        self._pool = ThreadPoolExecutor(1, "grammar", initializer=roam)
        self._tokenizer: LLTokenizer | None = None  # made when it is first needed
        self._known: OrderedDict[str, Grammar] = OrderedDict()

    def compile(self, text: str, wanted: Callable[[], bool], done: Done) -> None:
        """Call `done` with a grammar of its own, from the engine's thread: at once if the text is known.

        Not if it is no longer `wanted`, which may be asked from any thread, when its turn has come.
        """
        known = self._known.get(text)
        if known is not None:
            self._known.move_to_end(text)
            done(known.copy())
            return

        def work() -> None:
            if not wanted():
                return
            try:
                result: Grammar | GrammarRefused = self._compiled(text)
            except GrammarRefused as refused:
                result = refused
            except Exception as error:  # in this thread nobody else would hear of it, and the client wait
                result = GrammarRefused(f"grammar: it cannot be read: {error!r}")
            self._post(lambda: self._finish(text, result, done))

        self._pool.submit(work)

    def close(self) -> None:
        """Wait for what is being compiled: it reads the vocabulary."""
        self._pool.shutdown(cancel_futures=True)

    def _finish(self, text: str, result: Grammar | GrammarRefused, done: Done) -> None:
        if isinstance(result, GrammarRefused):
            done(result)
            return
        self._known[text] = result
        while sum(map(len, self._known)) > REMEMBERED_CHARACTERS:
            self._known.popitem(last=False)
        done(result.copy())

    def _compiled(self, text: str) -> Grammar:
        # Engines without such requests do without these.
        from llguidance import LLMatcher, LLParserLimits

        from llamaleon_server.binding.grammar import grammar_tokenizer

        limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
        try:
            if self._tokenizer is None:
                self._tokenizer = grammar_tokenizer(self._vocabulary)
            tokenizer = self._tokenizer
            text = with_tokens(text, self._vocabulary.control_token)
            matcher = deeply(lambda: LLMatcher(tokenizer, text, log_level=0, limits=limits))
        except ValueError as error:  # no JSON, or a vocabulary that cannot be had
            raise GrammarRefused(f"grammar: {error}") from error
        if matcher.is_error():
            raise GrammarRefused(f"grammar: {matcher.get_error()}")
        grammar = Grammar(matcher, self._vocabulary.end_tokens)
        try:
            grammar.copy().allowed(self._vocabulary.size)
        except DeadEnd as end:
            raise GrammarRefused(f"grammar: nothing fulfils it: {end}") from end
        return grammar
