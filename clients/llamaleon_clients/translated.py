"""The help of commands and options in the user's language, when it is asked for.

Texts are looked up in pieces: a help by its paragraphs (those with examples only stay as they are), an
option's without its `[default: ...]`.
"""

from __future__ import annotations

import re
from typing import Any

from llamaleon_clients.words import language

EXAMPLES = "\b"  # click's mark of a paragraph whose lines stay
_DEFAULT = re.compile(r"\s*\[default: (?P<value>.*)\]$")


def capitals(command: Any) -> None:
    """Show arguments as `NAME` and not as `{name}`: help texts speak of them so."""
    for parameter in command.params:
        if parameter.param_type_name == "argument" and parameter.metavar is None:
            parameter.metavar = parameter.name.upper()
    for inner in getattr(command, "commands", {}).values():
        capitals(inner)


def translate(command: Any) -> None:
    """Change a click command's texts in place, with those of its parameters and of the commands below it."""
    if language() == "en":
        return
    from llamaleon_clients.spanish.usage import lay_out
    from llamaleon_clients.spanish_help import TEXTS

    lay_out(command)
    for field in ("help", "short_help", "epilog"):
        if text := getattr(command, field, None):
            setattr(command, field, "\n\n".join(TEXTS.get(piece, piece) for piece in paragraphs(text)))
    for parameter in command.params:
        if text := getattr(parameter, "help", None):
            phrase, default = split_default(text)
            shown = None if default is None else f"[por defecto: {TEXTS.get(default, default)}]"
            parameter.help = " ".join(part for part in (TEXTS.get(phrase, phrase), shown) if part)
    for inner in getattr(command, "commands", {}).values():
        translate(inner)


def paragraphs(text: str) -> list[str]:
    return text.split("\n\n")


def split_default(text: str) -> tuple[str, str | None]:
    """What an option's help says, and the default that it names."""
    found = _DEFAULT.search(text)
    return (text, None) if found is None else (text[: found.start()], found["value"])


def is_example(paragraph: str) -> bool:
    """Commands to type, which are the same in every language."""
    lines = [line for line in paragraph.removeprefix(EXAMPLES).splitlines() if line.strip()]
    return paragraph.startswith(EXAMPLES) and all(line.startswith("  ") for line in lines)
