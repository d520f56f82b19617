"""Grammars of answers, in llguidance's dialect of Lark. Source: llguidance, `docs/syntax.md`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llamaleon_server.chat.ask import Tool
from llamaleon_server.chat.forms import json_rule
from llamaleon_server.errors import BadRequest

ANYTHING = "/(?s:.*)/"


class Lark:
    """Rules, each added once, and their names. `engine.sampling.markers` says what is special about marks."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}  # text of a rule, from its colon on -> its name

    def rule(self, body: str) -> str:
        return self._named("rule", f": {body}")

    def mark(self, text: str) -> str:
        """Lazy: where an answer may be this mark or any text, it is the mark."""
        return self._named("marker", f"[lazy]: {quoted(text)}")

    def until(self, mark: str) -> str:
        """Anything up to the first `mark`, and that."""
        return self._named("until", f"[lazy]: {ANYTHING} {quoted(mark)}")

    def anything(self) -> str:
        return self._named("text", f": {ANYTHING}")

    def space(self) -> str:
        """At most a few line ends, or nothing."""
        return self._named("space", ": /[ \\n]{1,4}/") + "?"

    def not_beginning(self, head: str) -> str:
        """Anything that does not begin so."""
        body = f": {ANYTHING} & ~/{_in_regex(head)}(?s:.*)/"
        return self._named("TEXT", body)

    def json(self, tool: Tool) -> str:
        """A tool's arguments."""
        return f"%json {arguments_rule(tool)}"

    def call(self, tool: Tool, arguments: str) -> str:
        """A whole call as one JSON object."""
        schema = arguments_schema(tool)
        shared: dict[str, Any] = {
            word: schema.pop(word) for word in ("$defs", "definitions") if word in schema
        }
        named: dict[str, Any] = {"name": {"const": tool.name}, arguments: schema}
        whole: dict[str, Any] = {"type": "object", "properties": named, "required": list(named), **shared}
        return f"%json {arguments_rule(tool, {**whole, 'additionalProperties': False})}"

    def value(self, tool: Tool, schema: dict[str, Any]) -> str:
        """One value of a tool's arguments."""
        return f"%json {arguments_rule(tool, schema)}"

    def either(self, bodies: Sequence[str]) -> str:
        """A rule that is one of these."""
        return self.rule(" | ".join(bodies))

    def named(self, name: str, body: str, *others: tuple[str, str]) -> str:
        """Rules that refer to each other by their names."""
        for one, text in ((name, body), *others):
            self._rules[f": {text}"] = one
        return name

    def of(self, start: str) -> str:
        """The whole grammar."""
        return "\n".join([f"start: {start}", *(f"{name}{body}" for body, name in self._rules.items())])

    def _named(self, kind: str, body: str) -> str:
        return self._rules.setdefault(body, f"{kind}_{len(self._rules)}")


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def arguments_rule(tool: Tool, schema: dict[str, Any] | None = None) -> str:
    """What stands behind `%json` for a tool's arguments, or for a part of them.

    A schema with words that cannot be enforced is enforced without them, unless the tool is strict.

    Raises: BadRequest, naming the tool's schema.
    """
    schema = arguments_schema(tool) if schema is None else schema
    try:
        return json_rule(schema, tool.field)
    except BadRequest:
        if tool.strict:
            raise
    try:
        return json_rule({**schema, "x-guidance": {"lenient": True}}, tool.field)
    except BadRequest:
        return json_rule({key: schema[key] for key in ("type",) if key in schema}, tool.field)


def arguments_schema(tool: Tool) -> dict[str, Any]:
    return {**(tool.parameters or {}), "type": "object"}


def _in_regex(text: str) -> str:
    """Every character that could mean something, escaped."""
    return "".join(one if one.isalnum() or one in ' "_:,' else f"\\{one}" for one in text)
