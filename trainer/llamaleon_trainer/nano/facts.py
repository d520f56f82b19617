"""Facts in free text: what nano learns extraction and look-up on.

A `Fact` is one value, the sentence that states it, and the names by which a prompt may ask for it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Lang = Literal["es", "en"]
Value = str | int | None | list[dict[str, str | int]] | list[str]


@dataclass(frozen=True)
class Fact:
    """One thing that a text says, or (with `value` None) does not say."""

    keys: tuple[str, ...]
    ask: tuple[str, ...]
    value: Value
    say: str
    item_keys: tuple[str, ...] = ()  # of the objects, where the value is a list of them


def absent(fact: Fact) -> Fact:
    """The same question about a text that does not answer it."""
    return Fact(fact.keys, fact.ask, None, "", ())


@dataclass(frozen=True)
class Kind:
    """How one field is asked for and stated, whatever its value."""

    keys: tuple[str, ...]
    ask: tuple[str, ...]
    say: tuple[str, ...]

    def fact(self, rng: random.Random, value: Value, shown: str | None = None) -> Fact:
        text = rng.choice(self.say).format(v=shown if shown is not None else value)
        return Fact(self.keys, self.ask, value, text)


def kind(keys: str, ask: str, say: str) -> Kind:
    """Written as three strings, `|` between the alternatives."""
    return Kind(tuple(keys.split()), tuple(ask.split("|")), tuple(say.split("|")))


def tell(rng: random.Random, facts: list[Fact]) -> str:
    """The facts as free text: the first stays first, the others in any order."""
    rest = [fact.say for fact in facts[1:] if fact.say]
    rng.shuffle(rest)
    return " ".join([facts[0].say, *rest])
