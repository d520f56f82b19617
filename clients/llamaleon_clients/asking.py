"""Yes or no, asked at the terminal in the user's language."""

from __future__ import annotations

import typer

from llamaleon_clients.words import say


def confirmed(question: str) -> bool:
    """No unless somebody says yes. Asked on standard error: standard output is the result's."""
    typed: str = typer.prompt(f"{question} [{say('y/N')}]", default="", show_default=False, err=True)
    return typed.strip().lower()[:1] in {"y", say("y/N")[0]}
