"""Rows of any columns, made texts by a template: `Pregunta: {pregunta}` with `{{` and `}}` for braces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from string import Formatter
from typing import Any

from ..records import Record
from .row import DataRow, Malformed, kind


def check_template(template: str) -> list[str]:
    """The columns that it names, in order.

    Raises:
        ValueError: a brace that is none of a `{column}`, or no column at all.
    """
    columns = [column for _, column in _pieces(template) if column is not None]
    if not columns:
        raise ValueError("a text template names columns, such as {question}; this one names none")
    return list(dict.fromkeys(columns))


def templated(record: Record, template: str) -> DataRow:
    """Null is an empty text; lists and objects are written as JSON. Raises: Malformed."""
    value = record.value
    if not isinstance(value, dict):
        raise Malformed(f"a row must be a JSON object, not {kind(value)}")
    parts, filled = [], False
    for literal, column in _pieces(template):
        parts.append(literal)
        if column is not None:
            said = _said(value, column)
            filled = filled or bool(said.strip())
            parts.append(said)
    if not filled:
        raise Malformed(f"{', '.join(f'`{column}`' for column in check_template(template))}: all empty")
    return DataRow(line=record.line, text="".join(parts))


def _said(value: dict[str, Any], column: str) -> str:
    if column not in value:
        have = ", ".join(f"`{key}`" for key in value) or "none"
        raise Malformed(f"`{column}` of the text template is missing; its columns are {have}")
    found = value[column]
    if isinstance(found, bytes):
        raise Malformed(f"`{column}` is binary")
    if found is None:
        return ""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _pieces(template: str) -> Iterator[tuple[str, str | None]]:
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"the text template is not well formed: {error}; write {{{{ and }}}} for braces"
        ) from error
    for literal, column, form, conversion in pieces:
        if column is not None and (not column.strip() or form or conversion):
            shown = f"{column}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}"
            raise ValueError(
                f"{{{shown}}} in the text template is no {{column}}; write {{{{ and }}}} for braces"
            )
        yield literal, column
