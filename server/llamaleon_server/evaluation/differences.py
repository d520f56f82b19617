"""An answer beside its reference: which words are too many, and which are missing."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from msgspec import Struct

from llamaleon_server.evaluation.words import ENGLISH, Words

SAME, WRONG, MISSING = "same", "wrong", "missing"
LEAST_ALIKE = 0.35  # of 1: below it, marks would be on nearly every word and tell nothing
LONGEST = 1200  # characters of a text that are shown

_PIECE = re.compile(r"\w+|\s+|[^\w\s]")


class Piece(Struct, frozen=True):
    """`kind`: in both, in the answer only, or in the reference only."""

    kind: str
    text: str


def marked(answer: str, reference: str, words: Words = ENGLISH) -> list[Piece]:
    """The answer in pieces; as one piece, SAME, where the two have next to nothing in common."""
    answer, reference = cut(answer.strip(), words), cut(reference.strip(), words)
    given, wanted = _PIECE.findall(answer), _PIECE.findall(reference)
    matcher = SequenceMatcher(None, given, wanted, autojunk=False)
    if matcher.ratio() < LEAST_ALIKE:
        return [Piece(SAME, answer)]
    found = []
    for what, begin, end, other_begin, other_end in matcher.get_opcodes():
        if what == "equal":
            found.append(Piece(SAME, "".join(given[begin:end])))
            continue
        if end > begin:
            found.append(Piece(WRONG, "".join(given[begin:end])))
        if other_end > other_begin:
            found.append(Piece(MISSING, "".join(wanted[other_begin:other_end])))
    return found


def cut(text: str, words: Words, longest: int = LONGEST) -> str:
    if len(text) <= longest:
        return text
    more = words.say("{count} more characters", count=words.number(f"{len(text) - longest:,}"))
    return f"{text[:longest]} […{more}]"
