"""The arguments of a tool call: JSON text, from clients and from models, as the object that it says."""

from __future__ import annotations

from typing import Any

import msgspec

from llamaleon_server.wire.depth import too_deep


def arguments_of(text: str) -> dict[str, Any]:
    """The object that a call's JSON text says, for protocols that give it as one.

    Of a call that was cut off, or of a model that wrote no JSON, the text stands under `__arguments__`: the
    client sees what was written, and its own check of the schema fails.

    >>> arguments_of('{"city": "Lima"}')
    {'city': 'Lima'}
    >>> arguments_of('{"city": "Li')
    {'__arguments__': '{"city": "Li'}
    """
    found = json_object(text)
    return {"__arguments__": text} if found is None else found


def json_object(text: str) -> dict[str, Any] | None:
    """Nothing at all is the empty object. None for what is none, or deeper than a request may be.

    >>> json_object(""), json_object("[]"), json_object('{"a":' * 500 + "1" + "}" * 500)
    ({}, None, None)
    """
    try:
        found = None if too_deep(text.encode()) else msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
