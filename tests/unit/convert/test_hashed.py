"""The SHA-256 is of what lies in the file, however it was cut."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from llamaleon_convert.hashed import Hashed

MANY = [100] * (2 * Hashed.MOST_WAITING)


@pytest.mark.parametrize("sizes", [[], [0], [1, 2, 3], [10], [9, 1, 30, 4], MANY])
def test_the_sum_is_that_of_the_file(sizes: list[int], tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file, Hashed(file) as hashed:
        for number, size in enumerate(sizes):
            data = bytes([number]) * size
            hashed.write(data if number % 2 else memoryview(data))
    assert path.stat().st_size == sum(sizes)
    assert hashed.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_writer_that_fails_leaves_no_thread_waiting(tmp_path: Path) -> None:
    before = threading.active_count()
    with (
        pytest.raises(RuntimeError, match="disk"),
        (tmp_path / "file").open("wb") as file,
        Hashed(file) as hashed,
    ):
        for _ in range(Hashed.MOST_WAITING):
            hashed.write(bytes(1 << 20))
        raise RuntimeError("the disk is full")
    assert threading.active_count() == before
