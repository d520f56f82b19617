"""Calls that are JSON objects: `{"name": ..., "arguments": {...}}`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llamaleon_server.chat.dialects.dialect import Malformed, Reading, Setup, Steps
from llamaleon_server.chat.dialects.lark import Lark, quoted

ARGUMENTS = ("arguments", "parameters")


def read_object(reading: Reading, known: Sequence[str] | None = None) -> Steps[None]:
    """`{"name": ..., "arguments": {...}}`, in any order, with whatever else.

    Raises: Malformed; also for a name that is none of `known`. Cut.
    """
    yield from reading.expect("{")
    name: str | None = None
    held: str | None = None  # arguments that came before the name
    begun = False
    end = ","
    while end == ",":
        yield from reading.space()
        key = yield from reading.json_string()
        yield from reading.space()
        yield from reading.expect(":")
        yield from reading.space()
        if key == "name":
            name = yield from reading.json_string()
            if known is not None and name not in known:
                raise Malformed
        elif key in ARGUMENTS and not begun:
            if name is None:
                held = yield from _collected(reading)
            else:
                reading.begin_call(name)
                begun = True
                yield from _read_arguments(reading)
        else:
            yield from reading.json_value(_ignore)
        yield from reading.space()
        end = yield from reading.expect(",", "}")
    if name is None:
        raise Malformed
    if not begun:
        reading.begin_call(name)
        reading.arguments(held or "{}")


def _read_arguments(reading: Reading) -> Steps[None]:
    if (yield from reading.character()) == '"':  # JSON in a string: some models write it so
        reading.arguments((yield from reading.json_string()))
    else:
        yield from reading.json_value(reading.arguments)


def _collected(reading: Reading) -> Steps[str]:
    written: list[str] = []
    yield from reading.json_value(written.append)
    return "".join(written)


def _ignore(text: str) -> None:
    """Not of interest."""


def read_list(reading: Reading) -> Steps[None]:
    """`[{...}, {...}]`, or one object. Raises: Malformed; Cut."""
    if (yield from reading.character()) != "[":
        yield from read_object(reading)
        return
    yield from reading.expect("[")
    end = ","
    while end == ",":
        yield from reading.space()
        yield from read_object(reading)
        yield from reading.space()
        end = yield from reading.expect(",", "]")


def object_rule(lark: Lark, setup: Setup, arguments: str = "arguments", before: str = "") -> str:
    """One call as a JSON object, of any of the tools; `before` is what stands before it."""
    heads = {tool.name: f'{before}{{"name": {json.dumps(tool.name)}, "{arguments}": ' for tool in setup.tools}
    return lark.either([f'{quoted(heads[tool.name])} {lark.json(tool)} "}}"' for tool in setup.tools])


def list_rule(lark: Lark, setup: Setup) -> str:
    """The bracket is no lexeme of its own: where the answer may also be text, that would swallow it."""
    more = f' (", " {object_rule(lark, setup)})*' if setup.parallel else ""
    return f'{object_rule(lark, setup, before="[")}{more} "]"'


def as_json(calls: Sequence[tuple[str, Any]]) -> list[str]:
    return [
        json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False) for name, arguments in calls
    ]
