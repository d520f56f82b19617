"""A free-text report of a project -> exactly one JSON object. The one that prompting cannot replace.

What is hard for a small model is to copy where something occurs twice: digits that repeat, tickets and names
that begin alike. By chance that is rare, so a share of the rows to train on is made so. The rows to judge by
never are: they are reports as they come.
"""

from __future__ import annotations

import random
from dataclasses import replace

from llamaleon_trainer.nano import reports
from llamaleon_trainer.nano.reports import Report
from llamaleon_trainer.nano.words import COMPANY_FORMS, HEADS, ID_PREFIXES, PROJECT_FORMS, TAILS, Words

CONFUSING_SHARE = 0.6
SAME_WORD_SHARE = 0.3  # of those: a word of the milestone is in the next step, too
LONG_WORD = 5  # letters: "de" and "del" confuse nobody
MOST_HOURS = 72  # as in `reports.draw`


def draw(words: Words) -> tuple[str, str]:
    report = reports.draw(words)
    if words.split == "train" and words.rng.random() < CONFUSING_SHARE:
        report = confusing(words, report)
    return reports.write(words.rng, report), reports.answer(report)


def confusing(words: Words, report: Report) -> Report:
    """The same with values that are easily mistaken for one another: a few digits make all its numbers."""
    rng = words.rng
    digits = rng.sample("0123456789", rng.choice((2, 2, 3, 4)))
    project, client = _similar_stems(words)
    article, milestone, next_step = report.article, report.milestone, report.next_step
    if rng.random() < SAME_WORD_SHARE:
        article, milestone, next_step = _phrases_with_one_word(words)
    budget = _number(rng, digits, rng.choice((2, 3, 4, 5, 6, 6)))
    return replace(
        report,
        project=rng.choice(PROJECT_FORMS).format(n=project),
        client=rng.choice(COMPANY_FORMS).format(n=client),
        budget_eur=budget // 10 * 10 if rng.random() < 0.5 else budget,
        article=article,
        milestone=milestone,
        next_step=next_step,
        blockers=_similar_blockers(words, digits, rng.choice((1, 2, 3, 3))),
    )


def _phrases_with_one_word(words: Words) -> tuple[str, str, str]:
    """The milestone's article, the milestone and the next step."""
    while True:
        (article, milestone), next_step = words.milestone(), words.next_step()
        if any(len(word) >= LONG_WORD for word in {*milestone.split()} & {*next_step.split()}):
            return article, milestone, next_step


def _number(rng: random.Random, digits: list[str], length: int) -> int:
    while True:
        drawn = "".join(rng.choices(digits, k=length))
        if not drawn.startswith("0"):
            return int(drawn)


def _similar_stems(words: Words) -> tuple[str, str]:
    """Two names with the same beginning or the same end."""
    rng = words.rng
    while True:
        head, tail = rng.choice(HEADS), rng.choice(TAILS)
        other = head + rng.choice(TAILS) if rng.random() < 0.5 else rng.choice(HEADS) + tail
        if other != head + tail and words.allowed(head + tail) and words.allowed(other):
            return head + tail, other


def _similar_blockers(words: Words, digits: list[str], count: int) -> tuple[tuple[str, int], ...]:
    """Different tickets, mostly of one prefix, and their hours."""
    rng = words.rng
    prefixes = rng.sample(ID_PREFIXES, rng.choice((1, 1, 2)))
    found: dict[str, int] = {}
    while len(found) < count:
        ticket = f"{rng.choice(prefixes)}-{_number(rng, digits, rng.choice((2, 3, 4, 4)))}"
        hours = _number(rng, digits, 2)
        if words.allowed(ticket):
            found.setdefault(ticket, hours if hours <= MOST_HOURS else rng.randint(1, MOST_HOURS))
    return tuple(found.items())
