"""A free-text report of a project -> exactly one JSON object. The one that prompting cannot replace."""

from __future__ import annotations

from llamaleon_trainer.nano import reports
from llamaleon_trainer.nano.words import Words


def draw(words: Words) -> tuple[str, str]:
    report = reports.draw(words)
    return reports.write(words.rng, report), reports.answer(report)
