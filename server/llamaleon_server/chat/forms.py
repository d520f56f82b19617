"""What an answer must look like, as a grammar: of a JSON schema, a regular expression, or the client's own.

Grammars are llguidance's (its dialect of Lark, or its JSON form of several grammars), which the engine
compiles on the model's vocabulary. Here they are made, and checked without one, so that a wrong one is
refused by the name of the field that it stands in, before anything runs. That may take a second for a hostile
one: call it from a thread.

A schema is enforced whole, whether or not a client calls it strict: a word of it that cannot be enforced is
refused. JSON is written on one line, as `json.dumps` writes it: of free whitespace a small model can write
pages, and what is certain need not be computed. `x-guidance`, llguidance's own keyword, may say otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from llamaleon_server.chat.ask import Form
from llamaleon_server.engine.sampling.validity import deeply, validity
from llamaleon_server.errors import BadRequest

ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
MAX_BYTES = 64 * 1024  # of a schema or a grammar: what takes llguidance a second to read, at worst
PROBES = 500  # compilations that a search for the part at fault may take
# Where JSON Schema lets a validator look away: a format that it does not know.
HARMLESS = "Unknown format: "

Schema = dict[str, Any]

# Where a schema has schemas: under these keywords, and in the maps and the lists under these.
ONE = ("items", "additionalItems", "additionalProperties", "not", "contains", "propertyNames", "if")
MAPS = ("properties", "patternProperties", "$defs", "definitions")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")


def grammar_of(form: Form) -> str:
    """The grammar of a form.

    Raises: BadRequest naming `form.field`, of a schema down to the part at fault.
    """
    if form.kind == "json_object":
        return _json_form(json_rule({"type": "object"}, form.field))
    if form.kind == "json_schema":
        return _json_form(json_rule(form.value, form.field))
    text = form.value
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(f"{form.field} must be a text, and not an empty one.", param=form.field)
    _check_size(text, form.field)
    if form.kind == "regex":
        text = _from_regex(text)
    elif is_gbnf(text):
        text = _from_gbnf(text, form.field)
    check_grammar(text, form.field)
    return text


def json_rule(schema: Schema, field: str) -> str:
    """What stands behind `%json` in Lark, for JSON that fulfils `schema`.

    Raises: BadRequest, as `grammar_of`.
    """
    if not isinstance(schema, dict):
        raise BadRequest(f"{field} must be a JSON schema, an object.", param=field)
    own = schema.get("x-guidance", {})
    options = ONE_LINE | own if isinstance(own, dict) else own
    try:
        text = json.dumps(schema | {"x-guidance": options})
    except RecursionError as error:
        raise BadRequest(f"{field} is nested too deeply.", param=field) from error
    _check_size(text, field)
    problem, _ = validity(_json_form(text))
    if problem is not None and problem.startswith(HARMLESS):
        text = json.dumps(schema | {"x-guidance": {**options, "lenient": True}})
        problem, ignored = validity(_json_form(text))
        problem = problem or next((one for one in ignored if not one.startswith(HARMLESS)), None)
    if problem is not None:
        where = ".".join((field, *_place(schema, problem)))
        raise BadRequest(f"{where}: this schema cannot be enforced: {problem}", param=where)
    return text


def check_grammar(text: str, field: str) -> None:
    """Refuse what is no grammar of llguidance's. Whether a vocabulary can express it is the engine's to say.

    Raises: BadRequest naming `field`.
    """
    problem, _ = validity(text)
    if problem is not None:
        raise BadRequest(f"{field}: {problem}", param=field)


def is_gbnf(text: str) -> bool:
    """Whether a grammar is in llama.cpp's notation."""
    return re.search(r"(?m)^\s*root\s*::=", text) is not None


def _json_form(schema: str) -> str:
    return f'{{"grammars": [{{"json_schema": {schema}}}]}}'


def _check_size(text: str, field: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadRequest(f"{field} has half a surrogate pair: {error}.", param=field) from error
    if size > MAX_BYTES:
        raise BadRequest(f"{field} has {size} bytes; at most {MAX_BYTES} are taken.", param=field)


def _from_regex(pattern: str) -> str:
    """A text that the whole pattern matches, as `re.fullmatch` has it; but \\d, \\w and \\s are Unicode's."""
    from llguidance import LLMatcher  # the API process does without until somebody asks

    grammar: str = LLMatcher.grammar_from_regex(pattern)
    return grammar


def _from_gbnf(text: str, field: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        lark: str = deeply(lambda: gbnf_to_lark(text))
    except Exception as error:  # it raises bare ones, and IndexError at an unexpected end
        raise BadRequest(f"{field}: not a grammar of llama.cpp's: {error}", param=field) from error
    return lark


def _place(schema: Schema, problem: str) -> Iterator[str]:
    """The path to the smallest part of the schema that has the same problem on its own."""
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    part, left = schema, PROBES
    while True:
        for path, child in islice(_children(part), left):
            left -= 1
            text = json.dumps(shared | child | {"x-guidance": ONE_LINE})
            if problem in (validity(_json_form(text))[0] or ""):
                yield from path
                part = child
                break
        else:
            return


def _children(schema: Schema) -> Iterator[tuple[tuple[str, ...], Schema]]:
    for key, value in schema.items():
        places: list[tuple[tuple[str, ...], Any]] = []
        if key in ONE:
            places.append(((key,), value))
        if key in MAPS and isinstance(value, dict):
            places += [((key, name), child) for name, child in value.items()]
        if key in LISTS and isinstance(value, list):
            places += [((key, str(number)), child) for number, child in enumerate(value)]
        for path, child in places:
            if isinstance(child, dict):
                yield path, child
