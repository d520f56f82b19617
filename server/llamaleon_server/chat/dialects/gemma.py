"""Gemma 4, and FunctionGemma with other marks: arguments in a notation of their own.

    <|tool_call>call:f{city:<|"|>Lima<|"|>,days:[1,2]}<tool_call|>

Gemma 2 and 3 have no way of their own: see `generic`. Source: the chat template of google/gemma-4-31B-it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec.structs import replace

from llamaleon_server.chat.ask import Message, Tool
from llamaleon_server.chat.dialects.dialect import (
    Cut,
    Malformed,
    Marked,
    Reading,
    Setup,
    Steps,
    Tags,
    function,
)
from llamaleon_server.chat.dialects.lark import Lark, arguments_schema, quoted
from llamaleon_server.chat.dialects.parameters import (
    AS_JSON,
    Schema,
    check_shape,
    choices,
    definitions,
    json_of,
    properties,
    referred,
    required,
    types,
)

MAX_DEPTH = 6  # of schemas in schemas; below, any value
MAX_LEVELS = 64  # of values in values that are read: a model may write brackets for ever
NUMBER = r"/-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?/"
INTEGER = "/-?(0|[1-9][0-9]{0,30})/"


class Gemma(Marked):
    name = "gemma"
    mark = "<|tool_call>"
    has_control_tokens = True
    tags: ClassVar[Tags | None] = Tags("<|channel>thought", "<channel|>")
    end: ClassVar[str] = "<tool_call|>"
    quote: ClassVar[str] = '<|"|>'

    def detects(self, template: str) -> bool:
        return self.mark in template and self.quote in template

    def described(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        listed = "\n".join(json.dumps(function(tool), ensure_ascii=False) for tool in tools)
        return (
            f"You can call these functions:\n{listed}\n\n"
            f"To call one, write {self.mark}call:NAME{{parameter:value}}{self.end}; "
            f"texts stand between {self.quote}."
        )

    def written(self, calls: Sequence[tuple[str, Any]]) -> str:
        return "".join(
            f"{self.mark}call:{name}{self._written(arguments)}{self.end}" for name, arguments in calls
        )

    def _written(self, value: Any) -> str:
        if isinstance(value, str):
            return f"{self.quote}{value}{self.quote}"
        if isinstance(value, dict):
            return "{" + ",".join(f"{key}:{self._written(one)}" for key, one in sorted(value.items())) + "}"
        if isinstance(value, list):
            return "[" + ",".join(self._written(one) for one in value) + "]"
        return json.dumps(value)

    def prepared(self, messages: list[Message]) -> list[Message]:
        """Calls, their results and what was then answered are one turn, in this order.

        What was said before the calls has no place in it and is left out, as llama.cpp does.
        """
        rest, turns = list(messages), []
        while rest:
            turn = rest.pop(0)
            if turn.get("tool_calls") and rest and rest[0]["role"] == "tool":
                turn = {**turn, "content": "", "tool_responses": []}
                while rest and rest[0]["role"] == "tool":
                    turn["tool_responses"].append(_response(rest.pop(0)))
                if rest and rest[0]["role"] == "assistant" and not rest[0].get("tool_calls"):
                    turn["content"] = rest.pop(0)["content"]
            turns.append(turn)
        return turns

    # ------------------------------------------------------------ reading

    def read_calls(self, reading: Reading, setup: Setup) -> Steps[None]:
        yield from reading.space()
        yield from reading.expect("call:")
        name: list[str] = []
        if (yield from reading.until(("{",), name.append)) is None:
            raise Cut
        reading.begin_call("".join(name).strip())
        yield from self._read_object(reading, 0)
        yield from reading.space()
        yield from reading.expect(self.end)

    def _read_object(self, reading: Reading, level: int) -> Steps[None]:
        """What follows `{`."""
        reading.arguments("{")
        between = ""
        yield from reading.space()
        ended = yield from reading.one_of(("}",))
        while ended != "}":
            yield from reading.space()
            key: list[str] = []
            if (yield from reading.one_of((self.quote,))) is not None:
                yield from reading.until((self.quote,), key.append)
                yield from reading.expect(":")
            elif (yield from reading.until((":",), key.append)) is None:
                raise Cut
            reading.arguments(f"{between}{json.dumps(''.join(key), ensure_ascii=False)}: ")
            yield from self._read_value(reading, level + 1)
            between = ", "
            yield from reading.space()
            ended = yield from reading.expect(",", "}")
        reading.arguments("}")

    def _read_value(self, reading: Reading, level: int) -> Steps[None]:
        if level > MAX_LEVELS:
            raise Malformed
        yield from reading.space()
        begun = yield from reading.one_of((self.quote, "{", "["))
        if begun == "{":
            yield from self._read_object(reading, level)
        elif begun == "[":
            yield from self._read_list(reading, level)
        elif begun is not None:
            reading.arguments('"')
            yield from reading.until((self.quote,), lambda text: reading.arguments(_escaped(text)))
            reading.arguments('"')
        elif reading.is_cut((self.quote,)):
            raise Cut
        else:
            yield from _read_bare(reading)

    def _read_list(self, reading: Reading, level: int) -> Steps[None]:
        """What follows `[`."""
        reading.arguments("[")
        between = ""
        yield from reading.space()
        ended = yield from reading.one_of(("]",))
        while ended != "]":
            reading.arguments(between)
            yield from self._read_value(reading, level + 1)
            between = ", "
            yield from reading.space()
            ended = yield from reading.expect(",", "]")
        reading.arguments("]")

    # ------------------------------------------------------------ the grammar

    def calls(self, lark: Lark, setup: Setup) -> str:
        call = lark.either([self._call_rule(lark, tool) for tool in setup.tools])
        return f"{call} ({lark.mark(self.mark)} {call})*" if setup.parallel else call

    def _call_rule(self, lark: Lark, tool: Tool) -> str:
        check_shape(tool)
        arguments = self._object_rule(lark, tool, arguments_schema(tool), 0)
        return f"{quoted(f'call:{tool.name}')} {arguments} {lark.mark(self.end)}"

    def _object_rule(self, lark: Lark, tool: Tool, schema: Schema, depth: int) -> str:
        """Properties in the order of their names, as the template writes them."""
        tool = replace(tool, parameters=schema)
        known = properties(tool)
        if not known and schema.get("additionalProperties") is not False and depth:
            return self._any_object(lark)
        needed = set(required(tool))
        later = lark.rule('"}"')  # what may follow once something is written, and while nothing is
        first = later
        for name, one in sorted(known.items(), reverse=True):
            written = lark.rule(f"{quoted(f'{name}:')} {self._value_rule(lark, tool, one, depth + 1)}")
            begun = f"{written} {later}"
            first = lark.rule(begun if name in needed else f"{begun} | {first}")
            later = lark.rule(f'"," {begun}' if name in needed else f'"," {begun} | {later}')
        return f'"{{" {first}'

    def _value_rule(self, lark: Lark, tool: Tool, schema: Schema, depth: int) -> str:
        if "$ref" in schema:
            schema = referred(schema)
        listed = choices(schema)
        if listed is not None:
            quote = lark.mark(self.quote)
            return f"{quote} ({' | '.join(quoted(one) for one in listed)}) {quote}"
        allowed = types(schema)
        if not allowed or depth > MAX_DEPTH:
            return self._any_value(lark)
        if allowed <= AS_JSON:
            return lark.value(tool, schema)
        kinds = {
            "string": f"{lark.mark(self.quote)} {lark.until(self.quote)}",
            "number": NUMBER,
            "integer": INTEGER,
            "boolean": '("true" | "false")',
            "null": '"null"',
        }
        rules = [kinds[one] for one in sorted(allowed & kinds.keys())]
        if "array" in allowed:
            items = schema.get("items")
            shared = definitions(schema)
            inner = {**items, **shared} if isinstance(items, dict) else shared
            one = self._value_rule(lark, tool, inner, depth + 1)
            rules.append(f'"[" ({one} ("," {one})*)? "]"')
        if "object" in allowed:
            rules.append(self._object_rule(lark, tool, schema, depth))
        return lark.either(rules)

    def _any_value(self, lark: Lark) -> str:
        text = f"{lark.mark(self.quote)} {lark.until(self.quote)}"
        simple = f'{text} | {NUMBER} | "true" | "false" | "null"'
        several = '"[" (any_value ("," any_value)*)? "]"'
        pair = "/[A-Za-z0-9_]{1,64}:/ any_value"
        either = f'"{{" ({pair} ("," {pair})*)? "}}"'
        return lark.named("any_value", f"{simple} | {several} | any_object", ("any_object", either))

    def _any_object(self, lark: Lark) -> str:
        self._any_value(lark)
        return "any_object"


class FunctionGemma(Gemma):
    name = "function-gemma"
    mark = "<start_function_call>"
    end = "<end_function_call>"
    quote = "<escape>"
    tags = None


def _response(result: Message) -> dict[str, Any]:
    try:
        said = json_of(result["content"])
    except ValueError:
        said = None
    return {"name": result["name"], "response": said if isinstance(said, dict) else result["content"]}


def _read_bare(reading: Reading) -> Steps[None]:
    """A number, or a word."""
    written: list[str] = []
    while (character := (yield from reading.character())) and character not in ",}]<":
        written.append(reading.take(1))
    text = "".join(written).strip()
    if not character:
        raise Cut
    if not text:
        raise Malformed
    try:
        json_of(text)
    except ValueError:
        text = json.dumps(text, ensure_ascii=False)
    reading.arguments(text)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
