"""Arguments that are not written as JSON: what their values may be, by the tool's schema."""

from __future__ import annotations

import json
from typing import Any

from llamaleon_server.chat.ask import Tool
from llamaleon_server.chat.dialects.lark import arguments_schema
from llamaleon_server.errors import BadRequest

Schema = dict[str, Any]


def properties(tool: Tool) -> dict[str, Schema]:
    """By name, each with the definitions that it may refer to."""
    schema = arguments_schema(tool)
    shared = definitions(schema)
    found = schema.get("properties")
    if not isinstance(found, dict):
        return {}
    return {name: {**one, **shared} if isinstance(one, dict) else shared for name, one in found.items()}


def required(tool: Tool) -> list[str]:
    found = (tool.parameters or {}).get("required")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def types(schema: Schema) -> set[str]:
    """Of the values that a schema allows; empty where it does not say."""
    if "$ref" in schema:
        return types(referred(schema))
    if "enum" in schema or "const" in schema:
        return {_type_of(value) for value in schema.get("enum", [schema.get("const")])}
    said = schema.get("type")
    if isinstance(said, str):
        return {said}
    if isinstance(said, list):
        return {one for one in said if isinstance(one, str)}
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            shared = definitions(schema)
            found = [types({**one, **shared}) for one in schema[word] if isinstance(one, dict)]
            return set().union(*found) if all(found) else set()
    return set()


def referred(schema: Schema) -> Schema:
    """What `$ref` names, if that is a definition of the same schema; else nothing is known."""
    target: Any = schema
    parts = str(schema["$ref"]).split("/")
    for part in parts[1:] if parts[0] == "#" else ["?"]:
        target = target.get(part) if isinstance(target, dict) else None
    if not isinstance(target, dict) or "$ref" in target:
        return {}
    return {**definitions(schema), **target}


def definitions(schema: Schema) -> Schema:
    """What its parts may refer to."""
    return {word: value for word, value in schema.items() if word in ("$defs", "definitions")}


def only_text(schema: Schema) -> bool:
    return types(schema) == {"string"}


def choices(schema: Schema) -> list[str] | None:
    """The texts that a schema allows, if it lists them."""
    if "$ref" in schema:
        schema = referred(schema)
    listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(listed, list) and listed and all(isinstance(one, str) for one in listed):
        return listed
    return None


def value_of(text: str, schema: Schema) -> Any:
    """What a value written without quotes is: JSON, where the schema allows that, else text."""
    allowed = types(schema)
    if allowed == {"string"}:
        return text
    try:
        value = json_of(text)
    except ValueError:
        return text
    return value if not allowed or _type_of(value) in allowed or _type_of(value) == "integer" else text


def json_of(text: str) -> Any:
    """Raises: ValueError, also for numbers that are not finite, and for what is nested too deeply."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


# Types whose values every notation writes alike.
AS_JSON = frozenset({"number", "integer", "boolean", "null"})
# Words that say nothing about a value.
_SILENT = frozenset({"title", "description", "default", "examples", "$defs", "definitions", "$schema", "$id"})
_TEXT = frozenset({"type", "enum", "const", "$ref"}) | _SILENT
_SHAPE = _TEXT | {"properties", "required", "items", "anyOf", "oneOf", "additionalProperties", "x-guidance"}


def check_texts(tool: Tool) -> None:
    """Where only texts are not JSON. Raises: BadRequest, for a strict tool with more to say of one."""
    if tool.strict:
        for name, schema in properties(tool).items():
            if only_text(schema):
                _check_words(schema, _TEXT, f"{tool.field}.properties.{name}")


def check_shape(tool: Tool) -> None:
    """Where nothing is JSON. Raises: BadRequest, for a strict tool with more to say than shapes and types."""
    if tool.strict:
        _check_shape(arguments_schema(tool), tool.field)


def _check_shape(schema: Any, place: str) -> None:
    if not isinstance(schema, dict):
        return
    allowed = types(schema)
    if allowed and allowed <= AS_JSON:
        return
    _check_words(schema, _SHAPE, place)
    if "enum" in schema and choices(schema) is None:
        raise _unenforced(f"{place}.enum")
    if schema.get("additionalProperties") not in (None, False):
        raise _unenforced(f"{place}.additionalProperties")
    for word in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(word), dict):
            for name, one in schema[word].items():
                _check_shape(one, f"{place}.{word}.{name}")
    _check_shape(schema.get("items"), f"{place}.items")
    for word in ("anyOf", "oneOf"):
        for at, one in enumerate(schema[word] if isinstance(schema.get(word), list) else ()):
            _check_words(one, _TEXT - {"enum", "const", "$ref"}, f"{place}.{word}[{at}]")


def _check_words(schema: Schema, known: frozenset[str], place: str) -> None:
    if unknown := sorted(schema.keys() - known):
        raise _unenforced(f"{place}.{unknown[0]}")


def _unenforced(place: str) -> BadRequest:
    return BadRequest(
        f"{place} cannot be enforced in the way in which this model writes calls: leave it out, or `strict`.",
        param=place,
    )


def _type_of(value: Any) -> str:
    kinds = {
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        list: "array",
        dict: "object",
        type(None): "null",
    }
    return kinds[type(value)]
