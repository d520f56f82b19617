"""The arguments of a tool call, for protocols that give them as an object."""

from __future__ import annotations

from typing import Any

import msgspec


def arguments_of(text: str) -> dict[str, Any]:
    """The object that a call's JSON text says.

    Of a call that was cut off, or of a model that wrote no JSON, the text stands under `__arguments__`: the
    client sees what was written, and its own check of the schema fails.

    >>> arguments_of('{"city": "Lima"}')
    {'city': 'Lima'}
    >>> arguments_of('{"city": "Li')
    {'__arguments__': '{"city": "Li'}
    """
    try:
        found = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"__arguments__": text}
