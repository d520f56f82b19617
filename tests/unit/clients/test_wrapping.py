"""Words at the edge of the terminal, on a screen that does what a terminal does."""

from __future__ import annotations

import random
import re

import pytest

from llamaleon_clients.talk.wrapping import Wrapped

WRITTEN = re.compile(r"\x1b\[(\d+)D|\x1b\[K|.", re.DOTALL)


def screen(text: str, columns: int) -> list[str]:
    """Lines of a terminal so wide after it was written to."""
    lines, column = [""], 0
    for found in WRITTEN.finditer(text):
        if found[1]:
            column -= int(found[1])
            assert column >= 0
        elif found[0] == "\x1b[K":
            lines[-1] = lines[-1][:column]
        elif found[0] == "\n":
            lines.append("")
            column = 0
        else:
            if column == columns:
                lines.append("")
                column = 0
            lines[-1] = lines[-1][:column] + found[0] + lines[-1][column + 1 :]
            column += 1
    return lines


def shown(text: str, columns: int, seed: int = 0) -> list[str]:
    """The text in pieces of any size."""
    chance, wrapped, written = random.Random(seed), Wrapped(columns), ""
    while text:
        size = chance.randint(1, 5)
        written += wrapped.piece(text[:size])
        text = text[size:]
    return screen(written, columns)


def test_words_stay_whole() -> None:
    text = "El ñandú corre por la pampa y no se detiene."
    assert [line.rstrip() for line in shown(text, 13)] == [
        "El ñandú",
        "corre por la",
        "pampa y no",
        "se detiene.",
    ]


def test_what_is_longer_than_a_line_is_not_touched() -> None:
    link = "https://example.org/a/very/long/path"
    assert "".join(shown(link, 10)) == link
    lines = shown(f"see {link} now", 10)
    assert lines[0].rstrip() == "see"
    assert "".join(lines[1:]).startswith(link)


def test_lines_of_the_answer_stay() -> None:
    assert shown("a\n\n  b\n```\ncode\n", 20) == ["a", "", "  b", "```", "code", ""]


@pytest.mark.parametrize("seed", range(50))
def test_nothing_is_lost_or_broken(seed: int) -> None:
    chance = random.Random(seed)
    words = ["x" * chance.randint(1, 12) + str(n) for n in range(40)]
    columns = chance.randint(18, 40)
    lines = shown(" ".join(words), columns, seed)
    assert " ".join(lines).split() == words
    assert max(len(line) for line in lines) < columns
