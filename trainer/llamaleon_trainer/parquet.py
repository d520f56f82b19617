"""Rows of a Parquet file. pyarrow is imported when the first one is read: it takes 60 MB."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .records import Problem, Record

BATCH_ROWS = 1000
NOT_INSTALLED = "Parquet files need pyarrow: pip install 'llamaleon[parquet]'"


def parquet_records(path: Path) -> Iterator[Record | Problem]:
    """Every row, numbered from 1, with values as JSON has them; bytes that are no text stay bytes.

    What is null inside an object is left out: Parquet gives every object of a column all the fields that one
    of them has.
    """
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError:
        yield Problem(1, NOT_INSTALLED)
        return
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for value in batch.to_pylist():
                    row += 1
                    yield Record(row, {str(key): plain(one) for key, one in value.items()})
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield Problem(row + 1, f"not valid Parquet: {str(error).splitlines()[0]}")
        return
    if row == 0:
        yield Problem(1, "the file has no rows")


def plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        if value and all(isinstance(one, tuple) and len(one) == 2 for one in value):  # a map
            return {str(key): plain(one) for key, one in value if one is not None}
        return [plain(one) for one in value]
    if isinstance(value, bytes):  # some writers do not say that a column is text
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return str(value)
    return value
