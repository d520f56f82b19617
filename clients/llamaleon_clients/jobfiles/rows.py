"""Rows of a local data file, read to be written again in another shape, with what stands in their columns."""

from __future__ import annotations

import atexit
import csv
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llamaleon_clients.errors import BadInput
from llamaleon_clients.session import existing
from llamaleon_clients.words import say

Row = dict[str, Any]


def rows_of(path: Path) -> Iterator[tuple[int, Row]]:
    """(line or number of the row, from 1; row).

    Raises:
        BadInput: no such file, not a kind that is read here, or a row that is no object, with its line.
    """
    existing(path, say("The training file"))
    readers = {".jsonl": _lines, ".json": _array, ".csv": _table}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise BadInput(
            say(
                "{path}: rows are put into another shape from {kinds} files only.",
                path=path,
                kinds=", ".join(readers),
            )
        )
    try:
        for line, row in reader(path):
            if not isinstance(row, dict):
                raise BadInput(say("{path}, line {line}: a row must be an object.", path=path, line=line))
            yield line, row
    except UnicodeDecodeError as error:
        raise BadInput(say("{path} is not UTF-8 text.", path=path)) from error
    except csv.Error as error:
        raise BadInput(say("{path}: not CSV: {reason}", path=path, reason=error)) from error


def written(rows: Iterable[Row], name: str) -> Path:
    """A file of JSON lines that is gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="llamaleon-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / f"{name}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _parsed(line, path, number)


def _array(path: Path) -> Iterator[tuple[int, Any]]:
    found = _parsed(path.read_text(encoding="utf-8-sig"), path, 1)
    if not isinstance(found, list):
        raise BadInput(say("{path}: an array of rows is needed.", path=path))
    yield from enumerate(found, 1)


def _table(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if key is not None}


def _parsed(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInput(
            say("{path}, line {line}: not JSON: {reason}", path=path, line=line, reason=error)
        ) from error
