"""The user's language: English, or Spanish where the locale or $LLAMALEON_LANG says so.

The English sentence is the key, so that the code reads, and a sentence without a translation still speaks.
"""

from __future__ import annotations

import os
from typing import Any

VARIABLES = ("LLAMALEON_LANG", "LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set decides


def language() -> str:
    """`es` or `en`."""
    chosen = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), "")
    return "es" if chosen.lower().startswith("es") else "en"


def say(english: str, **values: Any) -> str:
    """The sentence in the user's language, with `{name}` filled in."""
    text = english
    if language() == "es":
        from llamaleon_clients.spanish import SENTENCES

        text = SENTENCES.get(english, english)
    return text.format(**values) if values else text
