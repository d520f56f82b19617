"""Whether a text is a grammar that llguidance takes. For any process: it needs no model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# llguidance follows references by recursion, and a chain of thousands of them overflows an ordinary thread's
# stack, which ends the process. Only what is used of it takes memory.
STACK_BYTES = 128 * 1024 * 1024

T = TypeVar("T")

_stack_size = threading.Lock()  # it is one setting of the whole process


def validity(grammar: str, tokenizer: LLTokenizer | None = None) -> tuple[str | None, list[str]]:
    """(What is wrong with it, warnings). Without a tokenizer, special tokens may be any.

    May take a second for a hostile grammar; the interpreter's lock is free meanwhile.
    """
    from llguidance import LLMatcher  # the API process does without until somebody asks

    wrong, messages = deeply(lambda: LLMatcher.validate_grammar_with_warnings(grammar, tokenizer))
    return (messages[0], []) if wrong else (None, messages)


def deeply(call: Callable[[], T]) -> T:
    """The call's value, from a thread whose stack is deep enough for any grammar of some 100 kB."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="grammar", daemon=True)
    with _stack_size:
        usual = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(usual)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
