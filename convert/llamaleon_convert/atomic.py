"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llamaleon_convert.errors import ConvertError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: takes its name, synced, when the block ends well; else is removed."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise ConvertError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ConvertError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
