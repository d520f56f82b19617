"""Near-duplicates: found whatever their order, and not mistaken for rows that share their prompt."""

from __future__ import annotations

import random
from itertools import pairwise

from llamaleon_trainer.similar import THRESHOLD, near_duplicates

LETTERS = "abcdefghijlmnñopqrstuvzáéíóú"


def words(chance: random.Random, count: int = 2000) -> list[str]:
    return ["".join(chance.choices(LETTERS, k=chance.randint(3, 9))) for _ in range(count)]


class Writer:
    """Texts of random words, and copies with a few words changed."""

    def __init__(self, seed: int = 1) -> None:
        self._chance = random.Random(seed)
        self._words = words(self._chance)

    def text(self, count: int = 60) -> str:
        return " ".join(self._chance.choices(self._words, k=count))

    def changed(self, text: str, times: int) -> str:
        said = text.split()
        for place in self._chance.sample(range(len(said)), times):
            said[place] = self._chance.choice(self._words)
        return " ".join(said)


def jaccard(one: str, other: str) -> float:
    """Of the sets of runs of eight bytes, counted one by one."""
    sets = [
        {data[at : at + 8] for at in range(len(data) - 7)}
        for data in (" ".join(text.lower().split()).encode() for text in (one, other))
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_copies_with_a_word_changed_are_found_and_others_are_not() -> None:
    writer = Writer()
    texts = [writer.text() for _ in range(300)]
    copies = {place: writer.changed(texts[place], 1) for place in range(0, 300, 10)}
    found = near_duplicates(texts + list(copies.values()))
    assert [(pair.first, pair.second) for pair in found] == [
        (place, 300 + index) for index, place in enumerate(copies)
    ]
    assert all(THRESHOLD <= pair.similarity < 1 for pair in found)


def test_the_similarity_of_short_texts_is_exact_and_that_of_long_ones_near() -> None:
    writer = Writer(2)
    for length, tolerance in ((15, 1e-9), (3000, 0.1)):
        one = writer.text(length)
        other = writer.changed(one, length // 15)
        [pair] = near_duplicates([one, other], threshold=0.5)
        assert abs(pair.similarity - jaccard(one, other)) <= tolerance


def test_case_and_white_space_make_no_difference() -> None:
    one = Writer(3).text()
    [pair] = near_duplicates([one, one.upper().replace(" ", "\n\n")])
    assert pair == (0, 1, 1.0)


def test_equal_texts_are_no_pair() -> None:
    one = Writer(4).text()
    assert near_duplicates([one, one, one]) == []


def test_the_order_does_not_matter() -> None:
    writer = Writer(5)
    texts = [writer.text() for _ in range(80)]
    texts += [writer.changed(text, 1) for text in texts[:20]]
    shuffled = random.Random(6).sample(texts, len(texts))

    def pairs(given: list[str]) -> set[frozenset[str]]:
        return {frozenset((given[pair.first], given[pair.second])) for pair in near_duplicates(given)}

    assert pairs(texts) == pairs(shuffled)
    assert len(pairs(texts)) == 20


def test_the_frame_of_a_prompt_makes_no_likeness() -> None:
    """Rows of 90 % instructions: what differs decides."""
    writer = Writer(7)
    frame = writer.text(400)
    texts = [f"{frame} {writer.text(30)}" for _ in range(100)]
    assert jaccard(texts[0], texts[1]) > THRESHOLD
    texts.append(f"{frame} {writer.changed(texts[5].removeprefix(frame), 1)}")
    assert [(pair.first, pair.second) for pair in near_duplicates(texts)] == [(5, 100)]


def test_a_group_hangs_together() -> None:
    """Of many versions of one text not every pair is named, but all are connected."""
    writer = Writer(8)
    texts = [writer.text() for _ in range(400)]
    first = texts[0]
    texts += [writer.changed(first, 1) for _ in range(8)]
    group = {0}
    for _ in range(9):
        for pair in near_duplicates(texts):
            if group & {pair.first, pair.second}:
                group |= {pair.first, pair.second}
    assert group == {0, *range(400, 408)}


def test_short_and_few_texts() -> None:
    assert near_duplicates([]) == []
    assert near_duplicates(["a"]) == []
    assert near_duplicates(["", "a", "2+2=4", "2+3=5", "\ud83d"]) == []
    sums = [f"¿Cuánto es {n} + {n + 1}?" for n in range(200)]
    assert near_duplicates(sums) == []


def test_a_long_repetition_is_one_text() -> None:
    texts = ["la " * 5000, "la " * 4000 + "fin de una cosa que no es la misma que las demás"]
    assert all(first < second for first, second in pairwise(pair.first for pair in near_duplicates(texts)))
