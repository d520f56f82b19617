"""Records of a data file with the line each begins on: .jsonl, .json (an array), .csv, .parquet. No torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

CSV_DELIMITERS = (",", ";", "\t")


PARQUET_MAGIC = b"PAR1"


class Problem(NamedTuple):
    """Why one row cannot be trained on. `line` counts from 1 and is where the row begins.

    A Parquet file has no lines: there it is the number of the row.
    """

    line: int
    reason: str


class Record(NamedTuple):
    line: int
    value: Any


def read_records(path: Path, name: str | None = None) -> Iterator[Record | Problem]:
    """Yield every record, or the reason why one cannot be read. Tolerates a BOM, CRLF and blank lines.

    `name` is the file's own name when it is stored under another. `.csv` is read as CSV; otherwise the first
    character decides between a JSON array and JSON lines, whatever the file is called, and its first bytes
    tell a Parquet file.
    """
    if is_parquet(path):
        from .parquet import parquet_records

        yield from parquet_records(path)
        return
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        yield Problem(1, "the file is UTF-16; save it as UTF-8")
        return
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        yield Problem(1, "the file is empty")
    elif (name or path.name).lower().endswith(".csv"):
        yield from _read_whole(data, _csv_records)
    elif data.lstrip().startswith(b"["):
        yield from _read_whole(data, _array_records)
    else:
        yield from _line_records(data)


def is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC


def _read_whole(data: bytes, read: Any) -> Iterator[Record | Problem]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        yield Problem(data.count(b"\n", 0, error.start) + 1, _not_utf8(error))
        return
    yield from read(text)


def _line_records(data: bytes) -> Iterator[Record | Problem]:
    for line, raw in enumerate(data.split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            yield Record(line, json.loads(raw.decode()))
        except UnicodeDecodeError as error:
            yield Problem(line, _not_utf8(error))
        except json.JSONDecodeError as error:
            yield Problem(line, f"not valid JSON: {error.msg} at column {error.colno}")
        except (RecursionError, ValueError) as error:  # nested too deep; a number too long for int()
            yield Problem(line, f"not valid JSON: {error}")


def _array_records(text: str) -> Iterator[Record | Problem]:
    """Elements of one JSON array, decoded one at a time so that each knows its line."""
    decoder = json.JSONDecoder()
    position, line = text.index("[") + 1, text.count("\n", 0, text.index("[")) + 1

    def skip(position: int, line: int) -> tuple[int, int]:
        end = position
        while end < len(text) and text[end] in " \t\r\n":
            end += 1
        return end, line + text.count("\n", position, end)

    position, line = skip(position, line)
    if text[position : position + 1] == "]":
        yield Problem(line, "the array is empty")
        return
    while True:
        try:
            value, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            yield Problem(error.lineno, f"not valid JSON: {error.msg} at column {error.colno}")
            return
        except (RecursionError, ValueError) as error:
            yield Problem(line, f"not valid JSON: {error}")
            return
        yield Record(line, value)
        line += text.count("\n", position, end)
        position, line = skip(end, line)
        separator = text[position : position + 1]
        if separator == "]":
            if text[position + 1 :].strip():
                yield Problem(line, "text after the end of the array")
            return
        if separator != ",":
            yield Problem(line, "not valid JSON: expected `,` or `]` after this element")
            return
        position, line = skip(position + 1, line)


def _csv_records(text: str) -> Iterator[Record | Problem]:
    header = text.lstrip().split("\n", 1)[0]
    delimiter = max(CSV_DELIMITERS, key=header.count)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # the whole process's: a cell may be a book
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    end = 0
    try:
        for cells in reader:
            line, end = end + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
            elif len(cells) != len(names):
                yield Problem(line, f"{len(cells)} cells where the header has {len(names)}")
            else:
                yield Record(line, dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        yield Problem(end + 1, f"not valid CSV: {error}")


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} cannot be decoded; save the file as UTF-8"
