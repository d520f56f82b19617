"""Every row of a file: its shape, and what is wrong with each malformed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..records import Problem, Record, is_parquet, read_records
from ..shapes import other_shapes
from . import preferences, supervised
from .row import DataRow, Dataset, Malformed, kind
from .template import check_template, templated

Parser = Callable[[Record], DataRow]
PARSERS: dict[str, Parser] = {
    "chat": supervised.chat,
    "prompt": supervised.prompt,
    "alpaca": supervised.alpaca,
    "sharegpt": supervised.sharegpt,
    "vertex": supervised.vertex,
    "gemini": supervised.gemini,
    "preference": preferences.preference,
    "text": supervised.text,
}
SHAPES = tuple(PARSERS)
EXPECTED = (
    "`messages`, `conversations`, `prompt` and `completion`, `instruction` and `output`, `input_text` and "
    "`output_text`, `contents`, `chosen` and `rejected`, `input` and `preferred_output`, or `text`; other "
    "columns need a text template"
)


def read_dataset(path: Path, name: str | None = None, text_template: str | None = None) -> Dataset:
    """Read every row of a file. Never raises for what the file contains: see `Dataset.problems`.

    Args:
        name: the file's own name when it is stored under another.
        text_template: makes a text of each row's columns, whatever shape they would have had.

    Raises:
        OSError: the file cannot be read at all.
        ValueError: a text template that is not well formed.
    """
    if text_template is not None:
        check_template(text_template)
    shape, rows, problems = "", list[DataRow](), list[Problem]()
    for item in read_records(path, name):
        if isinstance(item, Problem):
            problems.append(item)
            continue
        try:
            if text_template is not None:
                found, row = "text", templated(item, text_template)
            else:
                found = _shape_of(item.value)
                if shape and found != shape:
                    raise Malformed(
                        f"a {found} row in a file whose first row is {shape}; use one shape per file"
                    )
                row = _parsed(item, found)
            _refuse_what_is_no_text(row)
        except Malformed as error:
            problems.append(Problem(item.line, str(error)))
        except RecursionError:  # also of JSON within a string
            problems.append(Problem(item.line, "nested too deep"))
        else:
            shape = found
            rows.append(row)
    if not rows and not problems:
        problems.append(Problem(1, "the file has a header and no rows"))
    return Dataset(shape, rows, problems, "row" if is_parquet(path) else "line")


def _shape_of(value: Any) -> str:
    if not isinstance(value, dict):
        raise Malformed(f"a row must be a JSON object, not {kind(value)}")
    if preferences.is_preference(value):
        return "preference"
    if "messages" in value:
        return "vertex" if _has_authors(value["messages"]) else "chat"
    for keys, shape in (
        (("conversations", "conversation"), "sharegpt"),
        (("contents",), "gemini"),
        (("input_text", "output_text"), "vertex"),
        (("prompt", "completion"), "prompt"),
        (("instruction", "output"), "alpaca"),
        (("text",), "text"),
    ):
        if not value.keys().isdisjoint(keys):
            return shape
    for other in other_shapes():
        if other.matches(value):
            return other.name
    have = ", ".join(f"`{key}`" for key in value) or "none"
    raise Malformed(f"no known shape: its keys are {have}; expected {EXPECTED}")


def _has_authors(messages: Any) -> bool:
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and "author" in first and "role" not in first


def _parsed(record: Record, shape: str) -> DataRow:
    if shape in PARSERS:
        return PARSERS[shape](record)
    other = next(one for one in other_shapes() if one.name == shape)
    try:
        rewritten = Record(record.line, other.rewrite(record.value))
    except ValueError as error:
        raise Malformed(f"as {shape}: {error}") from error
    ours = _shape_of(rewritten.value)
    if ours not in PARSERS:
        raise Malformed(f"the shape {shape} made a row of the shape {ours}, which is none of ours")
    return PARSERS[ours](rewritten)


def _refuse_what_is_no_text(row: DataRow) -> None:
    """JSON may escape half a character ("\\ud83d"), which no tokenizer can encode; Parquet may hold bytes."""
    try:
        row.content()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise Malformed(f"contains half a character ({half}) that is not valid Unicode") from error
    except TypeError as error:
        raise Malformed(f"holds what JSON cannot: {error}") from error
