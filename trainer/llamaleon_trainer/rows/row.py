"""A row as we understand it, whatever shape its file had."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct

from ..records import Problem


class DataRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One example: `messages`, or `prompt` and `completion`, or `text`; the others are None.

    Messages are OpenAI's, with string contents (text parts are joined); `weight` 0 marks an answer that is
    context only. `tools` are the row's OpenAI tool definitions. A preference row is the answer liked better,
    with the one liked less in `rejected`: of the same form, and the same up to the answers.
    """

    line: int
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    tools: list[dict[str, Any]] | None = None
    rejected: DataRow | None = None

    def content(self) -> bytes:
        """What identifies the row wherever it stands in the file."""
        fields: list[Any] = [self.messages, self.prompt, self.completion, self.text, self.tools]
        if self.rejected is not None:
            fields.append(self.rejected.content().decode())
        return json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()

    def said(self) -> str:
        """What is the row's own in words: no system prompt, no tools, and of two answers the better one."""
        if self.messages is not None:
            own = [m for m in self.messages if m["role"] not in ("system", "developer")]
            return "\n".join(str(m["content"]) or json.dumps(m.get("tool_calls")) for m in own)
        return "\n".join(part for part in (self.prompt, self.completion, self.text) if part)


class Dataset(Struct, frozen=True):
    """`shape` is one of SHAPES or another package's, or "" when no row could be read.

    `unit` is what `line` counts: lines of the file, or its rows where it has no lines (Parquet).
    """

    shape: str
    rows: list[DataRow]
    problems: list[Problem]
    unit: str = "line"


class Malformed(ValueError):
    """One row breaks the rules of its shape; the message says how."""


def string(value: dict[str, Any], field: str, *, may_be_empty: bool = False) -> str:
    """Raises: Malformed."""
    found = value.get(field)
    if found is None:
        raise Malformed(f"`{field}` is missing")
    if not isinstance(found, str):
        raise Malformed(f"`{field}` must be a string, not {kind(found)}")
    if not found.strip() and not may_be_empty:
        raise Malformed(f"`{field}` is empty")
    return found


def kind(value: Any) -> str:
    """What a value is, in JSON's words."""
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", type(None): "null"}
    names[bytes] = "binary"
    return names.get(type(value), "a number")
